"""Bringing finished work to the store that several machines share: what was made before it was named, or while it was away."""

from __future__ import annotations

import logging

from sae_pipeline.stages import reachable
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store.damage import damage_of, quarantine

logger = logging.getLogger(__name__)


def upload_finished(ctx: StudyContext, *, quarantines: bool = True) -> None:
    """Publish every artifact that the study reaches, that this home holds and that the shared store lacks.

    Where the store holds another artifact under the same fingerprint, the home's gives way: all machines rest on the same bits.

    Args:
        ctx: the study and its home.
        quarantines: whether what is damaged goes to quarantine, and what the store holds otherwise gives way, so that it and what
            rests on it is computed again; only where a computation follows.

    Raises:
        SharedStoreError: the shared store cannot be reached; nothing is lost.
    """
    shared = ctx.store.shared
    if shared is None:
        return
    shared.refresh()
    for _, artifact in reachable.artifacts(ctx):
        if not artifact.folder.exists():
            continue
        if (artifact.stage, artifact.fingerprint) in shared.listing():
            published = shared.find(artifact.stage, artifact.fingerprint, ctx.store.remembered) if quarantines else None
            if published is not None and not published.is_the(artifact.manifest):
                ctx.store.give_way(artifact, published)
            continue
        if damage := damage_of(artifact.folder):
            logger.warning("the %s artifact %s is damaged (%s) and is not uploaded", artifact.stage, artifact.fingerprint, damage)
            if quarantines:
                quarantine(artifact.folder)
        else:
            # A lease, mine or that of another who is making the same, keeps the upload from being cleaned away as a leftover.
            with shared.leases.hold(artifact.stage, artifact.fingerprint, wait=False):
                ctx.store.share(artifact)

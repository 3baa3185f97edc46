"""Reclaiming disk: removing what no named study reaches."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from sae_pipeline.stages import reachable, sources
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Store, exclusive, is_held, storage_errors

KEPT_STAGES = ("installed_text",)
"""Parsed text of installed packages: small, slow to make again, and the same for every study."""


@dataclass(frozen=True)
class Reclaimed:
    """A folder that no named study needs."""

    stage: str
    fingerprint: str
    bytes: int


def reclaim(studies: Sequence[StudyContext], *, dry_run: bool = False) -> list[Reclaimed]:
    """Remove every artifact, half-finished draft and quarantined folder that none of the studies reaches; say what went.

    All studies must share one home. What another process works on is left alone.
    """
    store = studies[0].store
    kept = {(artifact.stage, artifact.fingerprint) for ctx in studies for _, artifact in reachable.artifacts(ctx)}
    kept |= {wanted for ctx in studies for wanted in reachable.under_way(ctx)}
    kept |= {("spool", folder.name) for ctx in studies for folder in sources.spools(ctx)}
    gone = []
    for stage, folder in _folders(store):
        if (stage, folder.name) in kept:
            continue
        lock = store.root / ".partial" / stage / f"{folder.name}.lock"
        if is_held(lock) or is_held(folder / ".lock"):
            continue
        gone.append(Reclaimed(stage, folder.name, sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())))
        if not dry_run:
            with storage_errors(folder), exclusive(lock):
                shutil.rmtree(folder)
            lock.unlink(missing_ok=True)
    return gone


def _folders(store: Store) -> Iterator[tuple[str, Path]]:
    """(stage, folder) of everything that may go: published artifacts, drafts left behind, and what was quarantined."""
    for parent in (store.root, store.root / ".partial"):
        for stage in sorted(path for path in parent.glob("[!.]*") if path.is_dir() and path.name not in KEPT_STAGES):
            yield from ((stage.name, folder) for folder in sorted(stage.iterdir()) if folder.is_dir())
    quarantine = store.root / ".quarantine"
    if quarantine.is_dir():
        yield from (("quarantine", folder) for folder in sorted(quarantine.iterdir()))

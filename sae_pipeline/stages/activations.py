"""The activation stage: every requested hook point of a lane from one forward pass over its corpus.

Where a mix's activations are not cached, the stage only surveys them (their statistics, and the batch size they are
computed in), and training computes them anew. Either way they are the same numbers under the same identity, as long as the
batch size is the same: an automatic one follows free memory, so what is trained on them is identified by the one found.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import corpora, slices, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, Draft, digest
from sae_pipeline.study import HookPoint, Study

if TYPE_CHECKING:
    from sae_pipeline.activations.live import LiveActivations
    from sae_pipeline.activations.shards import ActivationShards

STAGE = "activations"
SURVEY = "surveys"
SURVEYED_TOKENS = 262_144
"""Tokens of a mix that its statistics are taken from when nothing is cached."""


def is_cached(study: Study, lane: str) -> bool:
    """Whether a lane's activations are stored; those of evaluation sets always are, every SAE reads them."""
    return study.activations.cache or corpora.is_held_out(lane)


def _stage(ctx: StudyContext, lane: str) -> str:
    return STAGE if is_cached(ctx.study, lane) else SURVEY


def _inputs(ctx: StudyContext, corpus: Artifact, model: subject.Subject) -> dict[str, Any]:
    return {
        "study": slices.activations(ctx.study),
        "corpus": corpus.content,
        "subject": model.artifact.content,
        "backend": f"transformer-lens {version('transformer-lens')}, raw weights",
    }


def lane_version(ctx: StudyContext, lane: str) -> str:
    """Identity of a lane's activations wherever they are taken: the data version Dagster stamps on all partitions of a run."""
    return digest(STAGE, slices.VERSIONS[STAGE], _inputs(ctx, corpora.need(ctx, lane), subject.need(ctx)))


def _identity(inputs: dict[str, Any], point: HookPoint) -> tuple[str, dict[str, Any]]:
    inputs = inputs | {"layer": point.layer, "site": point.site}
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext, lane: str, point: HookPoint) -> Artifact | None:
    """The activations (or their survey) at one hook point of a lane, if the stage has run."""
    corpus, model = corpora.find(ctx, lane), subject.find(ctx)
    if corpus is None or model is None:
        return None
    return ctx.store.find(_stage(ctx, lane), _identity(_inputs(ctx, corpus, model), point)[0])


def need(ctx: StudyContext, lane: str, point: HookPoint) -> Artifact:
    """The activations (or their survey) at one hook point of a lane, which must exist."""
    return ctx.store.open(_stage(ctx, lane), _identity(_inputs(ctx, corpora.need(ctx, lane), subject.need(ctx)), point)[0])


def harvest(ctx: StudyContext, lane: str, points: Sequence[HookPoint]) -> dict[HookPoint, Artifact]:
    """Cache (or survey) the activations at the given points, those that are missing in one pass; a cache resumes at the shard."""
    corpus, model = corpora.need(ctx, lane), subject.need(ctx)
    inputs = _inputs(ctx, corpus, model)
    done: dict[HookPoint, Artifact] = {}
    drafts: dict[HookPoint, Draft] = {}
    with ExitStack() as stack:
        for point in sorted(points):
            fingerprint, of_point = _identity(inputs, point)
            draft = stack.enter_context(ctx.store.draft(_stage(ctx, lane), fingerprint, of_point, resumable=is_cached(ctx.study, lane)))
            if isinstance(draft, Artifact):
                done[point] = draft
            else:
                drafts[point] = draft
        if drafts:
            summaries = _compute(ctx, corpus, model, drafts, cached=is_cached(ctx.study, lane))
            done |= {point: draft.publish(summaries[point]) for point, draft in drafts.items()}
    return done


def _compute(
    ctx: StudyContext, corpus: Artifact, model: subject.Subject, drafts: dict[HookPoint, Draft], *, cached: bool
) -> dict[HookPoint, dict[str, Any]]:
    from sae_pipeline.activations import harvest as engine
    from sae_pipeline.corpora.corpus import Corpus

    settings = ctx.study.activations
    how: dict[str, Any] = {"batch_size": settings.batch_size, "storage_dtype": settings.storage_dtype, "shard_tokens": settings.shard_tokens}
    with ctx.compute.lease() as device:
        loaded = model.load(ctx.study.subject.dtype, device)
        hooks = {draft.path: loaded.hook_name(point.site, point.layer) for point, draft in drafts.items()}
        if cached:
            summaries = engine.harvest(loaded, Corpus.load(corpus), hooks, **how)
        else:
            summaries = engine.survey(loaded, Corpus.load(corpus), hooks, tokens=SURVEYED_TOKENS, **how)
    return {point: summaries[draft.path] | {"hook": hooks[draft.path]} for point, draft in drafts.items()}


def shards(artifact: Artifact) -> ActivationShards:
    """A reader over the cached activations of a hook point."""
    from sae_pipeline.activations.shards import ActivationShards

    return ActivationShards.open(artifact)


def training_rows(ctx: StudyContext, mix: str, point: HookPoint, device: str) -> ActivationShards | LiveActivations:
    """The rows an SAE is trained on: read from the cache, or computed block by block where there is none."""
    artifact = need(ctx, mix, point)
    if is_cached(ctx.study, mix):
        return shards(artifact)
    from sae_pipeline.activations.blocks import Cut
    from sae_pipeline.activations.live import LiveActivations
    from sae_pipeline.corpora.corpus import Corpus

    figures = artifact.summary
    cut = Cut(figures["n_contexts"], figures["context_length"], figures["shard_contexts"], figures["batch_size"])
    model = subject.need(ctx).load(ctx.study.subject.dtype, device)
    hook = model.hook_name(point.site, point.layer)
    return LiveActivations(model, Corpus.load(corpora.need(ctx, mix)), hook, cut, figures["storage_dtype"])

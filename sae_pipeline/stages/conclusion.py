"""The study's tables, text, position, matching and concept tables, findings, foreign SAEs and history as one: what the warehouse holds and the report is drawn from."""

from __future__ import annotations

from sae_pipeline.stages import concepts, findings, foreign, history, matching, positions, tables, text, warehouse
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, exclusive


def artifacts(ctx: StudyContext) -> list[Artifact]:
    """Those that have been computed for the study as it is."""
    measured = (positions.find_tables(ctx), matching.find_tables(ctx), concepts.find_tables(ctx))
    found = (tables.find(ctx), text.find(ctx), *measured, findings.find(ctx), foreign.find(ctx), history.find(ctx))
    return [artifact for artifact in found if artifact is not None]


def publish(ctx: StudyContext) -> None:
    """Bring the warehouse up to what has been computed."""
    foreign.gather(ctx)
    with exclusive(ctx.home.locks / f"warehouse-{ctx.study.name}.lock"):
        warehouse.publish(ctx, artifacts(ctx))
        tables.publish_dense_latents(ctx)


def is_published(ctx: StudyContext) -> bool:
    """Whether the warehouse holds all that has been computed, and nothing else."""
    return warehouse.holds(ctx, artifacts(ctx)) and tables.holds_dense_latents(ctx)

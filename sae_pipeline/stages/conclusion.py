"""The study's tables, text and position tables, findings and foreign SAEs as one: what the warehouse holds and the report is drawn from."""

from __future__ import annotations

from sae_pipeline.stages import findings, foreign, positions, tables, text, warehouse
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact


def artifacts(ctx: StudyContext) -> list[Artifact]:
    """Those that have been computed for the study as it is."""
    found = (tables.find(ctx), text.find(ctx), positions.find_tables(ctx), findings.find(ctx), foreign.find(ctx))
    return [artifact for artifact in found if artifact is not None]


def publish(ctx: StudyContext) -> None:
    """Bring the warehouse up to what has been computed."""
    foreign.gather(ctx)
    warehouse.publish(ctx, artifacts(ctx))
    tables.publish_dense_latents(ctx)


def is_published(ctx: StudyContext) -> bool:
    """Whether the warehouse holds all that has been computed, and nothing else."""
    return warehouse.holds(ctx, artifacts(ctx)) and ctx.home.dense_latents(ctx.study.name).exists()

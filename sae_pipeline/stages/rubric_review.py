"""How the study's rubrics mark its SAEs, as a page beside its report."""

from __future__ import annotations

from typing import Any

from sae_pipeline.stages import pages, slices, tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, digest

STAGE = "rubric_review"
TABLE = "rubric_review"


def _identity(ctx: StudyContext, gathered: Artifact) -> tuple[str, dict[str, Any]]:
    inputs = {"tables": gathered.content, "name": ctx.study.name}
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext) -> Artifact | None:
    """The review, if it has been written."""
    gathered = tables.find(ctx)
    return ctx.store.find(STAGE, _identity(ctx, gathered)[0]) if gathered else None


def is_published(ctx: StudyContext) -> bool:
    """Whether the review has been written and its copy is where the user looks for it."""
    artifact = find(ctx)
    return artifact is not None and pages.is_published(artifact, ctx.home.rubric_page(ctx.study.name).parent, under="page/")


def review(ctx: StudyContext) -> Artifact:
    """Write the table and the page, and put the page where the user looks for it."""
    gathered = tables.need(ctx)
    fingerprint, inputs = _identity(ctx, gathered)
    with ctx.store.draft(STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            artifact = draft
        else:
            import pandas as pd

            from sae_pipeline.analysis.health.review import review as reviewed
            from sae_pipeline.reports.build import write_report
            from sae_pipeline.reports.rubric_review import rubric_review_report

            found = reviewed(*(pd.read_parquet(gathered.file(f"{name}.parquet")) for name in (tables.HEALTH, tables.DISAGREEMENTS)))
            found.to_parquet(draft.path / f"{TABLE}.parquet", index=False)
            page = draft.path / "page"
            page.mkdir()
            write_report(page, rubric_review_report(ctx.study.name, found))
            artifact = draft.publish({"rules": len(found), "remarks": int((found["remark"] != "").sum())})
    pages.publish_page(ctx, artifact, ctx.home.rubric_page(ctx.study.name).parent, under="page/")
    return artifact

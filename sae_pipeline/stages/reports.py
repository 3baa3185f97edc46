"""The report stage: the comparison report in the store, and its copy in the study's folder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import concepts, findings, matching, pages, positions, slices, subject, tables, text
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, digest
from sae_pipeline.study.fragments import PROPOSED_FILE, as_yaml

if TYPE_CHECKING:
    from sae_pipeline.reports.frames import StudyFrames
    from sae_pipeline.study import Study

STAGE = "report"
SECTIONS = (
    "summary",
    "matrix",
    "expansion",
    "budget",
    "architecture",
    "seed",
    "layer",
    "tradeoff",
    "health",
    "generalisation",
    "finding",
    "recommendations",
    "remedies",
    "limitations",
    "training",
    "text",
    "activations",
    "lineage",
)
"""In every report; those of matching, concepts and positions are in it where the study asks for them."""

ASKED_FOR = {"positions": positions, "matching": matching, "concepts": concepts}
"""Parts that a study file may ask for, and the stages that gather their tables."""


def _identity(ctx: StudyContext, gathered: Artifact, described: Artifact, found: Artifact) -> tuple[str, dict[str, Any]]:
    inputs = {"study": slices.report(ctx.study), "tables": gathered.content, "text": described.content, "findings": found.content}
    inputs |= {name: asked.content for name, stage in ASKED_FOR.items() if (asked := stage.find_tables(ctx)) is not None}
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext) -> Artifact | None:
    """The report, if it has been built."""
    gathered, described, found = tables.find(ctx), text.find(ctx), findings.find(ctx)
    return ctx.store.find(STAGE, _identity(ctx, gathered, described, found)[0]) if gathered and described and found else None


def is_published(ctx: StudyContext) -> bool:
    """Whether the report has been built and its copy is where the user looks for it."""
    artifact = find(ctx)
    return artifact is not None and pages.is_published(artifact, ctx.home.report(ctx.study.name).parent)


def build(ctx: StudyContext) -> Artifact:
    """Write the report and put a copy where the user looks for it."""
    gathered, described, found = tables.need(ctx), text.need(ctx), findings.need(ctx)
    fingerprint, inputs = _identity(ctx, gathered, described, found)
    with ctx.store.draft(STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            artifact = draft
        else:
            from sae_pipeline.reports.build import build_report

            artifact = draft.publish(build_report(draft.path, ctx.study, _frames(ctx, gathered, described, found)))
    advised = _proposed_study(ctx)
    pages.publish_page(ctx, artifact, ctx.home.report(ctx.study.name).parent, beside={PROPOSED_FILE: advised} if advised is not None else None)
    return artifact


def _frames(ctx: StudyContext, gathered: Artifact, described: Artifact, found: Artifact) -> StudyFrames:
    """Everything that the study has measured and found."""
    import pandas as pd

    from sae_pipeline.reports.frames import StudyFrames

    def read(artifact: Artifact, *names: str) -> dict[str, Any]:
        return {name: pd.read_parquet(artifact.file(f"{name}.parquet")) for name in names}

    asked: dict[str, Any] = {name: stage.frames(stage.need_tables(ctx)) for name, stage in ASKED_FOR.items() if getattr(ctx.study, name) is not None}
    if "matching" in asked:
        asked["matching"] |= read(found, findings.EFFECTS)
    return StudyFrames(
        tables=tables.study_tables(gathered),
        subject=subject.need(ctx).record,
        text=text.frames(described),
        traces=read(gathered, tables.TOP_CONTEXTS, tables.CONTEXT_TEXT),
        **read(found, "findings", *findings.SUMMARIES, *findings.ADVICE, *findings.CONCLUSIONS),
        **read(gathered, tables.HEALTH, tables.LINEAGE, tables.TRAINING, tables.DIVERGED, *tables.ACTIVATIONS),
        **asked,
    )


def _proposed_study(ctx: StudyContext) -> str | None:
    """The file of the proposed study, or None where no arm is proposed. Apart from the stored report, which knows no paths of this machine."""
    from sae_pipeline.analysis.improving.proposals import TO_TRAIN, comments

    plan = findings.proposed(ctx)
    return as_yaml(plan.study, comments(plan)) if any(proposal.status == TO_TRAIN for proposal in plan.proposals) else None


def missing_sections(artifact: Artifact, study: Study) -> list[str]:
    """Sections that the page should have, also those that the study asks for, and does not."""
    page = artifact.file("index.html").read_text()
    asked = [name for name in ASKED_FOR if getattr(study, name) is not None]
    return [section for section in (*SECTIONS, *asked) if f'id="{section}"' not in page]

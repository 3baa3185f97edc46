"""The findings stage: claims tested on the study's tables, the summaries the report is drawn from, and what to train next."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import slices, subject, tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, digest, write_json
from sae_pipeline.study import Study

if TYPE_CHECKING:
    import pandas as pd

    from sae_pipeline.analysis.improving.proposals import Plan
    from sae_pipeline.analysis.tables import StudyTables

STAGE = "findings"
SUMMARIES = ("matrix", "expansion_curve", "budget_curve", "tradeoff", "generalisation")
ADVICE = ("root_causes", "proposals")


def _identity(ctx: StudyContext, gathered: Artifact) -> tuple[str, dict[str, Any]]:
    inputs = {"study": slices.findings(ctx.study), "tables": gathered.content}
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext) -> Artifact | None:
    """The findings, if they have been drawn."""
    gathered = tables.find(ctx)
    return ctx.store.find(STAGE, _identity(ctx, gathered)[0]) if gathered else None


def need(ctx: StudyContext) -> Artifact:
    """The findings, which must exist."""
    return ctx.store.open(STAGE, _identity(ctx, tables.need(ctx))[0])


def draw(ctx: StudyContext) -> Artifact:
    """Test every claim, summarise the tables with intervals, and name the causes of health problems with what to train instead."""
    gathered = tables.need(ctx)
    fingerprint, inputs = _identity(ctx, gathered)
    with ctx.store.draft(STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        frames = _by_site(tables.study_tables(gathered), ctx.study)
        frames |= dict(zip(ADVICE, _advice(ctx, gathered, frames["generalisation"]), strict=True))
        for name, frame in frames.items():
            frame.to_parquet(draft.path / f"{name}.parquet", index=False)
        found = frames["findings"]
        write_json(draft.path / "findings.json", {"findings": records(found)})
        verdicts = found["verdict"].value_counts().to_dict()
        return draft.publish({"findings": len(found), **{str(verdict): int(n) for verdict, n in verdicts.items()}})


def _by_site(study_tables: StudyTables, study: Study) -> dict[str, pd.DataFrame]:
    """Findings and summaries, drawn site by site, because activations of different sites have no common scale; a column says which."""
    import pandas as pd

    from sae_pipeline.analysis import generalisation, hypotheses, summaries

    draw = {"findings": hypotheses.find, "generalisation": generalisation.gaps}
    draw |= {name: getattr(summaries, name) for name in SUMMARIES if name not in draw}
    drawn: dict[str, list[pd.DataFrame]] = {name: [] for name in draw}
    for site in study_tables.sites:
        here = study_tables.at_site(site)
        for name, function in draw.items():
            drawn[name].append(function(here, study).assign(site=site))
    return {name: pd.concat(frames, ignore_index=True) for name, frames in drawn.items()}


def _advice(ctx: StudyContext, gathered: Artifact, gaps: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Causes of the SAEs' health problems, and the arms proposed for them."""
    import pandas as pd

    from sae_pipeline.analysis.health.rubrics import load_rubrics
    from sae_pipeline.analysis.improving import proposals
    from sae_pipeline.analysis.improving.root_causes import diagnose

    record = subject.need(ctx).record
    causes = diagnose(
        tables.study_tables(gathered),
        ctx.study,
        pd.read_parquet(gathered.file(f"{tables.HEALTH}.parquet")),
        gaps,
        rubric=load_rubrics(ctx.study.analysis.rubrics)[0].name,
        n_layers=record["n_layers"],
    )
    return causes, proposals.frame(proposals.propose(ctx.study, causes, record["d_model"]))


def proposed(ctx: StudyContext) -> Plan:
    """The study with every arm proposed for it; its findings must exist."""
    import pandas as pd

    from sae_pipeline.analysis.improving.proposals import propose

    return propose(ctx.study, pd.read_parquet(need(ctx).file("root_causes.parquet")), subject.need(ctx).record["d_model"])


def records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Rows as JSON values; what is not a number becomes null."""
    rows: list[dict[str, Any]] = json.loads(frame.to_json(orient="records", double_precision=15))
    return [{k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()} for row in rows]

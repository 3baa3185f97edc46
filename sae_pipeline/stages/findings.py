"""The findings stage: claims tested on the study's tables, shares of variance, what follows from them, and the summaries the report is drawn from."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import matching, slices, subject, tables
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
CONCLUSIONS = ("variance_shares", "recommendations")
EFFECTS = "factor_effects"
"""Table of a study that asks for matching: how much of the features each factor leaves in common."""


def _identity(ctx: StudyContext, gathered: Artifact, matched: Artifact | None) -> tuple[str, dict[str, Any]]:
    inputs = {"study": slices.findings(ctx.study), "tables": gathered.content}
    if matched is not None:
        inputs["matching"] = matched.content
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext) -> Artifact | None:
    """The findings, if they have been drawn."""
    gathered, matched = tables.find(ctx), matching.find_tables(ctx)
    if gathered is None or (ctx.study.matching is not None and matched is None):
        return None
    return ctx.store.find(STAGE, _identity(ctx, gathered, matched)[0])


def need(ctx: StudyContext) -> Artifact:
    """The findings, which must exist."""
    return ctx.store.open(STAGE, _identity(ctx, tables.need(ctx), _matched(ctx))[0])


def _matched(ctx: StudyContext) -> Artifact | None:
    """The matching tables, which must exist where the study asks for them."""
    return matching.need_tables(ctx) if ctx.study.matching is not None else None


def draw(ctx: StudyContext) -> Artifact:
    """Test every claim, summarise the tables with intervals, and name the causes of health problems with what to train instead."""
    gathered, matched = tables.need(ctx), _matched(ctx)
    fingerprint, inputs = _identity(ctx, gathered, matched)
    with ctx.store.draft(STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        from sae_pipeline.reports.build import findings_document

        frames = _by_site(tables.study_tables(gathered), ctx.study, matching.frames(matched) if matched else None)
        frames |= dict(zip(ADVICE, _advice(ctx, gathered, frames["generalisation"]), strict=True))
        for name, frame in frames.items():
            frame.to_parquet(draft.path / f"{name}.parquet", index=False)
        found = frames["findings"]
        write_json(draft.path / "findings.json", findings_document(found, frames["variance_shares"]))
        verdicts = found["verdict"].value_counts().to_dict()
        return draft.publish({"findings": len(found), **{str(verdict): int(n) for verdict, n in verdicts.items()}})


def _by_site(study_tables: StudyTables, study: Study, matched: dict[str, pd.DataFrame] | None) -> dict[str, pd.DataFrame]:
    """What is concluded site by site, because activations of different sites have no common scale; a column says which."""
    import pandas as pd

    from sae_pipeline.analysis import summaries
    from sae_pipeline.analysis.claims import find
    from sae_pipeline.analysis.contrasts import Evidence
    from sae_pipeline.analysis.factor_effects import factor_effects
    from sae_pipeline.analysis.generalisation import gaps
    from sae_pipeline.analysis.recommendations import recommend
    from sae_pipeline.analysis.variance import variance_shares

    drawn: list[dict[str, pd.DataFrame]] = []
    for site in study_tables.sites:
        evidence = Evidence.of(study_tables.at_site(site), study)
        pairs = {name: frame[frame["site"] == site] for name, frame in matched.items() if "site" in frame.columns} if matched else None
        found = find(evidence, study, pairs)
        here = {
            "findings": found,
            "variance_shares": variance_shares(evidence),
            "recommendations": recommend(found),
            "matrix": summaries.matrix(evidence, study),
            "expansion_curve": summaries.expansion_curve(evidence, study),
            "budget_curve": summaries.budget_curve(evidence, study),
            "tradeoff": summaries.tradeoff(evidence),
            "generalisation": gaps(evidence),
        }
        if pairs is not None:
            here[EFFECTS] = factor_effects(pairs, evidence.design, study.analysis.confidence)
        # A column that no row gives a type has one all the same.
        drawn.append({name: frame.assign(site=pd.Series(site, frame.index, dtype="string")) for name, frame in here.items()})
    return {name: pd.concat([frames[name] for frames in drawn], ignore_index=True) for name in drawn[0]}


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

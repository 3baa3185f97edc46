"""What a study keeps of its past: evaluations on fresh held-out text, its earlier versions, and how its rubrics have marked."""

from collections.abc import Mapping
from typing import Any

import dagster as dg

from assets.displays import columns_of, picture, rows_of, table
from assets.executors import ray_resources
from assets.names import explained, key
from assets.results import check, result
from resources import ComputeResource, HomeResource
from sae_pipeline.errors import BadInput
from sae_pipeline.stages import conclusion, history, rubric_review, slices, versions
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study

WINDOW_TAG = "sae/window"
"""Tag of a run that names the window of held-out text to evaluate on; without it the study's own is taken."""

PLOTS = 2
"""Evaluation sets whose figure an event holds; the page has one for each."""

SHOWN = ("sae_id", "evaluation_set", "compared", "before", "after", "change", "low", "high")
"""Columns of what got worse that the UI shows."""


def history_asset(study: Study) -> dg.AssetsDefinition:
    """Every SAE of the study on one window, beside all records before."""
    asset_key = key(study, "evaluation_history")
    kept = dg.AssetCheckSpec(
        "nothing_got_worse",
        asset=asset_key,
        blocking=False,
        description="No SAE explains less variance than at the evaluation before, beyond the tolerance.",
    )

    @dg.asset(
        key=asset_key,
        deps=[key(study, mix, "scorecard") for mix in study.mixes],
        code_version=slices.code_version("history", slices.history(study)),
        group_name="reports",
        kinds={"parquet", "html"},
        pool="gpu",
        op_tags=ray_resources(study),
        check_specs=[kept],
        description=explained(
            "How the SAEs do over time: all of them on one window of held-out text, recorded beside every evaluation before.",
            reads=f"the SAEs as they are, and one of {study.corpus.held_out_windows} windows of the held-out documents: the least used one when the schedule "
            "asks, the study's own otherwise.",
            makes="a record that is kept for good, the tables of all records, and a page; the check says what got worse, with the reason.",
        ),
    )
    def evaluation_history(context: dg.AssetExecutionContext, home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        import pandas as pd

        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        window = _window(study, context.run.tags)
        record, new = history.evaluate(ctx, window)
        gathered = history.gather(ctx)
        conclusion.publish(ctx)
        changes = pd.read_parquet(gathered.file("regressions.parquet"))
        worse = changes[changes["worse"]].sort_values("change")
        reasons = [_reason(row) for row in worse.itertuples()]
        figures = {
            "window": window,
            "recorded": record.about["recorded"],
            "page": dg.MetadataValue.path(str(opened.history_page(study.name))),
            **gathered.summary,
            **{plot.stem: picture(plot.read_bytes(), "explained variance by evaluation") for plot in history.plots(gathered)[:PLOTS]},
            "table": table(worse[list(SHOWN)].to_dict("records")),
            **rows_of(gathered.file("evaluation_history.parquet")),
            **columns_of(gathered.file("evaluation_history.parquet")),
        }
        checks = [check(asset_key, kept.name, not reasons, blocking=False, compared=len(changes), worse="; ".join(reasons[:5]) or "none")]
        return result(
            [gathered],
            version=gathered.content,
            figures=figures,
            checks=checks,
            computed=int(new) + int(not gathered.reused),
            reused=int(gathered.reused),
        )

    return evaluation_history


def _reason(row: Any) -> str:
    """What a check says of an SAE that got worse."""
    where = f"{row.sae_id} on {row.evaluation_set}"
    if row.after != row.after:
        return f"{where}: {row.before:.4f} before, no value now; {row.note}"
    return f"{where}: {row.before:.4f} to {row.after:.4f} [{row.low:+.4f}, {row.high:+.4f}], {row.compared}"


def _window(study: Study, tags: Mapping[str, str]) -> int:
    """The window that a run's tags ask for, by default the study's own.

    Raises:
        BadInput: the study has no such window.
    """
    windows = study.corpus.held_out_windows
    asked = tags.get(WINDOW_TAG, str(study.evaluation.window))
    if asked not in map(str, range(windows)):
        raise BadInput(
            f"tag {WINDOW_TAG}: expected a window of held-out text from 0 to {windows - 1} (corpus.held_out_windows is {windows}), found '{asked}'; "
            "launch the run again with one of these, or without the tag on the study's own"
        )
    return int(asked)


def versions_asset(study: Study) -> dg.AssetsDefinition:
    """The study against its last kept version."""

    @dg.asset(
        key=key(study, "versions"),
        deps=[key(study, "metric_tables"), key(study, "findings")],
        code_version=slices.code_version("versions", {}),
        group_name="reports",
        kinds={"duckdb", "html"},
        description=explained(
            "What changed since the study's last kept version: SAEs, metrics with intervals, verdicts and marks.",
            reads="the metric tables and the findings.",
            makes="a copy of the warehouse for every state that the study was in, and a page that compares it with the one before.",
        ),
    )
    def kept_versions(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        compared = versions.compare_with_last(StudyContext(study, opened, compute.open(opened)))
        figures = {name: dg.MetadataValue.path(value) if name == "page" else value for name, value in compared.found.items()}
        return result([], version=compared.copy.name, figures=figures, computed=int(compared.new), reused=int(not compared.new))

    return kept_versions


def rubric_review_asset(study: Study) -> dg.AssetsDefinition:
    """How the marks of the study's rubrics fall."""

    @dg.asset(
        key=key(study, "rubric_review"),
        deps=[key(study, "metric_tables")],
        code_version=slices.code_version("rubric_review", {}),
        group_name="reports",
        kinds={"parquet", "html"},
        description=explained(
            "For whoever revises a health rubric: how its marks fall on the SAEs, where it is silent, and where others contradict it.",
            reads=f"the metric tables, and the rubrics {', '.join(study.analysis.rubrics)}.",
            makes="a count of marks per rule with the values judged, remarks, and a page.",
        ),
    )
    def reviewed(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        found = rubric_review.review(StudyContext(study, opened, compute.open(opened)))
        page = dg.MetadataValue.path(str(opened.rubric_page(study.name)))
        return result([found], version=found.content, figures=found.summary | {"page": page})

    return reviewed

"""The stages of a study as jobs: what the launchpad and the schedules offer by name."""

from collections.abc import Iterable
from typing import Any

import dagster as dg

from assets.names import key
from sae_pipeline.study import Study
from sae_pipeline.study.text_sections import External

REFRESH, SCORECARDS, EVALUATE = "refresh_report", "draw_scorecards", "evaluate_again"


def jobs(study: Study) -> dict[str, Any]:
    """Jobs by name, in the order in which they feed each other. All of one job's partitioned assets share their partitions."""
    lanes = [*((mix,) for mix in study.mixes), *(("held_out", name) for name in study.held_out)]
    made_here = [key(study, "sources", name) for name, declared in study.sources.items() if not isinstance(declared, External)]
    corpora = [key(study, *lane, "corpus") for lane in lanes]
    asked = study.schedules
    declared: list[tuple[str, Iterable[dg.AssetKey], str]] = [
        ("prepare_text", [key(study, "subject_model"), *made_here, *corpora, key(study, "text_tables")], "The subject model, and every text packed."),
        ("harvest_activations", [key(study, *lane, "activations") for lane in lanes], "Activations of every text; a partition is one layer."),
        (
            "train_and_evaluate",
            [key(study, mix, stage) for mix in study.mixes for stage in ("saes", "metrics")],
            "Trains the SAEs of every mix and evaluates them; a partition is one cell, a layer and an expansion factor.",
        ),
        (SCORECARDS, [key(study, mix, "scorecard") for mix in study.mixes], "Marks the SAEs of every mix by the rubrics; a partition is one layer."),
        (
            REFRESH,
            [key(study, name) for name in ("metric_tables", "findings", "comparison_report")],
            "Gathers the metric tables again and rebuilds findings and report; reuses all that did not change.",
        ),
    ]
    if asked.versions is not None:
        declared.append(("keep_versions", [key(study, "versions")], "Compares the study with its last kept version and keeps a copy of it."))
    if asked.rubric_review is not None:
        declared.append(("keep_rubric_review", [key(study, "rubric_review")], "Writes a page on how the rubrics' marks fall, for their revision."))
    if asked.evaluation is not None:
        again = "Evaluates every SAE on one window of held-out text, by default the study's own, and records the figures."
        declared.append((EVALUATE, [key(study, "evaluation_history")], again))
    return {
        name: dg.define_asset_job(name, selection=dg.AssetSelection.assets(*keys), description=description) for name, keys, description in declared
    }

"""What the store sees and what Dagster sees are the same: an edit that changes an artifact's identity changes a code version too."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import dagster as dg
import pytest

from assets import study_definitions
from sae_pipeline.study import Study

Edit = Callable[[dict[str, Any]], Any]
EDITS: dict[str, tuple[Edit, set[str]]] = {
    "kind of a set": (lambda d: d["held_out"]["recipes"].update(kind="task_shift"), {"MORE/scorecard", "LESS/scorecard", "findings"}),
    "order of the sets": (lambda d: d.update(held_out=dict(reversed(d["held_out"].items()))), {"text_tables", "metric_tables", "findings"}),
    "order of the mixes": (lambda d: d.update(mixes=dict(reversed(d["mixes"].items()))), {"text_tables", "metric_tables"}),
    "confidence": (lambda d: d["analysis"].update(confidence=0.9), {"findings", "comparison_report"}),
    "arm of one mix": (
        lambda d: d["saes"]["arms"].append({"architecture": "relu", "target_l0": 4, "only": {"mixes": ["LESS"]}}),
        {"LESS/saes"},
    ),
    "shuffle window": (lambda d: d["activations"].update(shuffle_tokens=4096), {"MORE/saes", "LESS/saes"}),
    "held-out window": (lambda d: d.update(corpus={"held_out_windows": 2}), {"held_out/stories/corpus", "held_out/recipes/corpus"}),
    "cache": (lambda d: d["activations"].update(cache=False), {"MORE/activations", "LESS/activations"}),
    "contexts kept": (lambda d: d["evaluation"].update(top_contexts=2), {"MORE/metrics", "LESS/metrics"}),
    "random tokens": (
        lambda d: d["evaluation"].update(random_tokens=100),
        {"held_out/stories/baseline", "held_out/recipes/baseline", "MORE/metrics", "LESS/metrics"},
    ),
    "control": (lambda d: d["subject"].update(weights="randomised"), {"subject_model", "comparison_report"}),
}


def code_versions(data: dict[str, Any]) -> dict[str, str | None]:
    graph = study_definitions(Study.model_validate(data)).resolve_asset_graph()
    keys = [key for key in graph.toposorted_asset_keys if graph.get(key).is_materializable]
    return {"/".join(key.path[1:]): graph.get(dg.AssetKey(key.path)).code_version for key in keys}


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_changes_the_code_version_of_just_the_assets_that_read_it(name: str, small_study_data: dict[str, Any]) -> None:
    edit, expected = EDITS[name]
    data = copy.deepcopy(small_study_data)
    before = code_versions(data)
    edit(data)
    after = code_versions(data)
    assert {asset for asset in before if before[asset] != after[asset]} == expected

"""The section `matching` of a study file: what it reads where it says nothing, what it refuses, and what it makes stale."""

from __future__ import annotations

from importlib import util
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from declared_study import declared
from pydantic import ValidationError

from assets import study_definitions
from sae_pipeline.errors import BadInput, StudyError
from sae_pipeline.stages import preflight, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home
from sae_pipeline.study import Study


def study(matching: dict[str, Any] | None = None) -> Study:
    return declared(matching=matching)


def test_the_first_in_sample_set_mix_and_expansion_are_read_unless_others_are_named() -> None:
    assert study().matching is None
    assert study({}).read_for_matching == "prose"
    assert study({"evaluation_set": "code"}).read_for_matching == "code"
    assert study({}).matched_across_layers == ("EQ", 4)
    assert study({"layers": {"mix": "PROSE", "expansion": 8}}).matched_across_layers == ("PROSE", 8)


@pytest.mark.parametrize(
    ("asked", "key"),
    [
        ({"evaluation_set": "poems"}, "evaluation_set"),
        ({"layers": {"mix": "INS"}}, "layers.mix"),
        ({"layers": {"expansion": 16}}, "layers.expansion"),
    ],
)
def test_what_the_study_does_not_have_is_refused_with_what_it_has(asked: dict[str, Any], key: str) -> None:
    with pytest.raises(ValidationError, match=f"matching.{key} names .*, which the study does not have; it has: "):
        study(asked)


@pytest.mark.parametrize("asked", [{"threshold": 1.0}, {"threshold": 0}, {"factors": []}, {"factors": ["layer"]}, {"pairs_per_factor": 0}])
def test_what_is_no_matching_is_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        study(asked)


def test_asking_for_matching_changes_no_other_stage() -> None:
    plain, asking = study(), study({})
    for stage in (slices.saes, slices.scorecard):
        assert stage(plain, "EQ") == stage(asking, "EQ")
    for of_study in (slices.subject, slices.activations, slices.baselines, slices.metrics, slices.tables, slices.findings, slices.concepts):
        assert of_study(plain) == of_study(asking)


def test_a_map_of_directions_concerns_the_arms_across_layers_alone() -> None:
    plain, mapped, stricter = study({}), study({"umap": True}), study({"threshold": 0.8})
    assert slices.matching(plain) == slices.matching(mapped) != slices.matching(stricter)
    assert slices.layer_matches(plain) != slices.layer_matches(mapped)
    assert slices.layer_matches(plain) != slices.layer_matches(stricter)


def test_the_tables_wait_for_the_matches_only_where_a_study_asks_for_them() -> None:
    def parents(of: Study, asset: str) -> set[str]:
        graph = study_definitions(of).resolve_asset_graph()
        return {"/".join(key.path[1:]) for key in graph.get(dg.AssetKey(["toy", asset])).parent_keys}

    of_cells = {f"{mix}/{part}" for mix in ("EQ", "PROSE") for part in ("saes", "metrics")}
    assert parents(study({}), "feature_matches") == {"held_out/prose/activations", *of_cells}
    assert parents(study({"correlation_tokens": 0}), "feature_matches") == of_cells
    assert parents(study({}), "layer_matches") == {"feature_matches"}
    assert parents(study({}), "match_tables") == {"feature_matches", "layer_matches"}
    for asset in ("metric_tables", "comparison_report"):
        assert "match_tables" in parents(study({}), asset)
        assert "match_tables" not in parents(study(), asset)


def test_a_named_pair_that_is_no_comparison_is_refused_before_anything_runs(tmp_path: Path) -> None:
    pair = ["EQ.L01.x04.topk-k16-t200k-s0", "PROSE.L01.x08.topk-k16-t200k-s0"]
    with pytest.raises(BadInput, match=r"differ in 2 \(mix EQ and PROSE; expansion 4.0 and 8.0\)"):
        preflight.preflight(StudyContext.open(study({"pairs": [pair]}), Home(tmp_path)))


def test_a_map_without_the_package_for_it_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    there = util.find_spec
    monkeypatch.setattr(preflight, "find_spec", lambda name: None if name == "umap" else there(name))
    preflight.preflight(StudyContext.open(study({}), Home(tmp_path)))
    with pytest.raises(StudyError, match=r"pip install 'sae-pipeline\[umap\]'"):
        preflight.preflight(StudyContext.open(study({"umap": True}), Home(tmp_path)))

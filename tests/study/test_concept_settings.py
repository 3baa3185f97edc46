"""The section `concepts` of a study file: what it reads where it says nothing, what it refuses, and what it makes stale."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest
from declared_study import declared
from pydantic import ValidationError

from assets import study_definitions
from sae_pipeline.stages import slices
from sae_pipeline.study import Study


def study(concepts: dict[str, Any] | None = None) -> Study:
    return declared(concepts=concepts)


def test_all_sets_are_read_and_the_second_is_told_from_the_first_unless_others_are_named() -> None:
    assert study().concepts is None
    plain = slices.concepts(study({}))
    assert plain["evaluation_sets"] == ["code", "prose", "both"]
    assert {name: (d["positive_set"], d["negative_set"]) for name, d in plain["directions"].items()} == {"prose_from_code": ("prose", "code")}
    chosen = slices.concepts(study({"evaluation_sets": ["both", "code"]}))
    assert chosen["evaluation_sets"] == ["both", "code"]
    assert list(chosen["directions"]) == ["code_from_both"]
    assert slices.concepts(study({"evaluation_sets": ["both"]}))["directions"] == {}
    assert slices.concepts(study({"directions": {}}))["directions"] == {}


@pytest.mark.parametrize(
    ("concepts", "message"),
    [
        ({"evaluation_sets": ["poems"]}, "concepts.evaluation_sets names poems, which the study does not have; it has: code, prose, both"),
        (
            {"evaluation_sets": ["code"], "directions": {"d": {"positive_set": "prose", "negative_set": "code"}}},
            "concepts.directions.d names the evaluation set prose, which is not read; read are: code",
        ),
        (
            {"directions": {"d": {"positive": ["a", "b"]}}},
            "needs either 'positive' and 'negative' .* or 'positive_set' and 'negative_set', found positive",
        ),
        ({"directions": {"d": {"positive": ["a", "b"], "negative": ["c", "d"], "negative_set": "code"}}}, "found negative, negative_set, positive"),
        ({"directions": {"d": {"positive_set": "code", "negative_set": "prose", "position": "mean"}}}, "found negative_set, position, positive_set"),
        ({"directions": {"d": {"positive_set": "code", "negative_set": "code"}}}, "two different evaluation sets, found 'code' on both sides"),
        ({"directions": {"d": {"positive": ["a"], "negative": ["b", "c"]}}}, "at least 2 items"),
        ({"keywords": {"maths": ["sum", "+"]}}, "maths: expected words or phrases that begin and end with a letter or digit, found '\\+'"),
    ],
)
def test_what_cannot_be_looked_for_is_refused_with_what_can(concepts: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        study(concepts)


def test_asking_for_concepts_changes_no_other_stage() -> None:
    plain, asking = study(), study({"tokens": 2_000})
    for stage in (slices.saes, slices.scorecard):
        assert stage(plain, "EQ") == stage(asking, "EQ")
    for of_study in (slices.subject, slices.activations, slices.baselines, slices.metrics, slices.text, slices.report):
        assert of_study(plain) == of_study(asking)
    assert slices.concepts(asking) != slices.concepts(study({"tokens": 4_000}))


def test_the_tables_wait_for_the_concepts_only_where_a_study_asks_for_them() -> None:
    def parents(concepts: dict[str, Any] | None, asset: str) -> set[str]:
        graph = study_definitions(study(concepts)).resolve_asset_graph()
        return {"/".join(key.path[1:]) for key in graph.get(dg.AssetKey(["toy", asset])).parent_keys}

    sets = {"evaluation_sets": ["prose"]}
    assert parents(sets, "concepts") == {"text_tables", "held_out/prose/activations", "EQ/saes", "PROSE/saes"}
    assert parents(sets, "concept_tables") == {"concepts"}
    assert "concept_tables" in parents(sets, "metric_tables") & parents(sets, "comparison_report")
    assert "concept_tables" not in parents(None, "metric_tables") | parents(None, "comparison_report")

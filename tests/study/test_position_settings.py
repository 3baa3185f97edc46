"""The section `positions` of a study file: what it reads where it says nothing, what it refuses, and what it makes stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from declared_study import declared
from pydantic import ValidationError

from assets import study_definitions
from sae_pipeline.stages import slices
from sae_pipeline.study import Study, load_study

STUDIES = Path(__file__).resolve().parents[2] / "studies"


def study(**positions: Any) -> Study:
    return declared(positions=positions or None)


def test_the_first_in_sample_set_mix_and_expansion_are_read_unless_others_are_named() -> None:
    assert study().positions is None
    assert study(tokens=2_000).read_for_positions == ("prose", "EQ", 4)
    assert study(evaluation_set="code", mix="PROSE", expansion=8).read_for_positions == ("code", "PROSE", 8)


@pytest.mark.parametrize(("field", "value"), [("evaluation_set", "poems"), ("mix", "INS"), ("expansion", 16.0)])
def test_what_the_study_does_not_have_is_refused_with_what_it_has(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=f"positions.{field} names {value}, which the study does not have; it has: "):
        study(**{field: value})


def test_asking_for_positions_changes_no_other_stage() -> None:
    plain, asking = study(), study(tokens=2_000)
    for stage in (slices.saes, slices.scorecard):
        assert stage(plain, "EQ") == stage(asking, "EQ")
    for of_study in (slices.subject, slices.activations, slices.baselines, slices.metrics, slices.tables, slices.findings, slices.report):
        assert of_study(plain) == of_study(asking)
    assert slices.positions(asking) != slices.positions(study(tokens=4_000))


def test_the_tables_wait_for_the_positions_only_where_a_study_asks_for_them() -> None:
    def parents(name: str, asset: str) -> set[str]:
        graph = study_definitions(load_study(STUDIES / f"{name}.yaml")).resolve_asset_graph()
        return {"/".join(key.path[1:]) for key in graph.get(dg.AssetKey([name, asset])).parent_keys}

    assert parents("positions", "positions") == {"held_out/prose/corpus", "PROSE/saes"}
    assert parents("positions", "position_tables") == {"positions"}
    assert "position_tables" in parents("positions", "metric_tables") & parents("positions", "comparison_report")
    assert "position_tables" not in parents("small", "metric_tables") | parents("small", "comparison_report")

"""Figures of several evaluation sets: no set hides another's, and layers are compared on the same sets."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from sae_pipeline.analysis.health.marks import judge
from sae_pipeline.analysis.health.rubrics import load_rubric
from sae_pipeline.analysis.health.tables import NO_TIER, layer_rows, tier_rows

TIERS, HOUSE = load_rubric("seed4.tiers"), load_rubric("house.v1")
EXCELLENT = {"dense_share@0.8": 0.0, "feature_diversity_10": 9.0, "explained_variance": 0.9, "decoder_top100_pair_cos": 0.2}
EXCELLENT |= {"l0": 100.0, "dead_share_5e4": 0.1}


def tier(*on_sets: dict[str, Any], named: tuple[str, ...] = ()) -> tuple[str, list[str], list[str]]:
    """Tier, what decided it and what is unknown of an SAE that is excellent but for the figures given, set by set."""
    metrics = pd.DataFrame([{"sae_id": "A", "evaluation_set": f"set {n}"} | EXCELLENT | changed for n, changed in enumerate(on_sets, 1)])
    saes = pd.DataFrame([{"sae_id": "A", "d_sae": 100, "sparsity": 50.0, "architecture": "topk"}])
    row = tier_rows(judge([TIERS], metrics, saes, 10**8), TIERS, named).iloc[0]
    return row["tier"], row["decided_by"], row["unknown"]


@pytest.mark.parametrize("order", [1, -1])
def test_an_sae_is_in_a_tier_when_every_figure_of_every_set_is(order: int) -> None:
    outside = {"l0": 400.0, "dead_share_5e4": 0.45}  # 400 active latents and 45 % that fire rarely lie in no tier
    assert tier(*[outside, {}][::order]) == (NO_TIER, ["l0", "dead_share_5e4"], [])
    assert tier(*[{"l0": 250.0}, {}][::order]) == ("good", ["l0"], [])
    assert tier(*[outside, {"explained_variance": 0.6}][::order]) == ("poor", ["explained_variance"], [])
    assert tier(*[{"l0": 400.0}, {"l0": 600.0}][::order]) == ("poor", ["l0"], [])


def test_the_sets_named_decide_the_tier_and_what_has_a_value_on_any_is_known() -> None:
    assert tier({}, {"l0": 400.0}, named=("set 1",)) == ("excellent", [], [])
    assert tier({"l0": None}, {"explained_variance": None, "l0": None}) == ("excellent", [], ["l0"])


def best(explained: dict[str, dict[str, float | None]], named: tuple[str, ...] = (), **changed: dict[str, float]) -> list[str]:
    """The best of SAEs that differ in the layer only, from their explained variance by set."""
    healthy = {"l0": 50.0, "dead_share": 0.0, "dense_share@0.8": 0.0, "decoder_top100_pair_cos": 0.2, "ce_loss_recovered_zero": 0.96}
    figures = [
        {"sae_id": sae_id, "evaluation_set": name, "kind": "in_sample", "explained_variance": value} | healthy | changed.get(sae_id, {})
        for sae_id, by_set in explained.items()
        for name, value in by_set.items()
    ]
    saes = [
        {"sae_id": sae_id, "layer": int(sae_id[1:]), "mix": "EQ", "site": "resid_post", "arm": "a", "expansion": 4.0, "d_sae": 100, "sparsity": 50.0}
        for sae_id in explained
    ]
    health = judge([HOUSE], pd.DataFrame(figures), pd.DataFrame(saes), 10**8)
    table = layer_rows(health, pd.DataFrame(saes), HOUSE, named)
    return table.loc[table["best"], "sae_id"].tolist()


def test_a_layer_that_explains_more_on_every_set_is_the_best() -> None:
    """The marks, acceptable below 60 %, are worst on both sets of L1 and on chat alone of L2: 59 % of prose is not to be held against 58 % of chat."""
    assert best({"L1": {"prose": 0.59, "chat": 0.50}, "L2": {"prose": 0.61, "chat": 0.58}}) == ["L2"]
    assert best({"L2": {"prose": 0.61, "chat": 0.58}, "L1": {"prose": 0.59, "chat": 0.50}}) == ["L2"]


def test_layers_are_compared_on_the_sets_that_all_of_them_have() -> None:
    higher_on_its_own = {"L1": {"prose": 0.62, "chat": 0.9}, "L2": {"prose": 0.64}}
    assert best(higher_on_its_own) == ["L2"]
    assert best({"L1": {"prose": 0.62, "chat": 0.9}, "L2": {"prose": 0.64, "chat": None}}) == ["L2"]
    assert best({"L1": {"prose": 0.62, "chat": 0.7}, "L2": {"prose": 0.64, "chat": 0.61}}) == ["L1"]
    assert best({"L1": {"prose": 0.62, "chat": 0.7}, "L2": {"prose": 0.64, "chat": 0.61}}, named=("prose",)) == ["L2"]
    assert best({"L1": {"prose": 0.62}, "L2": {"chat": 0.64}}) == []
    assert best({"L1": {"prose": 0.62}, "L2": {"prose": 0.64}}, named=("chat",)) == []


def test_fewer_faults_go_before_the_higher_explained_variance() -> None:
    assert best({"L1": {"prose": 0.62}, "L2": {"prose": 0.64}}, L2={"dead_share": 0.4}) == ["L1"]

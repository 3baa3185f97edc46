"""Latents that no other SAE has, and what a union of seeds holds, on directions that are known."""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planted import sae_of
from scipy import stats
from torch import Tensor

from sae_pipeline.matching.pairs import DeclaredSae, choose
from sae_pipeline.matching.study_tables.coverage import coverage_frame, seed_groups, union_share
from sae_pipeline.matching.study_tables.hook_point import MEASURED, match_hook_point
from sae_pipeline.matching.study_tables.orphans import BestCosines, orphan_frames
from sae_pipeline.matching.study_tables.shelf import MatchableSae
from sae_pipeline.stages import matching
from sae_pipeline.study import Study, cells
from sae_pipeline.study.matching_section import FACTORS


def seeds(count: int, **arm: Any) -> list[DeclaredSae]:
    """As many seeds of one setting, and one SAE of another architecture."""
    data: dict[str, Any] = {
        "name": "toy",
        "subject": {"model": "bundled"},
        "sources": {"prose": {"kind": "installed_docs"}},
        "mixes": {"PROSE": {"prose": 1.0}},
        "held_out": {"prose": {"shares": {"prose": 1.0}, "kind": "in_sample"}},
        "activations": {"layers": [1], "tokens": 200_000},
        "saes": {
            "expansions": [2],
            "arms": [{"architecture": "topk", "k": 2, "seeds": list(range(count))} | arm, {"architecture": "batchtopk", "k": 2}],
        },
    }
    study = Study.model_validate(data)
    return [DeclaredSae(cell, label) for cell in cells(study) for label in cell.arms]


def basis(*axes: int) -> Tensor:
    """Unit rows along these axes of eight dimensions."""
    return torch.eye(8)[list(axes)]


def matchable(declared: DeclaredSae, rows: Tensor, fired: list[int]) -> MatchableSae:
    """An SAE with these decoder rows, whose latents fired so often on 100 tokens, at a mean of their number + 1."""
    mean = [float(n + 1) if times else math.nan for n, times in enumerate(fired)]
    latents = pd.DataFrame({"latent": range(len(fired)), "fired": fired, "density": np.array(fired) / 100, "mean_active": mean})
    return MatchableSae(declared, lambda: sae_of(rows), latents)


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, pd.DataFrame]:
    """Three seeds with axes 0 1 2 3, 0 1 4 5 and 0 6 7 (-3); the first seed's axis 2 is dead; BatchTopK has the axes of the first."""
    folder = tmp_path_factory.mktemp("tables")
    declared = seeds(3)
    rows = [basis(0, 1, 2, 3), basis(0, 1, 4, 5), basis(0, 6, 7, 3) * torch.tensor([[1.0], [1], [1], [-1]]), basis(0, 1, 2, 3)]
    fired = [[10, 20, 0, 40], [1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 1, 1]]
    saes = {sae.sae_id: matchable(sae, *each) for sae, *each in zip(declared, rows, fired, strict=True)}
    summary = match_hook_point(folder, saes=saes, choice=choose(declared, factors=FACTORS, most=24), threshold=0.7, activations=basis(0, 1, 3))
    assert summary["possible"] == dict.fromkeys(FACTORS, 0) | {"seed": 3, "architecture": 1}
    assert summary["pairs"] == 4
    return {name: pd.read_parquet(folder / f"{name}.parquet") for name in MEASURED}


def test_the_stage_knows_every_table_of_a_hook_point() -> None:
    assert matching.MEASURED == MEASURED


def test_orphans_are_the_alive_latents_that_none_of_the_others_has(tables: dict[str, pd.DataFrame]) -> None:
    orphans = tables["orphans"].set_index(["sae_id", "factor", "status"])
    first = seeds(3)[0].sae_id
    matched, orphan = (orphans.loc[(first, "seed", status)] for status in ("matched", "orphan"))
    assert (matched["others"], matched["latents"], orphan["latents"]) == (2, 2, 1)  # axes 0 and 1; axis 3 only opposite; axis 2 is dead
    assert matched["mean_density"] == pytest.approx(0.15)
    assert matched["mean_activation"] == pytest.approx(1.5)
    assert (orphan["median_density"], orphan["mean_activation"]) == (0.4, 4.0)
    assert orphans.loc[(first, "architecture", "orphan")]["latents"] == 0
    assert math.isnan(orphans.loc[(first, "architecture", "orphan")]["mean_density"])
    listed = tables["orphan_features"]
    of_first = listed[(listed["sae_id"] == first) & (listed["factor"] == "seed")]
    assert of_first[["latent", "best_cosine", "density"]].to_numpy().tolist() == [[3, 0.0, 0.4]]


def test_a_union_of_seeds_holds_more_the_more_seeds_it_has(tables: dict[str, pd.DataFrame]) -> None:
    """Of alive axes 0 1 3, 0 1 4 5 and 0 6 7 -3: found in (both others, one, none) 1 1 1; 1 1 2; 1 0 3 latents."""
    rows = tables["coverage"]
    assert rows["setting"].unique().tolist() == ["PROSE x02 topk-k2-t200k"]
    assert rows["seeds"].tolist() == [1, 2]
    assert rows["saes"].tolist() == [3, 3]
    by_one, by_two = ((1 + 0.5) / 3, (1 + 0.5) / 4, 1 / 4), (2 / 3, 2 / 4, 1 / 4)
    assert rows["share"].tolist() == pytest.approx([sum(by_one) / 3, sum(by_two) / 3])
    assert rows[["low", "high"]].to_numpy().tolist() == [pytest.approx([min(each), max(each)]) for each in (by_one, by_two)]


def test_the_floor_of_a_union_is_that_of_all_its_directions_together(tables: dict[str, pd.DataFrame]) -> None:
    """3, 4 and 4 latents are alive: the others have 8, 7 and 7, one of them 4, 3.5 and 3.5 in the mean, rounded to 4."""
    below = stats.beta(3.5, 3.5).cdf((1 + 0.7) / 2)  # of the cosine in eight dimensions, mapped onto the unit interval
    expected = [1 - below**4, (1 - below**8 + 2 * (1 - below**7)) / 3]
    assert tables["coverage"]["chance_share"].tolist() == pytest.approx(expected)


def test_both_directions_of_a_pair_and_both_populations_have_their_rows(tables: dict[str, pd.DataFrame]) -> None:
    matches = tables["matches"]
    first, second = (sae.sae_id for sae in seeds(3)[:2])
    there = matches[
        (matches["sae_id"] == first) & (matches["other_sae_id"] == second) & (matches["side"] == "decoder") & (matches["unit"] == "feature")
    ]
    assert dict(zip(there["population"], there["match_ratio"], strict=True)) == {"all": 0.5, "alive": pytest.approx(2 / 3)}
    assert set(there["level"] + there["other_level"]) == {"s0d0s1d0"}
    assert set(matches["side"]) == {"encoder", "decoder"}
    assert len(tables["one_to_one"]) == 2 * 4
    neighbours = tables["feature_neighbours"]
    assert neighbours[(neighbours["sae_id"] == first) & (neighbours["other_sae_id"] == second)]["latent"].tolist() == [0, 1, 3]
    top = tables["top_cosines"]
    best = top[
        (top["sae_id"] == first) & (top["other_sae_id"] == second) & (top["side"] == "decoder") & (top["unit"] == "feature") & (top["place"] == 1)
    ]
    assert best[["low", "high", "count"]].to_numpy().tolist() == [[0.0, pytest.approx(0.05), 2], [pytest.approx(0.95), 1.0, 2]]


def test_activations_are_correlated_over_the_alive_latents_alone(tables: dict[str, pd.DataFrame]) -> None:
    """On tokens along the axes 0, 1 and 3 the first seed and the BatchTopK SAE fire alike, latent by latent."""
    rows = tables["one_to_one"]
    of_architecture = rows[rows["factor"] == "architecture"].set_index("population")
    assert of_architecture.loc["alive", ["correlation_match_ratio", "correlation_mean"]].tolist() == pytest.approx([1.0, 1.0])
    assert of_architecture.loc["all", ["correlation_match_ratio", "correlation_mean"]].isna().all()


def seeds_with_alive(*alive: list[int]) -> pd.DataFrame:
    """``coverage`` of as many seeds on the axes 0 1 2, with these latents of each alive; the chance of n directions is n hundredths."""
    declared = seeds(len(alive))[: len(alive)]
    of = {sae.sae_id: latents for sae, latents in zip(declared, alive, strict=True)}
    return coverage_frame(
        seed_groups(declared),
        lambda first, second: np.array([float(latent in of[second]) for latent in of[first]]),
        0.7,
        lambda rows: rows / 100,
    )


def test_a_seed_without_alive_latents_has_no_say_in_its_settings_union() -> None:
    """Of the living seeds' latents 0 1 and 0 1 2 both, and two of three, are found in the other, none in the dead one: drawn alone it
    halves the share, and its floor, of the mean 3 / 2 and 2 / 2 alive latents, counts as little."""
    by_one, by_two = seeds_with_alive([0, 1], [0, 1, 2], []).to_dict("records")
    assert (by_one["low"], by_one["high"]) == pytest.approx((1 / 3, 1 / 2))
    assert (by_two["low"], by_two["high"]) == pytest.approx((2 / 3, 1))
    assert (by_one["share"], by_two["share"]) == pytest.approx((5 / 12, 5 / 6))
    assert (by_one["chance_share"], by_two["chance_share"]) == pytest.approx(((0.02 + 0.01) / 2, (0.03 + 0.02) / 2))


def test_a_setting_whose_seeds_are_all_dead_has_no_share() -> None:
    assert seeds_with_alive([], [])[["share", "low", "high", "chance_share"]].isna().all(axis=None)


def test_a_setting_with_one_seed_has_no_union() -> None:
    declared = seeds(2)
    assert [[sae.seed for sae in group] for group in seed_groups(declared)] == [["s0d0", "s1d0"]]
    empty = coverage_frame([], lambda *_: np.empty(0), 0.7, lambda rows: 0.0)
    assert empty.empty
    assert empty.dtypes["share"] == np.float64


def test_an_sae_without_orphans_or_pairs_gives_typed_tables() -> None:
    orphans, features = orphan_frames({}, {}, 0.7)
    assert orphans.empty
    assert features.empty
    assert features.dtypes["latent"] == np.int64


@given(found=st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6), n=st.integers(1, 4))
def test_the_expected_share_of_a_union_is_the_mean_over_all_choices(found: list[list[bool]], n: int) -> None:
    has = np.array(found)
    brute = np.mean([has[:, list(choice)].any(axis=1).mean() for choice in combinations(range(4), n)])
    assert union_share(has.sum(axis=1), 4, n) == pytest.approx(brute)


def test_the_best_of_several_others_counts() -> None:
    best = BestCosines(np.array([0, 2]))
    best.take_in(np.array([0.2, 0.9], np.float32))
    best.take_in(np.array([0.7, 0.1], np.float32))
    assert best.cosine.tolist() == pytest.approx([0.7, 0.9])
    assert best.others == 2

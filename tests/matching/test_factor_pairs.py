"""Which SAEs are compared: those that differ in exactly one factor, and no others."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest

from sae_pipeline.errors import BadInput
from sae_pipeline.matching.pairs import DeclaredSae, choose, factor_between, named_pairs, require_one_factor
from sae_pipeline.study import Study, cells
from sae_pipeline.study.matching_section import FACTORS


def declared(arms: list[dict[str, Any]], **changes: Any) -> list[DeclaredSae]:
    """The SAEs of a study with two mixes, one layer and one expansion factor, where nothing else is said."""
    data: dict[str, Any] = {
        "name": "toy",
        "subject": {"model": "bundled"},
        "sources": {"prose": {"kind": "installed_docs"}, "code": {"kind": "installed_code"}},
        "mixes": {"PROSE": {"prose": 1.0}, "EQ": {"prose": 0.5, "code": 0.5}},
        "held_out": {"prose": {"shares": {"prose": 1.0}, "kind": "in_sample"}},
        "activations": {"layers": [1], "tokens": 200_000} | changes.pop("activations", {}),
        "saes": {"expansions": changes.pop("expansions", [2]), "defaults": {"tokens": 100_000}, "arms": arms},
    }
    study = Study.model_validate(data | changes)
    return [DeclaredSae(cell, label) for cell in cells(study) for label in cell.arms]


def factors_of(saes: list[DeclaredSae]) -> dict[str, int]:
    """Pairs by factor, among all pairs."""
    found = [pair.factor for a, b in combinations(saes, 2) if (pair := factor_between(a, b)) is not None]
    return {factor: found.count(factor) for factor in dict.fromkeys(found)}


TOPK: dict[str, Any] = {"architecture": "topk", "k": 16}


def test_two_mixes_two_widths_and_two_seeds_differ_in_one_factor_along_the_edges_of_a_cube() -> None:
    saes = declared([TOPK | {"seeds": [0, 1]}], expansions=[2, 4])
    assert len(saes) == 8
    assert factors_of(saes) == {"seed": 4, "expansion": 4, "mix": 4}  # 12 edges; 16 of the 28 pairs are diagonals


@pytest.mark.parametrize(
    ("other", "factor", "level", "other_level"),
    [
        (TOPK | {"seeds": [1]}, "seed", "s0d0", "s1d0"),
        (TOPK | {"data_seed": 3}, "seed", "s0d0", "s0d3"),
        (TOPK | {"seeds": [1], "data_seed": 3}, "seed", "s0d0", "s1d3"),
        ({"architecture": "batchtopk", "k": 16}, "architecture", "topk", "batchtopk"),
        ({"architecture": "relu", "target_l0": 16}, "architecture", "topk", "relu"),
        (TOPK | {"k": 32}, "sparsity", "16", "32"),
        (TOPK | {"tokens": 50_000}, "tokens", "100000", "50000"),
        (TOPK | {"learning_rate": 0.001}, "objective", "learning_rate None", "learning_rate 0.001"),
        (TOPK | {"diversity_coefficient": 0.5}, "objective", "diversity_coefficient 0", "diversity_coefficient 0.5"),
        (TOPK | {"normalise": False}, "objective", "normalise True", "normalise False"),
        (TOPK | {"batch_size": 512}, "objective", "batch_size 1024", "batch_size 512"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_setting_of_an_arm_makes_one_factor(other: dict[str, Any], factor: str, level: str, other_level: str) -> None:
    first, second = declared([TOPK, other], mixes={"EQ": {"prose": 0.5, "code": 0.5}})
    pair = factor_between(first, second)
    assert pair is not None
    assert (pair.factor, pair.level, pair.other_level) == (factor, level, other_level)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        (TOPK | {"k": 32, "seeds": [1]}, "differ in 2 (seed s0d0 and s1d0; sparsity 16.0 and 32.0)"),
        ({"architecture": "relu", "target_l0": 32}, "differ in 2 (architecture topk and relu; sparsity 16.0 and 32.0)"),
        (TOPK | {"tilt": 1.0, "l1_coefficient": 0.1}, "differ in 2 (l1_coefficient 0.0 and 0.1; tilt 0.0 and 1.0)"),
    ],
)
def test_a_pair_that_differs_in_two_factors_is_refused_by_name(other: dict[str, Any], named: str) -> None:
    first, second = declared([TOPK, other], mixes={"EQ": {"prose": 0.5, "code": 0.5}})
    assert factor_between(first, second) is None
    with pytest.raises(BadInput) as refused:
        require_one_factor(first, second)
    assert named in str(refused.value)
    assert f"found {first.sae_id} and {second.sae_id}" in str(refused.value)


def test_sites_and_layers_are_never_compared_as_a_factor() -> None:
    saes = declared([TOPK], mixes={"EQ": {"prose": 0.5, "code": 0.5}}, activations={"layers": [0, 1], "site": ["resid_post", "mlp_out"]})
    assert len(saes) == 4
    assert factors_of(saes) == {}
    with pytest.raises(BadInput, match=r"of one layer and site .* differ in 1 \(layer 0 and 1\)"):
        require_one_factor(saes[0], saes[1])


def test_what_one_architecture_does_not_read_is_no_difference_between_architectures() -> None:
    """A ReLU SAE has no auxiliary loss, so the TopK SAE's weight of it is part of its being a TopK SAE."""
    arms = [TOPK | {"auxk_coefficient": 0.5}, {"architecture": "relu", "target_l0": 16}, {"architecture": "batchtopk", "k": 16}]
    saes = declared(arms, mixes={"EQ": {"prose": 0.5, "code": 0.5}})
    assert factor_between(saes[0], saes[1]) is not None
    assert factor_between(saes[0], saes[2]) is None  # BatchTopK reads it


def test_the_narrower_comes_first_and_one_rule_for_the_learning_rate_is_no_second_factor() -> None:
    saes = declared([TOPK], expansions=[4, 2], mixes={"EQ": {"prose": 0.5, "code": 0.5}})
    pair = factor_between(saes[0], saes[1])
    assert pair is not None
    assert (pair.a.cell.expansion, pair.level, pair.other_level) == (2, "2", "4")


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7])
def test_of_too_many_pairs_an_even_and_always_equal_choice_is_taken(most: int) -> None:
    mixes = {name: {"prose": share, "code": 1 - share} for name, share in (("A", 1.0), ("B", 0.7), ("C", 0.4), ("D", 0.1))}
    saes = declared([TOPK | {"seeds": [0, 1]}], mixes=mixes)
    chosen = choose(saes, factors=["mix"], most=most)
    assert chosen.possible == {"mix": 12}  # 6 pairs of mixes, 2 seeds
    assert len(chosen.pairs) == most
    levels = [(pair.level, pair.other_level) for pair in chosen.pairs]
    assert max(map(levels.count, levels)) <= -(-most // 6)
    assert chosen == choose(saes, factors=["mix"], most=most)


def test_named_pairs_are_matched_beyond_the_cap_and_once() -> None:
    saes = declared([TOPK | {"seeds": [0, 1, 2]}], mixes={"EQ": {"prose": 0.5, "code": 0.5}})
    wanted = (saes[2].sae_id, saes[0].sae_id), (saes[0].sae_id, saes[1].sae_id)
    chosen = choose(saes, factors=FACTORS, most=1, named=wanted)
    assert {frozenset((pair.a.sae_id, pair.b.sae_id)) for pair in chosen.pairs} >= {frozenset(ids) for ids in wanted}
    assert len(chosen.pairs) <= 3
    with pytest.raises(BadInput, match="found 'POEMS'; `sae-pipeline saes STUDY` lists them"):
        named_pairs(saes, [("POEMS", saes[0].sae_id)])

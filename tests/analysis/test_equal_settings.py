"""Factors are held against each other at equal widths and arms, however unevenly a study varies them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from sae_pipeline.analysis.claims.registry import CLAIMS
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.factor_effects import at_equal_settings, difference, factor_effects
from sae_pipeline.analysis.pairwise import ends
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.analysis.verdicts import Test
from sae_pipeline.study.schema import Study

MakeStudy = Callable[..., Study]
MakeTables = Callable[..., StudyTables]
FACTORS = {"mix": "mix", "expansion": "expansion", "sparsity": "sparsity", "init_seed": "seed"}
MIXES = {name: {"prose": share, "chat": 1 - share} for name, share in (("A", 1.0), ("B", 0.7), ("C", 0.3), ("D", 0.0))}
DRAWS = 60


@pytest.fixture
def uneven(make_study: MakeStudy, make_tables: MakeTables) -> tuple[Evidence, Study]:
    """Two mixes at every width, two more at the widest alone, where two mixes have a second sparsity; two seeds."""
    study = make_study(
        MIXES,
        samples=100,
        activations={"layers": [1], "tokens": 400_000},
        saes={"expansions": [2, 4, 8], "arms": [{"architecture": "topk", "k": 16}]},
    )
    tables = make_tables(study, lambda *_: 0.6, sparsities=(16, 32), documents=1)
    saes = tables.saes
    own = (saes["mix"].isin(["A", "B"]) | (saes["expansion"] == 8)) & (saes["sparsity"] == 16)
    sparse = saes["mix"].isin(["A", "B"]) & (saes["expansion"] == 8) & (saes["sparsity"] == 32) & (saes["init_seed"] == 0)
    return Evidence.of(replace(tables, saes=saes[own | sparse].reset_index(drop=True)), study), study


def matches_where_width_decides(saes: pd.DataFrame, draw: int, noise: float = 0.02, **more: float) -> pd.DataFrame:
    """What two SAEs share falls by 0.05 per doubling of either width, whatever they differ in; a factor in ``more`` adds to it.

    The noise is that of the SAEs.
    """
    generator = np.random.default_rng(draw)
    part = pd.Series(0.4 - 0.05 * np.log2(saes["expansion"]) + noise * generator.normal(size=len(saes))).set_axis(saes["sae_id"])
    rows = []
    for a, b in combinations(saes.to_dict("records"), 2):
        differing = [name for column, name in FACTORS.items() if a[column] != b[column]]
        if len(differing) == 1:
            ids = {"sae_id": a["sae_id"], "other_sae_id": b["sae_id"], "factor": differing[0], "layer": 1, "site": ""}
            ratio = part[a["sae_id"]] + part[b["sae_id"]] + more.get(differing[0], 0.0)
            rows.append(ids | {"side": "decoder", "unit": "feature", "population": "alive", "match_ratio": ratio, "chance_match_ratio": 0.0})
    return pd.DataFrame(rows)


def parts_of_the_ranking(evidence: Evidence, study: Study, matches: pd.DataFrame) -> pd.DataFrame:
    """The rows of the claim that the mix changes most, factor by factor."""
    rows = CLAIMS["S3-39"](Test("S3-39", evidence, study, {"matches": matches}))
    frame = pd.DataFrame([vars(row) for row in rows]).set_index("scope")
    return frame.rename(index=lambda scope: scope.removeprefix("all layers, ").removesuffix(" against mix"))


def test_what_depends_on_the_width_alone_is_no_effect_of_any_factor(uneven: tuple[Evidence, Study]) -> None:
    """Pairs that differ in the width lie at smaller widths than those that differ in the mix, so their means are 0.05 apart and more."""
    evidence, study = uneven
    found = [parts_of_the_ranking(evidence, study, matches_where_width_decides(evidence.tables.saes, draw)) for draw in range(DRAWS)]
    means = matches_where_width_decides(evidence.tables.saes, 0).groupby("factor")["match_ratio"].mean()
    assert means["expansion"] - means["mix"] > 0.05
    for factor in ("expansion", "sparsity", "seed"):
        verdicts = pd.Series([parts.loc[factor, "verdict"] for parts in found]).value_counts(normalize=True)
        assert verdicts.get("supported", 0) <= 0.1
        assert verdicts.get("contradicted", 0) <= 0.1
        assert np.mean([parts.loc[factor, "estimate"] for parts in found]) == pytest.approx(0, abs=0.005)


def test_what_a_factor_adds_at_every_width_is_found(uneven: tuple[Evidence, Study]) -> None:
    evidence, study = uneven
    found = [parts_of_the_ranking(evidence, study, matches_where_width_decides(evidence.tables.saes, draw, expansion=0.1)) for draw in range(10)]
    assert [parts.loc["expansion", "verdict"] for parts in found].count("supported") >= 9
    assert np.mean([parts.loc["expansion", "estimate"] for parts in found]) == pytest.approx(0.1, abs=0.01)


def test_factors_are_ranked_at_equal_settings(uneven: tuple[Evidence, Study]) -> None:
    """By their means the seed leaves less in common than the width, at equal settings more."""
    evidence, _ = uneven
    matches = matches_where_width_decides(evidence.tables.saes, 1, noise=0.001, seed=0.012, sparsity=0.15, expansion=0.004)
    assigned = matches.iloc[:0].rename(columns={"match_ratio": "shared_feature_ratio", "chance_match_ratio": "chance_shared_feature_ratio"})
    effects = factor_effects({"matches": matches, "one_to_one": assigned}, evidence.design, 0.95).set_index("factor")
    assert effects.loc["seed", "estimate"] < effects.loc["expansion", "estimate"]
    assert effects["rank"].to_dict() == {"mix": 1, "expansion": 2, "seed": 3, "sparsity": 4}
    assert set(effects["against"]) == {"mix"}
    assert effects["difference"].to_dict() == pytest.approx({"mix": 0, "expansion": 0.004, "seed": 0.012, "sparsity": 0.15}, abs=0.001)
    assert effects.loc["seed", "difference_low"] < 0.012 < effects.loc["seed", "difference_high"]


def test_a_factor_whose_settings_no_mixes_share_has_no_rank_and_leaves_the_claim_untested(uneven: tuple[Evidence, Study]) -> None:
    evidence, study = uneven
    matches = matches_where_width_decides(evidence.tables.saes, 1)
    apart = (matches["factor"] == "mix") & matches["sae_id"].str.contains("k32")
    assert apart.sum() == 1
    fewer = matches[~apart]
    parts = parts_of_the_ranking(evidence, study, fewer)
    assert parts.index.tolist() == ["all layers", "expansion", "seed"]
    assert parts.loc["all layers", "verdict"] == "not_testable"
    assert parts.loc["all layers", "note"].endswith("found none for sparsity")
    assigned = matches.iloc[:0].rename(columns={"match_ratio": "shared_feature_ratio", "chance_match_ratio": "chance_shared_feature_ratio"})
    effects = factor_effects({"matches": fewer, "one_to_one": assigned}, evidence.design, 0.95).set_index("factor")
    assert effects["rank"].isna().to_dict() == {"mix": False, "expansion": False, "seed": False, "sparsity": True}


def test_without_mixes_the_seed_is_what_factors_are_held_against(uneven: tuple[Evidence, Study]) -> None:
    evidence, _ = uneven
    matches = matches_where_width_decides(evidence.tables.saes, 1).query("factor != 'mix'")
    assigned = matches.iloc[:0].rename(columns={"match_ratio": "shared_feature_ratio", "chance_match_ratio": "chance_shared_feature_ratio"})
    effects = factor_effects({"matches": matches, "one_to_one": assigned}, evidence.design, 0.95).set_index("factor")
    assert set(effects["against"]) == {"seed"}
    assert effects.loc["expansion", "difference"] == pytest.approx(0, abs=0.03)
    assert pd.isna(effects.loc["sparsity", "rank"])  # the second sparsity has one seed


def test_a_pair_between_two_settings_is_held_against_the_pairs_within_both() -> None:
    """Within x 0.9, within y 0.5: between them 0.7 is nothing new, 0.8 a tenth more. Nothing lies within z."""
    of = pd.Series({name: name[0] for name in ("x1", "x2", "x3", "x4", "y1", "y2", "y3", "z1", "z2")})
    drawn = [
        ("x1", "x2", "mix", 0.9), ("x3", "x4", "mix", 0.9), ("y1", "y2", "mix", 0.5), ("y1", "y3", "mix", 0.5), ("x1", "y1", "expansion", 0.75),
        ("x2", "y2", "expansion", 0.85), ("x1", "z1", "expansion", 0.1), ("z1", "z2", "seed", 0.1),
    ]  # fmt: skip
    pairs = pd.DataFrame(drawn, columns=["sae_id", "other_sae_id", "factor", "value"])
    kept = at_equal_settings(pairs, "expansion", "mix", of)
    assert kept.index.tolist() == [0, 1, 2, 3, 4, 5]
    assert difference(kept, "value", "expansion", of, 0.95).estimate == pytest.approx(0.8 - 0.7)
    assert at_equal_settings(pairs, "seed", "mix", of).empty


def test_either_end_of_a_pair_counts_half() -> None:
    terms = ends(pd.Series(["x", "x", "y"]), pd.Series(["x", "y", "z"]))
    assert terms.to_dict("list") == {"x": [1.0, 0.5, 0.0], "y": [0.0, 0.5, 0.5], "z": [0.0, 0.0, 0.5]}

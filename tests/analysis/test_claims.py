"""Verdicts follow planted effects, say why where nothing can be tested, and never compare unmatched SAEs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sae_pipeline.analysis import claims
from sae_pipeline.analysis.claims.registry import CLAIMS
from sae_pipeline.analysis.claims.seeds import _pooled_deviation
from sae_pipeline.analysis.contrasts import Evidence, averaged
from sae_pipeline.analysis.tables import DESIGN, VARIANT, WIDTH_RULE, StudyTables, design
from sae_pipeline.analysis.verdicts import ALL_LAYERS, VERDICTS, Test, verdict_of
from sae_pipeline.study.cells import Arm, cells
from sae_pipeline.study.schema import Study

NEEDS_MORE = ("S0-20", "S2-6", "S2-13", "S3-30", "S3-38", "S3-39", "S3-40", "S4-18")
"""Claims about latents, self-generated text and shared features, of which the planted tables say nothing."""

MakeStudy = Callable[..., Study]
MakeTables = Callable[..., StudyTables]


def planted(sae: Mapping[str, Any], name: str) -> float:
    """In-domain advantage 0.1 per unit of share, width +0.02 per doubling, depth +0.01 per layer, budget with shrinking gains."""
    own = sae[f"share_{name}"]
    return 0.5 + 0.1 * own + 0.02 * np.log2(sae["expansion"]) + 0.01 * sae["layer"] + 0.05 * (1 - 50_000 / sae["tokens"]) + 0.001 * sae["sparsity"]


def find(tables: StudyTables, study: Study) -> pd.DataFrame:
    return claims.find(Evidence.of(tables, study), study)


def headline(findings: pd.DataFrame, claim: str) -> pd.Series:
    return findings[(findings["id"] == claim) & (findings["scope"] == ALL_LAYERS)].iloc[0]


def headline_value(full: tuple[StudyTables, Study]) -> float:
    """Mean explained variance on prose at the largest budget."""
    tables = full[0]
    largest = tables.saes.loc[tables.saes["tokens"] == 200_000, "sae_id"]
    return float(
        tables.sae_metrics.query("evaluation_set == 'prose' and sae_id in @largest", local_dict={"largest": set(largest)})[
            "explained_variance"
        ].mean()
    )


def with_saes(tables: StudyTables, saes: pd.DataFrame) -> StudyTables:
    return StudyTables(saes, tables.sae_metrics, tables.document_sums, tables.baseline_sums, tables.feature_stats)


@pytest.fixture
def full(make_study: MakeStudy, make_tables: MakeTables) -> tuple[StudyTables, Study]:
    study = make_study()
    return make_tables(study, planted, sparsities=(16, 32), tokens=(50_000, 100_000, 200_000), seed_noise=0.002), study


def test_every_planted_effect_is_supported(full: tuple[StudyTables, Study]) -> None:
    findings = find(*full)
    for claim in CLAIMS:
        expected = "not_testable" if claim in NEEDS_MORE else "supported"
        assert headline(findings, claim)["verdict"] == expected, claim
    # PRE and INS differ by 0.4 in the share of either source: 2 × 0.1 × 0.4.
    advantage = headline(findings, "S0-13")
    assert advantage["estimate"] == pytest.approx(0.08, abs=0.005)
    assert advantage["low"] < advantage["estimate"] < advantage["high"]
    assert headline(findings, "S0-14")["estimate"] == pytest.approx(0.02, abs=0.003)
    assert headline(findings, "S0-15")["estimate"] == pytest.approx(0.0375, abs=0.003)
    assert headline(findings, "S0-16")["estimate"] == pytest.approx(0.025 - 0.0125, abs=0.003)
    assert headline(findings, "S0-17")["estimate"] == pytest.approx(0.02, abs=0.005)
    assert headline(findings, "S0-19")["estimate"] == pytest.approx(0.016, abs=0.003)
    assert headline(findings, "S0-21")["estimate"] == pytest.approx(0.04 - 0.0125, abs=0.004)
    # EQ lies halfway between PRE and INS on either set.
    assert headline(findings, "S0-22")["estimate"] == pytest.approx(0.02, abs=0.003)
    assert headline(findings, "S2-1")["estimate"] == pytest.approx(0.1 * headline_value(full) - 0.0375, abs=0.006)
    assert headline(findings, "SEED")["estimate"] == pytest.approx(0.002, rel=0.4)


def test_reversed_effects_are_contradicted(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    findings = find(make_tables(study, lambda sae, name: 1.2 - planted(sae, name), tokens=(50_000, 100_000, 200_000)), study)
    for claim in ("S0-13", "S0-14", "S0-15", "S0-16", "S0-17"):
        assert headline(findings, claim)["verdict"] == "contradicted", claim


def test_no_effect_is_inconclusive(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    findings = find(make_tables(study, lambda sae, name: 0.6, tokens=(100_000, 200_000), seed_noise=0.01, draw=5), study)
    for claim in ("S0-13", "S0-14", "S0-15", "S0-17"):
        assert headline(findings, claim)["verdict"] == "inconclusive", claim


def test_in_domain_headline_takes_the_two_most_extreme_mixes(full: tuple[StudyTables, Study]) -> None:
    findings = find(*full).query("id == 'S0-13'")
    assert findings.iloc[0]["note"].startswith("(chat − prose) of INS minus the same of PRE")
    scopes = findings["scope"].tolist()
    assert scopes[:3] == ["all layers", "L01", "L03"]
    assert len(findings) == 9  # three pairs of mixes, each for all layers, L01 and L03
    assert (findings["cells"].iloc[:2] == [8, 4]).all()
    assert findings["documents"].iloc[0] == 120


def test_in_domain_advantage_survives_a_set_that_is_harder_for_everybody(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    row = headline(find(make_tables(study, lambda sae, name: planted(sae, name) - 0.3 * (name == "chat")), study), "S0-13")
    assert row["estimate"] == pytest.approx(0.08, abs=0.005)


def test_one_seed_against_the_rest_is_inconclusive() -> None:
    assert verdict_of(0.1, 0.2, [0.3, -0.01]) == "inconclusive"
    assert verdict_of(0.1, 0.2, [0.3, 0.01]) == "supported"
    assert verdict_of(-0.2, -0.1, [-0.3]) == "contradicted"
    assert verdict_of(0.0, 0.2, [0.1]) == "inconclusive"


def test_seeds_are_compared_over_the_settings_that_all_of_them_have(make_study: MakeStudy, make_tables: MakeTables) -> None:
    """Sparsity 16 has two seeds and gains from width, sparsity 32 has seed 0 alone and loses: no reason to doubt seed 0."""
    study = make_study(held_out={"prose": {"shares": {"prose": 1.0}, "kind": "in_sample"}})
    tables = make_tables(
        study, lambda sae, name: 0.5 + (0.05 if sae["sparsity"] == 16 else -0.15) * np.log2(sae["expansion"] / 4), sparsities=(16, 32)
    )
    evidence = Evidence.of(with_saes(tables, tables.saes.query("sparsity == 16 or init_seed == 0")), study)
    contrast = averaged(evidence.matched("expansion", [4.0, 8.0], ["prose"]), {(8.0, "prose"): 1.0, (4.0, "prose"): -1.0})
    assert evidence.estimate(contrast).estimate == pytest.approx((2 * 0.05 - 0.15) / 3, abs=0.003)
    assert evidence.by_seed([contrast]) == pytest.approx({"s0d0": 0.05, "s1d0": 0.05}, abs=0.003)


def test_each_average_of_a_sum_keeps_its_weight_in_every_seed(make_study: MakeStudy, make_tables: MakeTables) -> None:
    """The first average loses a setting to the rule above, the second none; by seed, the sum is still one of each."""
    study = make_study(held_out={"prose": {"shares": {"prose": 1.0}, "kind": "in_sample"}})
    tables = make_tables(study, lambda sae, name: 0.1 if sae["mix"] == "EQ" else 0.4, sparsities=(16, 32))
    evidence = Evidence.of(with_saes(tables, tables.saes.query("sparsity == 16 or init_seed == 0 or mix == 'EQ'")), study)
    averages = []
    for mix in ("PRE", "EQ"):
        ids = evidence.design[evidence.design["mix"] == mix]["sae_id"]
        averages.append({(sae_id, "prose"): 1 / len(ids) for sae_id in ids})
    assert evidence.by_seed(averages) == pytest.approx({"s0d0": 0.5, "s1d0": 0.5}, abs=0.003)


def test_without_a_setting_that_has_every_seed_none_is_judged_alone(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    tables = make_tables(study, planted, sparsities=(16, 32))
    row = headline(find(with_saes(tables, tables.saes.query("(sparsity == 16) == (init_seed == 0)")), study), "S0-13")
    assert row["verdict"] == "supported"
    assert "no setting has every seed" in row["note"]


@pytest.mark.parametrize(("noise", "verdict"), [(0.001, "supported"), (0.03, "inconclusive"), (0.4, "contradicted")])
def test_seeds_are_held_against_the_effect_of_the_mix(make_study: MakeStudy, make_tables: MakeTables, noise: float, verdict: str) -> None:
    """PRE and INS differ by 0.04 on prose; sixteen seeds in each of twelve cells tell their spread well."""
    study = make_study()
    tables = make_tables(study, planted, seeds=tuple(range(16)), seed_noise=noise)
    row = headline(find(tables, study), "SEED")
    assert row["verdict"] == verdict
    assert row["estimate"] == pytest.approx(noise, rel=0.2)
    assert row["low"] < row["estimate"] < row["high"]
    assert "the difference between PRE and INS is" in row["note"]


def test_a_mix_that_helps_on_one_set_and_harms_on_another_has_an_effect(make_study: MakeStudy, make_tables: MakeTables) -> None:
    """In sample on both sets, the two effects of the mix would cancel in a plain mean."""
    sets = {name: {"shares": {name: 1.0}, "kind": "in_sample"} for name in ("prose", "chat")}
    study = make_study(held_out=sets)
    row = headline(find(make_tables(study, planted, seed_noise=0.001), study), "SEED")
    assert row["verdict"] == "supported"
    assert float(row["note"].split("INS is ")[1].split()[0]) == pytest.approx(0.04, abs=0.003)


def test_one_mix_gives_seeds_nothing_to_be_held_against(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study(mixes={"PRE": {"prose": 1.0}})
    row = headline(find(make_tables(study, planted), study), "SEED")
    assert row["verdict"] == "not_testable"
    assert "found the mixes PRE without such a pair" in row["note"]


def test_the_interval_of_a_spread_is_the_chi_square_one() -> None:
    """Variance 4 with 2 + 4 degrees of freedom of two widths (the further mix adds none): 6 · 4 / χ²₆, whose 2.5 and 97.5 % points are 1.2373 and 14.4494."""
    spread = pd.DataFrame({"layer": 1, "expansion": [4.0, 4.0, 8.0], "variance": 4.0, "seeds": [3, 3, 5]})
    deviation, low, high = _pooled_deviation(spread, 0.95)
    assert deviation == 2
    assert (low, high) == pytest.approx(((24 / 14.4494) ** 0.5, (24 / 1.2373) ** 0.5), rel=1e-4)


def test_seed_noise_widens_the_interval(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    quiet, noisy = (headline(find(make_tables(study, planted, seed_noise=noise), study), "S0-13") for noise in (0.0, 0.02))
    assert noisy["high"] - noisy["low"] > 3 * (quiet["high"] - quiet["low"])


def test_intervals_with_seed_noise_hold_the_truth(make_study: MakeStudy, make_tables: MakeTables) -> None:
    """Forty studies with two seeds each; the advantage is 0.08 in all of them."""
    study = make_study(samples=200)
    studies = (Evidence.of(make_tables(study, planted, documents=30, seed_noise=0.01, draw=draw), study) for draw in range(40))
    rows = [next(CLAIMS["S0-13"](Test("S0-13", evidence, study))) for evidence in studies]
    assert sum(row.low <= 0.08 <= row.high for row in rows) >= 35


@pytest.mark.parametrize(
    ("claim", "reason"),
    [
        ("S0-13", "two mixes"),
        ("S0-14", "two expansion factors on the same side of 1, found 0.5, 2"),
        ("S0-15", "two or more token budgets, found 200k"),
        ("S0-16", "three or more token budgets, found 200k"),
        ("S0-17", "two or more layers, found 1"),
        ("S0-19", "differ in nothing but sparsity"),
        ("S0-21", "two token budgets"),
        ("SEED", "two seeds"),
    ],
)
def test_what_a_study_lacks_is_the_reason_for_no_test(make_study: MakeStudy, make_tables: MakeTables, claim: str, reason: str) -> None:
    arms = [{"architecture": "topk", "k": 4}]
    study = make_study(mixes={"PRE": {"prose": 1.0}}, activations={"layers": [1], "tokens": 400_000}, saes={"expansions": [0.5, 2], "arms": arms})
    row = headline(find(make_tables(study, planted, seeds=(0,)), study), claim)
    assert row["verdict"] == "not_testable"
    assert reason in row["note"]
    assert np.isnan(row["estimate"])


def test_one_seed_is_said_to_be_one(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    row = headline(find(make_tables(study, planted, seeds=(0,)), study), "S0-13")
    assert row["seeds"] == 1
    assert "leaves out the noise of training" in row["note"]


def test_a_missing_sae_takes_its_partner_out_of_the_comparison(full: tuple[StudyTables, Study]) -> None:
    tables, study = full
    fewer = with_saes(tables, tables.saes.query("sae_id != 'PRE.L01.x04.topk-k16-t50000-s0'"))
    evidence, partial = Evidence.of(tables, study), Evidence.of(fewer, study)
    whole, part = (e.matched("mix", ["PRE", "INS"], ["prose"]) for e in (evidence, partial))
    assert len(whole) == len(part) + 1
    assert "INS.L01.x04.topk-k16-t50000-s0" not in set(part["INS"])


def test_widths_trained_by_the_width_rule_match_and_say_so(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    tables = make_tables(study, planted)
    by_rule = tables.saes.assign(learning_rate=2e-4 / np.sqrt(tables.saes["d_sae"] / 2**14))
    assert set(design(by_rule)["rate"]) == {WIDTH_RULE}
    assert "1/sqrt(d_sae)" in headline(find(with_saes(tables, by_rule), study), "S0-14")["note"]


@pytest.mark.parametrize("name", VARIANT)
def test_mixes_whose_arms_differ_in_a_further_setting_are_not_compared(make_study: MakeStudy, make_tables: MakeTables, name: str) -> None:
    """An arm of one mix alone and its counterpart of the other mix differ in two things, whatever their labels say."""
    study = make_study()
    tables = make_tables(study, planted)
    values = {"b_dec_init": ("mean", "zero"), "normalise": (True, False)}.get(name, (0.1, 0.2))
    apart = with_saes(tables, tables.saes.assign(**{name: [values[mix == "PRE"] for mix in tables.saes["mix"]]}))
    alike = with_saes(tables, tables.saes.assign(**{name: values[0]}))
    assert len(Evidence.of(alike, study).matched("mix", ["PRE", "INS"], ["prose"])) == 8
    evidence = Evidence.of(apart, study)
    assert len(evidence.matched("mix", ["PRE", "INS"], ["prose"])) == 0
    assert len(evidence.matched("mix", ["EQ", "INS"], ["prose"])) == 8


def test_no_setting_of_an_arm_is_left_out_of_the_design() -> None:
    """What a study may vary is a factor of its own or part of the variant; the seeds are the replicate, the sparsity stands for k or target L0."""
    own = {"architecture", "tokens", "batch_size", "learning_rate", "k", "target_l0", "init_seed", "data_seed"}
    assert {field.name for field in fields(Arm)} == own | set(VARIANT)


def test_architectures_of_one_study_are_compared_though_each_reads_settings_that_the_other_does_not(make_study: MakeStudy) -> None:
    """Relu knows no AuxK; with the study's defaults its arm states the same coefficient as topk's, so the two still match."""
    arms = [{"architecture": "topk", "k": 16, "seeds": [0, 1]}, {"architecture": "relu", "target_l0": 16, "seeds": [0, 1]}]
    study = make_study(saes={"expansions": [4], "arms": arms})
    rows = [
        {"sae_id": c.sae_id(label), "mix": c.mix, "layer": c.point.layer, "expansion": c.expansion, "d_sae": 32, "arm": label, "sparsity": float(arm.sparsity)}
        | {name: value for name, value in asdict(arm).items() if name != "k"}
        for c in cells(study) for label, arm in c.arms.items()
    ]  # fmt: skip
    table = design(pd.DataFrame(rows))
    pairs = table.pivot(index=[name for name in DESIGN if name != "architecture"], columns="architecture", values="sae_id")
    assert len(pairs) == 3 * 2 * 2  # mixes, layers, seeds
    assert pairs.notna().all(axis=None)


def test_arms_that_differ_out_of_sight_are_not_taken_for_seeds() -> None:
    """A table without the columns in which they differ still has them as SAEs of their own."""
    sae = {"mix": "A", "layer": 1, "expansion": 4.0, "d_sae": 32, "architecture": "topk", "sparsity": 16.0, "tokens": 1, "init_seed": 0, "data_seed": 0,
           "batch_size": 8, "learning_rate": 1e-3}  # fmt: skip
    table = design(pd.DataFrame([sae | {"sae_id": f"x-{label}", "arm": label} for label in ("a-s0", "a-s0-2", "a-s0-10")]))
    assert table.set_index("sae_id")["variant"].to_dict() == {"x-a-s0": "", "x-a-s0-2": " #2", "x-a-s0-10": " #3"}


def test_findings_are_the_same_twice_and_in_any_order(full: tuple[StudyTables, Study]) -> None:
    tables, study = full
    frames = [tables.saes, tables.sae_metrics, tables.document_sums, tables.baseline_sums]
    shuffled = StudyTables(*(frame.sample(frac=1, random_state=2) for frame in frames), tables.feature_stats)
    pd.testing.assert_frame_equal(find(tables, study), find(shuffled, study), check_exact=True)


def test_rows_have_the_documented_columns_and_known_verdicts(full: tuple[StudyTables, Study]) -> None:
    findings = find(*full)
    assert findings.columns.tolist() == [
        "id",
        "claim",
        "scope",
        "estimate",
        "low",
        "high",
        "p_value",
        "p_adjusted",
        "verdict",
        "cells",
        "documents",
        "seeds",
        "note",
    ]
    assert set(findings["verdict"]) <= set(VERDICTS)
    assert not findings.duplicated(["id", "scope"]).any()


def test_mixes_that_have_no_saes_at_some_layer_are_left_out_there_and_nothing_fails(full: tuple[StudyTables, Study]) -> None:
    tables, study = full
    shallow, deep = sorted(set(tables.saes["layer"]))[:2]
    alone = tables.saes[(tables.saes["layer"] == shallow) | (tables.saes["mix"] == next(iter(study.mixes)))]
    found = find(with_saes(tables, alone), study)
    assert headline(found, "S0-13")["verdict"] != "not_testable"
    nobody = with_saes(tables, alone[alone["layer"] == deep])
    assert headline(find(nobody, study), "S0-13")["verdict"] == "not_testable"

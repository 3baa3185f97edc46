"""Claims about latents, several parts at once, and families of claims: each follows what was planted, or says what is missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from sae_pipeline.analysis import claims
from sae_pipeline.analysis.claims.registry import CLAIMS, ORDER
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.recommendations import known, recommend
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.analysis.verdicts import ALL_LAYERS, Finding, Test, judged_together
from sae_pipeline.study.schema import Study

MakeStudy = Callable[..., Study]
MakeTables = Callable[..., StudyTables]


def headline(study: Study, tables: StudyTables, name: str) -> Finding:
    return next(row for row in CLAIMS[name](Test(name, Evidence.of(tables, study), study)) if row.scope == ALL_LAYERS)


def with_metric(tables: StudyTables, name: str, of: Callable[[pd.DataFrame], pd.Series]) -> StudyTables:
    """The tables with one more figure per SAE and set, from the rows of both tables side by side, and noise between SAEs."""
    joined = tables.sae_metrics.merge(tables.saes, on="sae_id")
    noise = np.random.default_rng(1).normal(size=len(joined)) * 0.002
    return replace(tables, sae_metrics=tables.sae_metrics.assign(**{name: of(joined).to_numpy() + noise}))


@pytest.fixture
def study(make_study: MakeStudy) -> Study:
    return make_study()


def test_every_claim_has_its_place_in_the_order() -> None:
    assert sorted(CLAIMS) == sorted(ORDER)


def test_a_set_number_of_active_latents_says_nothing_about_width(study: Study, make_tables: MakeTables) -> None:
    row = headline(study, make_tables(study, lambda *_: 0.5), "S0-20")
    assert row.verdict == "not_testable"
    assert "is set" in row.note


def test_where_nothing_sets_them_wider_dictionaries_have_more_active_latents(study: Study, make_tables: MakeTables) -> None:
    tables = make_tables(study, lambda *_: 0.5)
    width = tables.document_sums["sae_id"].map(tables.saes.set_index("sae_id")["expansion"]).to_numpy()
    sums = tables.document_sums.assign(l0=tables.document_sums["n"].to_numpy() * (10 + width) * np.random.default_rng(0).normal(1, 0.01, len(width)))
    free = replace(tables, saes=tables.saes.assign(k=np.nan, target_l0=np.nan), document_sums=sums)
    row = headline(study, free, "S0-20")
    assert row.verdict == "supported"
    assert row.estimate == pytest.approx(4, abs=0.1)


def test_layers_that_disagree_contradict_that_effects_are_alike(study: Study, make_tables: MakeTables) -> None:
    """The advantage is 0.1 at one layer and -0.04 at the other."""
    tables = make_tables(study, lambda sae, name: 0.5 + (0.1 if sae["layer"] == 1 else -0.04) * sae[f"share_{name}"])
    row = headline(study, tables, "S0-18")
    assert row.verdict == "contradicted"
    assert "in-domain advantage at L03" in row.note


def test_a_mix_better_than_both_ends_contradicts_that_it_lies_between(study: Study, make_tables: MakeTables) -> None:
    row = headline(study, make_tables(study, lambda sae, name: 0.5 + 0.1 * sae[f"share_{name}"] + 0.1 * (sae["mix"] == "EQ")), "S0-22")
    assert row.verdict == "contradicted"
    assert "no pure ends" in row.note


def test_width_that_matters_more_than_text_contradicts_its_first_place(study: Study, make_tables: MakeTables) -> None:
    tables = make_tables(study, lambda sae, name: 0.5 + 0.01 * sae[f"share_{name}"] + 0.05 * np.log2(sae["expansion"]))
    row = headline(study, tables, "S0-23")
    assert row.verdict == "contradicted"
    assert row.estimate == pytest.approx(-1, abs=0.1)
    assert "expansion" in row.note


def test_with_one_seed_the_first_place_of_the_text_cannot_be_told_from_noise(study: Study, make_tables: MakeTables) -> None:
    row = headline(study, make_tables(study, lambda sae, name: 0.5 + 0.1 * sae[f"share_{name}"], seeds=(0,)), "S0-23")
    assert row.verdict == "not_testable"
    assert "two seeds" in row.note


def test_a_budget_that_multiplies_what_is_explained_contradicts_that_little_is_enough(study: Study, make_tables: MakeTables) -> None:
    tables = make_tables(study, lambda sae, name: 0.3 if sae["tokens"] == 50_000 else 0.6, tokens=(50_000, 200_000))
    row = headline(study, tables, "S2-1")
    assert row.verdict == "contradicted"
    assert row.estimate == pytest.approx(0.3 - 0.9 * 0.6, abs=0.01)


def test_always_on_latents_that_a_penalty_and_matching_text_remove_support_the_claim(study: Study, make_tables: MakeTables) -> None:
    tables = make_tables(study, lambda *_: 0.5, seeds=(0, 1, 2), sparsities=(16, 32))
    # The penalty is the only thing in which the two sparsities are then told apart.
    saes = tables.saes.assign(diversity_coefficient=np.where(tables.saes["sparsity"] == 32, 0.02, 0.0), sparsity=16.0, k=16)
    tables = replace(tables, saes=saes)

    def always_on(rows: pd.DataFrame) -> pd.Series:
        own = np.where(rows["evaluation_set"] == "prose", rows["share_prose"], rows["share_chat"])
        return 0.2 - 5 * rows["diversity_coefficient"] - 0.1 * own

    row = headline(study, with_metric(tables, "dense_share@0.8", always_on), "S4-18")
    assert row.verdict == "supported"
    assert headline(study, with_metric(tables, "dense_share@0.8", lambda rows: 0.4 - always_on(rows)), "S4-18").verdict == "contradicted"
    assert headline(study, tables, "S4-18").verdict == "not_testable"


def test_fewer_always_on_latents_by_matching_text_alone_are_half_of_the_claim(study: Study, make_tables: MakeTables) -> None:
    def always_on(rows: pd.DataFrame) -> pd.Series:
        return 0.2 - 0.1 * rows["share_prose"].where(rows["evaluation_set"] == "prose", rows["share_chat"])

    tables = with_metric(make_tables(study, lambda *_: 0.5, seeds=(0, 1, 2)), "dense_share@0.8", always_on)
    head, text = CLAIMS["S4-18"](Test("S4-18", Evidence.of(tables, study), study))
    assert head.verdict == "not_testable"
    assert head.note.endswith("found none of SAEs that differ in nothing but the diversity coefficient")
    assert text.verdict == "supported"


def test_self_generated_text_needs_both_of_its_parts(make_study: MakeStudy, make_tables: MakeTables) -> None:
    sources = {"prose": {"kind": "installed_docs"}, "chat": {"kind": "installed_docs"}, "own": {"kind": "self_generated", "tokens": 100_000}}
    study = make_study({"WEB": {"prose": 1.0}, "OWN": {"own": 1.0}}, sources=sources)
    tables = with_metric(make_tables(study, lambda *_: 0.5, seeds=(0, 1, 2)), "fake_feature_ratio", lambda rows: 0.2 - 0.1 * (rows["mix"] == "OWN"))
    head, fake = CLAIMS["S2-13"](Test("S2-13", Evidence.of(tables, study), study))
    assert head.verdict == "not_testable"
    assert fake.verdict == "supported"
    assert fake.estimate == pytest.approx(0.1, abs=0.005)


def test_a_claim_of_several_parts_is_as_strong_as_its_weakest(study: Study, make_tables: MakeTables) -> None:
    test = Test("S0-18", Evidence.of(make_tables(study, lambda *_: 0.5), study), study)
    strong, weak = (
        Finding(
            id="",
            claim="",
            scope="",
            estimate=0.2,
            low=low,
            high=0.4,
            p_value=p,
            p_adjusted=p,
            verdict=verdict,
            cells=1,
            documents=9,
            seeds=2,
            note="",
        )
        for low, p, verdict in ((0.1, 0.001, "supported"), (-0.1, 0.2, "inconclusive"))
    )
    assert test.all_of("c", ALL_LAYERS, [("a", strong), ("b", weak)]).verdict == "inconclusive"
    assert test.all_of("c", ALL_LAYERS, [("a", strong), ("b", strong)]).p_value == 0.001
    # A seed that disagrees makes a part inconclusive however small its p-value is.
    torn = replace(strong, p_value=1e-9, verdict="inconclusive")
    assert test.all_of("c", ALL_LAYERS, [("a", strong), ("b", torn)]).verdict == "inconclusive"
    against = replace(strong, estimate=-0.2, low=-0.4, high=-0.1, verdict="contradicted")
    both = test.all_of("c", ALL_LAYERS, [("a", strong), ("b", against)])
    assert (both.verdict, both.p_value) == ("contradicted", 0.002)
    assert both.note.endswith("; the others: a +0.2000 [+0.1000, +0.4000]")
    nan = float("nan")
    unsure = [("b", replace(strong, estimate=0.0, low=nan, high=nan)), ("c", replace(strong, estimate=nan, low=nan, high=nan))]
    assert test.all_of("c", ALL_LAYERS, [("a", against), *unsure]).note.endswith("; the others: b +0.0000, c without an estimate")


def test_a_family_can_take_back_a_verdict_and_says_so(study: Study, make_tables: MakeTables) -> None:
    """One of three headlines has p = 0.03: alone a discovery, in its family 3 · 0.03 and none."""
    one = Finding(
        id="A", claim="", scope=ALL_LAYERS, estimate=0.2, low=0.01, high=0.4, p_value=0.03, p_adjusted=0.03, verdict="supported",
        cells=1, documents=9, seeds=2, note="as it was",
    )  # fmt: skip
    rows = [one, replace(one, id="B", p_value=0.5, verdict="inconclusive"), replace(one, id="C", p_value=0.6, verdict="inconclusive")]
    judged = judged_together([*rows, replace(one, scope="L01")], 0.05)
    assert judged[0].verdict == "inconclusive"
    assert judged[0].p_adjusted == pytest.approx(0.09)
    assert "3 rows tested together" in judged[0].note
    assert judged[0].note.endswith("as it was")
    # The further rows of a claim are a family of their own.
    assert (judged[3].verdict, judged[3].p_adjusted) == ("supported", 0.03)


def test_recommendations_appear_only_with_their_claims() -> None:
    findings = pd.DataFrame(
        {"id": name, "scope": ALL_LAYERS, "estimate": 0.1, "low": 0.05, "high": 0.15, "verdict": "supported", "seeds": 2} for name in ORDER
    )
    assert recommend(findings)["id"].tolist() == ["S0-24", "S0-25", "S0-26", "S0-27"]
    for advice in known():
        assert set(advice.rests_on) <= set(ORDER)
        for name in advice.rests_on:
            fewer = findings.assign(verdict=np.where(findings["id"] == name, "inconclusive", "supported"))
            assert advice.id not in set(recommend(fewer)["id"])
    assert recommend(findings.assign(verdict="not_testable")).columns.tolist() == ["id", "text", "rests_on", "evidence"]
    assert recommend(findings.iloc[:0]).empty
    assert recommend(findings.assign(seeds=1)).empty


def test_one_document_alone_decides_nothing(study: Study, make_tables: MakeTables) -> None:
    """Resamples of a single document are all the same, which is no certainty."""
    tables = make_tables(study, lambda sae, name: 0.5 + 0.1 * sae[f"share_{name}"], documents=1, seeds=(0,))
    found = claims.find(Evidence.of(tables, study), study)
    row = found[(found["id"] == "S0-13") & (found["scope"] == ALL_LAYERS)].iloc[0]
    assert row["verdict"] == "inconclusive"
    assert np.isnan(row["low"])
    assert "no interval" in row["note"]

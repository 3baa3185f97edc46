"""Two studies are compared SAE by SAE of the same settings, on the same documents where they are the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sae_pipeline.analysis.study_differences import (
    EQUAL,
    HIGHER,
    UNCLEAR,
    answering,
    changed_artifacts,
    changed_marks,
    changed_verdicts,
    differences,
    same_documents,
)
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.reports.comparison import verdict_section
from sae_pipeline.study.schema import Analysis, Study

MakeStudy = Callable[..., Study]
MakeTables = Callable[..., StudyTables]
SETTINGS = Analysis(bootstrap_samples=400)


def planted(shift: float = 0.0) -> Callable[[Mapping[str, Any], str], float]:
    return lambda sae, name: 0.6 + 0.02 * np.log2(sae["expansion"]) + shift * (sae["layer"] == 3)


@pytest.fixture
def made(make_study: MakeStudy, make_tables: MakeTables) -> Callable[..., StudyTables]:
    """Tables with fingerprints that say what was planted, of SAEs at one site."""

    def make(shift: float = 0.0, **options: Any) -> StudyTables:
        tables = make_tables(make_study(), planted(shift), **options)
        prints = [f"{sae_id} {shift * (layer == 3)}" for sae_id, layer in zip(tables.saes["sae_id"], tables.saes["layer"], strict=True)]
        saes = tables.saes.assign(fingerprint=prints, site="resid_post")
        return StudyTables(saes, tables.sae_metrics, tables.document_sums, tables.baseline_sums.assign(site="resid_post"), tables.feature_stats)

    return make


def rows(found: pd.DataFrame, metric: str = "explained_variance") -> pd.DataFrame:
    """Rows of all layers together, by evaluation set."""
    return found[(found["metric"] == metric) & found["layer"].isna()].set_index("evaluation_set")


def test_a_study_against_itself_is_the_same_to_the_bit(made: Callable[..., StudyTables]) -> None:
    tables = made()
    found = answering(tables.saes, tables.saes)
    assert found.pairs["same"].all()
    assert not found.differing
    assert not [*found.only_before, *found.only_after]
    changes = differences(tables, tables, found, SETTINGS)
    assert set(changes["said"]) == {EQUAL}
    assert (changes[["estimate", "low", "high"]] == 0).all().all()


def test_a_planted_change_is_found_in_the_saes_that_changed(made: Callable[..., StudyTables]) -> None:
    before, after = made(seed_noise=0.002), made(0.02, seed_noise=0.002)
    found = answering(before.saes, after.saes)
    assert found.pairs.loc[~found.pairs["same"], "layer"].unique().tolist() == [3]
    changes = differences(before, after, found, SETTINGS)
    for name in ("prose", "chat"):
        row = rows(changes).loc[name]
        assert row["saes"] == (~found.pairs["same"]).sum()
        assert row["estimate"] == pytest.approx(0.02, abs=0.002)
        assert row["low"] <= row["estimate"] <= row["high"]
        assert row["said"] == HIGHER
        assert row["after"] - row["before"] == pytest.approx(row["estimate"])
        assert row["documents"] == 60
        assert not row["note"]


def test_equal_documents_make_the_interval_narrow_and_others_are_told(made: Callable[..., StudyTables]) -> None:
    before, after = made(), made(0.02)
    other = StudyTables(
        after.saes,
        after.sae_metrics,
        after.document_sums.assign(document_hash="new " + after.document_sums["document_hash"]),
        after.baseline_sums.assign(document_hash="new " + after.baseline_sums["document_hash"]),
        after.feature_stats,
    )
    assert same_documents(before, after) == ["chat", "prose"]
    assert same_documents(before, other) == []
    found = answering(before.saes, after.saes)
    paired, apart = (rows(differences(before, tables, found, SETTINGS)).loc["prose"] for tables in (after, other))
    assert apart["estimate"] == pytest.approx(paired["estimate"])
    assert apart["high"] - apart["low"] > 3 * (paired["high"] - paired["low"])
    assert apart["documents"] == 2 * paired["documents"]
    assert "other documents before and after in prose" in apart["note"]


def test_nothing_but_seed_noise_is_no_clear_change(made: Callable[..., StudyTables]) -> None:
    before, after = made(seed_noise=0.01), made(1e-9, seed_noise=0.01, draw=1)
    changes = differences(before, after, answering(before.saes, after.saes), SETTINGS)
    assert set(rows(changes)["said"]) == {UNCLEAR}


def test_two_seeds_of_one_setting_do_not_differ_clearly(made: Callable[..., StudyTables]) -> None:
    """Both studies have one seed; the errors of the second are 2 to 4 % larger, which the documents tell from none."""
    before, after = (made(seeds=(seed,)) for seed in (0, 1))
    sums = after.document_sums.assign(sse=after.document_sums["sse"] * np.linspace(1.02, 1.04, len(after.document_sums)))
    after = StudyTables(after.saes.assign(fingerprint="other"), after.sae_metrics, sums, after.baseline_sums, after.feature_stats)
    found = answering(before.saes, after.saes)
    assert list(found.differing) == ["replicate"]
    changes = differences(before, after, found, SETTINGS)
    explained = changes[changes["metric"] == "explained_variance"]
    assert (explained["high"] < 0).all()
    assert set(explained["said"]) == {UNCLEAR}


def test_what_one_seed_leaves_out_and_few_documents_are_told(made: Callable[..., StudyTables]) -> None:
    def note(**options: Any) -> str:
        before, after = made(**options), made(0.02, **options)
        row = rows(differences(before, after, answering(before.saes, after.saes), SETTINGS)).loc["prose"]
        assert row["said"] == HIGHER
        return row["note"]

    assert note(seeds=(0,)) == "one seed, so the interval leaves out the noise of training"
    assert note(documents=8, seed_noise=1e-4) == "fewer than 20 documents in prose, so the interval may be too narrow"


def test_a_setting_in_which_the_studies_differ_as_a_whole_is_named(made: Callable[..., StudyTables]) -> None:
    before, after = made(tokens=(100_000,)), made(tokens=(200_000,))
    found = answering(before.saes, after.saes)
    assert found.differing == {"tokens": ("100000", "200000")}
    assert len(found.pairs) == len(before.saes)


def test_saes_without_an_answer_are_listed(made: Callable[..., StudyTables]) -> None:
    tables = made()
    layer = tables.saes["layer"] == 1
    found = answering(tables.saes[layer | (tables.saes["mix"] == "EQ")], tables.saes[~layer])
    assert set(found.only_before) == set(tables.saes.loc[layer, "sae_id"])
    assert set(found.only_after) == set(tables.saes.loc[~layer & (tables.saes["mix"] != "EQ"), "sae_id"])


def test_columns_that_one_version_lacks_do_not_part_saes(made: Callable[..., StudyTables]) -> None:
    saes = made().saes
    found = answering(saes.assign(tilt=0.0), saes.assign(decay="cosine"))
    assert len(found.pairs) == len(saes)


def finding(claim: str, verdict: str, estimate: float = 0.1) -> dict[str, Any]:
    return {
        "id": claim,
        "scope": "all layers",
        "site": "resid_post",
        "claim": f"Claim {claim}.",
        "verdict": verdict,
        "estimate": estimate,
        "low": 0.0,
        "high": 0.2,
    }


def test_verdicts_that_changed_or_came_are_told() -> None:
    before = pd.DataFrame([finding("S0-13", "supported"), finding("S0-14", "inconclusive", 0.01)])
    after = pd.DataFrame([finding("S0-13", "supported"), finding("S0-14", "supported"), finding("S0-15", "contradicted")])
    changed = changed_verdicts(before, after).set_index("id")
    assert list(changed.index) == ["S0-14", "S0-15"]
    assert (changed.loc["S0-14", "verdict_before"], changed.loc["S0-14", "verdict_after"]) == ("inconclusive", "supported")
    assert (changed.loc["S0-14", "estimate_before"], changed.loc["S0-14", "estimate_after"]) == (0.01, 0.1)
    assert pd.isna(changed.loc["S0-15", "verdict_before"])
    assert changed.loc["S0-15", "claim"] == "Claim S0-15."


def test_a_claim_that_merely_became_testable_did_not_change_its_verdict() -> None:
    nan = float("nan")
    before = [
        finding("S0-13", "supported"),
        finding("S0-14", "not_testable", nan),
        finding("S0-15", "inconclusive"),
        finding("S0-16", "not_testable", nan),
    ]
    after = [
        finding("S0-13", "contradicted"),
        finding("S0-14", "supported"),
        finding("S0-15", "not_testable", nan),
        finding("S0-16", "not_testable", nan),
    ]
    changed = changed_verdicts(pd.DataFrame(before), pd.DataFrame([*after, finding("S0-17", "not_testable", nan)]))
    assert dict(zip(changed["id"], changed["turned"], strict=True)) == {
        "S0-13": "another verdict", "S0-14": "testable only after", "S0-15": "testable only before", "S0-17": "in one study alone",
    }  # fmt: skip
    said = verdict_section(changed).sentences[0]
    assert said == (
        "1 finding changed the verdict (1 of them for all layers together), 1 could be tested only after, 1 only before; 1 are in one study alone."
    )


def test_marks_turn_worse_better_or_otherwise() -> None:
    def marks(sae_id: str, *given: str) -> pd.DataFrame:
        metrics = [f"metric {n}" for n in range(len(given))]
        return pd.DataFrame({"sae_id": sae_id, "evaluation_set": "prose", "rubric": "r", "metric": metrics, "value": 0.5, "mark": given})

    before, after = marks("a", "good", "poor", "warning", "good"), marks("b", "warning", "acceptable", "not_judged", "good")
    changed = changed_marks(before, after, pd.DataFrame({"before": ["a"], "after": ["b"]}))
    assert dict(zip(changed["metric"], changed["turned"], strict=True)) == {"metric 0": "worse", "metric 1": "better", "metric 2": "otherwise"}


def test_the_stage_at_which_studies_part_is_counted() -> None:
    def lineage(**prints: str) -> pd.DataFrame:
        return pd.DataFrame([{"artifact_stage": name.split("_")[0], "what": name, "fingerprint": value} for name, value in prints.items()])

    found = changed_artifacts(lineage(subject_x="1", corpus_a="2", saes_a="3"), lineage(subject_x="1", corpus_a="4", saes_a="5", saes_b="6"))
    assert found["stage"].tolist() == ["subject", "corpus", "saes"]
    assert found[["same", "changed", "only_after"]].to_numpy().tolist() == [[1, 0, 0], [0, 1, 0], [0, 1, 1]]

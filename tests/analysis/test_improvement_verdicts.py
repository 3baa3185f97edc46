"""Verdicts on proposed arms: by hand from intervals, and from planted effects, documents and firings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sae_pipeline.analysis.bootstrap import document_weights
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.firing_resamples import FiringResamples, needs_firings
from sae_pipeline.analysis.improving.proposals import TO_TRAIN, Proposal
from sae_pipeline.analysis.improving.root_cause_rules import Rule, root_causes
from sae_pipeline.analysis.improving.verdicts import COLUMNS, Change, compare, judged_together, verdict
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.study.schema import Study

OLD = [f"PRE.L01.x04.topk-k16-t200000-s{seed}" for seed in (0, 1)]
NEW = [f"PRE.L01.x04.topk-k16-t400000-s{seed}" for seed in (0, 1)]


def change(low: float, high: float, *by_seed: float) -> Change:
    return Change(float(np.mean(by_seed)) if by_seed else float("nan"), low, high, by_seed)


SAME = change(-0.002, 0.002, 0.001, -0.001)
"""Explained variance that did not change."""


@pytest.mark.parametrize(
    ("gain", "guard", "said"),
    [
        (change(0.01, 0.03, 0.02, 0.02), SAME, "kept"),
        (change(0.01, 0.03, 0.03, 0.01), change(-0.006, -0.002, -0.004, -0.004), "kept"),
        (change(0.01, 0.03, 0.05, -0.01), SAME, "inconclusive"),
        (change(-0.01, 0.03, 0.01, 0.01), SAME, "inconclusive"),
        (change(-0.03, -0.01, -0.02, -0.02), SAME, "not_kept"),
        (change(0.01, 0.03, 0.02, 0.02), change(-0.010, -0.006, -0.008, -0.008), "not_kept"),
        (change(float("nan"), float("nan"), 0.01, 0.01), SAME, "inconclusive"),
    ],
)
def test_an_arm_is_kept_when_it_is_clearly_better_and_explains_no_less(gain: Change, guard: Change, said: str) -> None:
    assert verdict(gain, guard, tolerance=0.005)[0] == said


@pytest.mark.parametrize("by_seed", [(-0.02, -0.10), (0.03, -0.01)])
def test_a_fall_of_explained_variance_is_not_let_pass_because_two_seeds_leave_its_interval_wide(by_seed: tuple[float, float]) -> None:
    """In the mean of both seeds, or in one of them alone."""
    said, why = verdict(change(0.01, 0.03, 0.02, 0.02), change(-0.58, 0.46, *by_seed), tolerance=0.005)
    assert said == "inconclusive"
    assert "explains less variance, by more than 0.005" in why


def test_one_seed_settles_nothing_either_way() -> None:
    for gain in (change(0.01, 0.03, 0.02), change(-0.03, -0.01, -0.02)):
        for guard in (change(0.0, 0.0, 0.0), change(-0.3, -0.2, -0.25)):
            said, why = verdict(gain, guard, tolerance=0.005)
            assert said == "inconclusive"
            assert "give the arm two seeds" in why


def test_a_gain_that_is_alike_in_every_resample_and_seed_has_no_interval() -> None:
    for high in (0.3, 0.3 + 1e-16):
        said, why = verdict(change(0.3, high, 0.3, 0.3, 0.3), SAME, tolerance=0.005)
        assert said == "inconclusive"
        assert "nothing that was resampled varies" in why


def compared(*rows: tuple[float, str]) -> pd.DataFrame:
    """Comparisons of the given p-values and verdicts."""
    blank = {name: "" if kind == "string" else 0 for name, kind in COLUMNS.items()}
    return pd.DataFrame([blank | {"p_value": p, "p_adjusted": p, "verdict": said, "note": "as found"} for p, said in rows]).astype(COLUMNS)


def test_what_is_kept_stands_among_all_arms_that_were_compared() -> None:
    """Holm (1979) on four tests: 4 times 0.001, 3 times 0.02, 2 times 0.6 and 0.7, none below the one before; what was not tested counts for nothing."""
    nan = float("nan")
    found = judged_together(
        compared((0.02, "kept"), (0.001, "kept"), (0.6, "inconclusive"), (nan, "inconclusive"), (0.7, "inconclusive"), (nan, "not_compared")), 0.05
    )
    assert found["p_adjusted"].tolist() == pytest.approx([0.06, 0.004, 1, nan, 1, nan], nan_ok=True)
    assert found["verdict"].tolist() == ["inconclusive", "kept", "inconclusive", "inconclusive", "inconclusive", "not_compared"]
    assert found["note"].tolist()[0].startswith("the interval of the gain leaves out zero (p = 0.02), but among 4 arms compared together")
    assert found["note"].tolist()[0].endswith("; as found")
    assert set(found["note"].tolist()[1:]) == {"as found"}


def rule(name: str) -> Rule:
    return next(one for one in root_causes().rules if one.id == name)


def proposal(name: str, sets: tuple[str, ...] = ("prose",), seeds: int = 2) -> Proposal:
    """The longer arms answering to the shorter ones."""
    chosen = rule(name)
    answers = dict(zip(OLD[:seeds], NEW[:seeds], strict=True))
    return Proposal(chosen, chosen.remedies[0], "tokens 200000 → 400000", answers, tuple(answers), sets, TO_TRAIN)


@pytest.fixture
def planted(make_study: Callable[..., Study], make_tables: Callable[..., StudyTables]) -> Callable[..., tuple[StudyTables, Study]]:
    """Tables of two budgets, whose explained variance differs by ``gain`` on the in-sample set and on the other."""

    def plant(gain: Mapping[str, float], **changes: Any) -> tuple[StudyTables, Study]:
        study = make_study()

        def truth(sae: Mapping[str, Any], name: str) -> float:
            return 0.6 + (gain[name] if sae["tokens"] == 400_000 else 0.0)

        return make_tables(study, truth, tokens=(200_000, 400_000), **changes), study

    return plant


def test_the_gain_is_the_mean_over_seeds_of_paired_differences(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    tables, study = planted({"prose": 0.05, "chat": 0.0})
    [row] = compare(Evidence.of(tables, study), [proposal("undertrained")]).to_dict("records")
    explained = tables.sae_metrics.set_index(["sae_id", "evaluation_set"])["explained_variance"]
    before, after = (np.mean([explained[sae_id, "prose"] for sae_id in ids]) for ids in (OLD, NEW))
    assert (row["before"], row["after"], row["gain"]) == pytest.approx((before, after, after - before), rel=1e-9)
    assert row["guard"] == pytest.approx(row["gain"], rel=1e-9)
    assert (row["verdict"], row["seeds"], row["documents"]) == ("kept", 2, 60)
    assert row["gain_low"] < 0.05 < row["gain_high"]
    assert 0 < row["p_value"] < 0.05
    assert "regression to the mean" in row["note"]


def test_few_documents_are_told(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    for documents, told in ((60, False), (8, True)):
        tables, study = planted({"prose": 0.05, "chat": 0.0}, documents=documents)
        [row] = compare(Evidence.of(tables, study), [proposal("undertrained")]).to_dict("records")
        assert ("fewer than 20 documents in prose" in row["note"]) == told


def test_a_metric_that_should_fall_gains_by_falling(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    """12 active latents instead of 16 are a gain of 4, more of it in some documents than in others."""
    tables, study = planted({"prose": 0.0, "chat": 0.0})
    sums = tables.document_sums
    longer = sums["sae_id"].isin(NEW)
    sums.loc[longer, "l0"] += 60 * (sums.loc[longer, "document"] % 2) - 30 - 4 * sums.loc[longer, "n"]
    [row] = compare(Evidence.of(tables, study), [proposal("too_dense")]).to_dict("records")
    assert (row["before"], row["after"], row["gain"], row["verdict"]) == (pytest.approx(16), pytest.approx(12), pytest.approx(4), "kept")


def test_active_latents_that_k_sets_need_no_interval(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    tables, study = planted({"prose": 0.0, "chat": 0.0})
    sums = tables.document_sums
    sums.loc[sums["sae_id"].isin(NEW), "l0"] *= 0.75
    found = judged_together(compare(Evidence.of(tables, study), [proposal("too_dense")]), 0.05)
    assert found[["gain", "verdict"]].to_numpy().tolist() == [[pytest.approx(4), "kept"]]
    [other] = compare(Evidence.of(replace(tables, saes=tables.saes.assign(architecture="relu")), study), [proposal("too_dense")]).to_dict("records")
    assert other["verdict"] == "inconclusive"


def test_an_arm_that_costs_explained_variance_in_sample_is_not_kept(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    """Unless its rule guards the set that showed the problem alone."""
    tables, study = planted({"prose": -0.1, "chat": 0.1})
    evidence = Evidence.of(tables, study)
    rows = compare(evidence, [proposal("fits_its_training_text", ("chat",)), proposal("other_text", ("chat",))]).to_dict("records")
    assert [(row["guard_sets"], row["verdict"]) for row in rows] == [("prose", "not_kept"), ("chat", "kept")]
    assert "less variance" in rows[0]["note"]


def test_a_proposal_whose_arms_diverged_is_not_compared(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    tables, study = planted({"prose": 0.05, "chat": 0.0}, seeds=(0,))
    lost = proposal("undertrained")
    [row] = compare(Evidence.of(tables, study), [lost]).to_dict("records")
    assert row["verdict"] == "inconclusive"
    assert "give the arm two seeds" in row["note"]
    assert "1 of 2 seeds have no value" in row["note"]
    assert np.isnan(row["p_value"])
    missing = Proposal(lost.rule, lost.remedy, lost.change, {OLD[0]: "PRE.L01.x04.none"}, (OLD[0],), ("prose",), TO_TRAIN)
    [row] = compare(Evidence.of(tables, study), [missing]).to_dict("records")
    assert (row["verdict"], row["documents"]) == ("not_compared", 0)


# ------------------------------------------------------------------------------------------------ firings and decoders


def test_which_metrics_need_firings() -> None:
    assert [name for name in ("dead_share", "dense_share@0.8", "l0", "decoder_top100_pair_cos") if needs_firings(name)] == [
        "dead_share",
        "dense_share@0.8",
    ]


def firings(tables: StudyTables, always_on: Mapping[str, int]) -> dict[tuple[str, str], np.ndarray]:
    """Counts of 32 latents per document of ``prose``, documents in the order of their hashes: so many fire on every token, the rest on few."""
    found = {}
    sums = tables.document_sums[tables.document_sums["evaluation_set"] == "prose"]
    for sae_id, number in always_on.items():
        n = sums[sums["sae_id"] == sae_id].sort_values("document_hash")["n"].to_numpy()
        counts = np.repeat((n // 20)[:, None], 32, axis=1)
        counts[:, :number] = n[:, None]
        found[sae_id, "prose"] = counts
    return found


def test_fewer_always_on_latents_are_a_gain(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    """4 of 32 latents before and 1 after: 0.125 and 0.03125. One more after is just short of always on, and is so in some resamples."""
    tables, _ = planted({"prose": 0.0, "chat": 0.0})
    counts = firings(tables, dict.fromkeys(OLD, 4) | dict.fromkeys(NEW, 1))
    for sae_id in NEW:
        counts[sae_id, "prose"][:46, 1] = counts[sae_id, "prose"][:46, 0]
    evidence = Evidence(tables, FiringResamples(tables, 200, 0, counts), 0.95)
    [row] = compare(evidence, [proposal("always_on")]).to_dict("records")
    assert (row["before"], row["after"], row["gain"]) == pytest.approx((0.125, 0.03125, 0.09375))
    assert 0 < row["gain_low"] < row["gain_high"]
    assert row["verdict"] == "kept"


def test_counts_that_agree_in_every_resample_and_seed_are_no_proof(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    tables, _ = planted({"prose": 0.0, "chat": 0.0})
    counts = firings(tables, dict.fromkeys(OLD, 4) | dict.fromkeys(NEW, 1))
    [row] = compare(Evidence(tables, FiringResamples(tables, 200, 0, counts), 0.95), [proposal("always_on")]).to_dict("records")
    assert (row["gain"], row["seeds"], row["verdict"]) == (pytest.approx(0.09375), 2, "inconclusive")
    assert np.isnan([row["gain_low"], row["gain_high"], row["p_value"]]).all()


def test_shares_of_latents_are_formed_anew_in_every_resample(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    """Latent 0 fires in the first document alone, so it is dead in the resamples that lack this document; the mean is put at the estimate."""
    tables, _ = planted({"prose": 0.0, "chat": 0.0})
    sums = tables.document_sums
    hashes = sorted(sums.loc[(sums["sae_id"] == OLD[0]) & (sums["evaluation_set"] == "prose"), "document_hash"])
    counts = np.ones((60, 4))
    counts[1:, 0] = 0
    rows, values = FiringResamples(tables, 50, 3, {(OLD[0], "prose"): counts}).values("dead_share")
    lacking = document_weights(3, "prose", hashes, 50)[:, 0] == 0
    assert rows == {(OLD[0], "prose"): 0}
    assert values[0, 0] == 0
    assert values[0, 1:] == pytest.approx(0.25 * lacking - (0.25 * lacking).mean())


def test_a_figure_of_the_decoder_has_no_interval_over_documents_and_needs_seeds(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    """Two seeds whose differences are 0.1 and 0.2: mean 0.15, and with one degree of freedom an interval that holds zero."""
    tables, _ = planted({"prose": 0.0, "chat": 0.0})
    cosine = dict(zip([*OLD, *NEW], (0.5, 0.6, 0.4, 0.4), strict=True))
    metrics = tables.sae_metrics.assign(decoder_top100_pair_cos=tables.sae_metrics["sae_id"].map(cosine))
    tables = StudyTables(tables.saes, metrics, tables.document_sums, tables.baseline_sums, tables.feature_stats)
    evidence = Evidence(tables, FiringResamples(tables, 100, 0, {}), 0.95)
    one, both = compare(evidence, [proposal("redundant", seeds=1), proposal("redundant")]).to_dict("records")
    assert (one["gain"], one["verdict"]) == (pytest.approx(0.1), "inconclusive")
    assert "give the arm two seeds" in one["note"]
    assert both["gain"] == pytest.approx(0.15)
    assert both["gain_high"] - both["gain"] == pytest.approx(12.706 * 0.05, rel=1e-3)  # t(0.975, 1) times s / sqrt(2), s = 0.1 / sqrt(2)
    assert both["verdict"] == "inconclusive"


def test_an_empty_comparison_has_typed_columns(planted: Callable[..., tuple[StudyTables, Study]]) -> None:
    tables, study = planted({"prose": 0.0, "chat": 0.0})
    found = compare(Evidence.of(tables, study), [])
    for table in (found, judged_together(found, 0.05)):
        assert isinstance(table, pd.DataFrame)
        assert "object" not in table.dtypes.astype(str).tolist()

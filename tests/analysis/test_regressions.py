"""What counts as worse between recorded evaluations: paired on the same text, beyond the tolerance, and never noise alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import ttest_1samp

from sae_pipeline.analysis.regressions import COLUMNS, NEW_TEXT, NEW_VERSION, NOT_EVALUATED, regressions

TOKENS, PER_TOKEN = 100, 2.0
"""Tokens of every document, and the variance of a token."""

Recorded = tuple[dict[str, Any], pd.DataFrame]


def record(day: int, explained: float, *, window: int = 0, version: str = "a", documents: int = 60, spread: float = 0.2) -> Recorded:
    """One SAE on one set: documents whose shares of unexplained variance scatter around the given mean."""
    noise = np.random.default_rng(window).normal(0, spread, documents)
    unexplained = (1 - explained) * (1 + noise - noise.mean())
    frame = pd.DataFrame({"sae_id": "S", "evaluation_set": "prose", "document_hash": [f"w{window}-{n}" for n in range(documents)], "n": TOKENS})
    frame["sst"] = TOKENS * PER_TOKEN
    frame["sse"] = unexplained * frame["sst"]
    return {"recorded": f"2026-01-{day:02d}T00:00:00Z", "window": window, "text": f"text {window}", "saes": {"S": version}}, frame


def judged(*records: Recorded, tolerance: float = 0.01, samples: int = 500, declared: tuple[str, ...] = ("S",)) -> pd.DataFrame:
    return regressions(records, declared=declared, tolerance=tolerance, bootstrap_samples=samples, confidence=0.95, seed=0)


def of_errors(day: int, sse: list[float], *, hashes: str, version: str = "a") -> Recorded:
    """A record of the documents of these letters, each of variance 100."""
    about, _ = record(day, 0.7, version=version)
    return about, pd.DataFrame({"sae_id": "S", "evaluation_set": "prose", "document_hash": list(hashes), "n": TOKENS, "sst": 100.0, "sse": sse})


def test_one_record_has_nothing_to_be_compared_with() -> None:
    found = judged(record(1, 0.7))
    assert len(found) == 0
    assert list(found.columns) == list(COLUMNS)


def test_a_new_version_that_explains_less_of_the_same_text_is_worse_by_just_that() -> None:
    (row,) = judged(record(1, 0.70), record(8, 0.66, version="b")).to_dict("records")
    assert (row["compared"], row["worse"], row["documents"]) == (NEW_VERSION, True, 60)
    assert (row["before"], row["after"]) == (pytest.approx(0.70), pytest.approx(0.66))
    assert row["change"] == pytest.approx(-0.04)
    assert row["low"] < row["change"] < row["high"] < -0.01


def test_pairing_finds_what_two_separate_samples_could_not() -> None:
    # Unexplained shares scatter by 40 % between documents, the versions differ by 4 % of them.
    (row,) = judged(record(1, 0.50, spread=0.4), record(8, 0.48, spread=0.4, version="b"), tolerance=0.0).to_dict("records")
    assert row["worse"]
    assert row["high"] - row["low"] < 0.01


def test_a_fall_within_the_tolerance_is_none() -> None:
    assert not judged(record(1, 0.70), record(8, 0.692, version="b"))["worse"].any()


def test_a_new_version_that_is_better_is_not_worse() -> None:
    assert not judged(record(1, 0.60), record(8, 0.70, version="b"))["worse"].any()


def test_the_same_sae_on_other_text_is_compared_without_pairing() -> None:
    (row,) = judged(record(1, 0.70), record(8, 0.70, window=1)).to_dict("records")
    assert (row["compared"], row["documents"], row["against_window"], row["held_out_window"]) == (NEW_TEXT, 120, 0, 1)
    assert row["low"] < 0 < row["high"]
    assert not row["worse"]


def test_text_that_it_explains_much_worse_is_told() -> None:
    (row,) = judged(record(1, 0.70), record(8, 0.50, window=1)).to_dict("records")
    assert row["worse"]


def test_the_latest_version_before_is_the_one_compared_with() -> None:
    (row,) = judged(record(1, 0.9), record(8, 0.7, version="b"), record(15, 0.7, version="c")).to_dict("records")
    assert row["against"].startswith("2026-01-08")


def test_the_same_evaluation_twice_is_no_comparison() -> None:
    assert len(judged(record(1, 0.7), record(8, 0.7))) == 0


def test_an_sae_that_was_not_there_before_is_left_out() -> None:
    about, documents = record(1, 0.7)
    assert len(judged((about | {"saes": {"T": "a"}}, documents.assign(sae_id="T")), record(8, 0.7))) == 0


def test_other_documents_under_the_same_number_of_a_window_are_other_text() -> None:
    about, documents = record(8, 0.5)
    other = documents.assign(document_hash="edited " + documents["document_hash"])
    assert len(judged(record(1, 0.7), (about | {"saes": {"S": "b"}}, other))) == 0
    (row,) = judged(record(1, 0.7), (about, other)).to_dict("records")
    assert (row["compared"], row["documents"]) == (NEW_TEXT, 120)


def test_other_settings_of_the_evaluation_are_no_other_text() -> None:
    about, documents = record(8, 0.7)
    assert len(judged(record(1, 0.7), (about | {"text": "other settings"}, documents))) == 0
    about, documents = record(8, 0.66, version="b")
    (row,) = judged(record(1, 0.7), (about | {"text": "other settings"}, documents)).to_dict("records")
    assert (row["compared"], row["documents"], row["worse"]) == (NEW_VERSION, 60, True)
    assert "the settings or the program of the evaluation changed" in row["note"]
    assert judged(record(1, 0.7), record(8, 0.66, version="b"))["note"].tolist() == [""]


def test_a_text_that_is_held_twice_or_on_both_sides_is_one_document() -> None:
    (row,) = judged(of_errors(1, [30, 31, 32, 30], hashes="aabc"), of_errors(8, [30, 31, 32], hashes="bcd")).to_dict("records")
    assert (row["compared"], row["documents"]) == (NEW_TEXT, 4)


def test_a_new_version_that_is_in_no_evaluation_is_worse_for_as_long_as_the_study_declares_it() -> None:
    about, documents = record(1, 0.7)
    both = about | {"saes": {"S": "a", "T": "a"}}, pd.concat([documents, documents.assign(sae_id="T")], ignore_index=True)
    later = record(8, 0.7, version="b"), record(15, 0.7, version="c", window=1)
    for records in ((both, *later[:1]), (both, *later)):
        found = judged(*records, declared=("S", "T")).set_index("sae_id")
        row = found.loc["T"]
        assert (row["compared"], row["before"], row["against"][:10], row["documents"]) == (NOT_EVALUATED, pytest.approx(0.7), "2026-01-01", 60)
        assert np.isnan([row["after"], row["p_value"]]).all()
        assert row["worse"]
        assert "T" not in set(judged(*records)["sae_id"])
    nothing = later[0][0] | {"saes": {}}, documents.iloc[:0]
    assert judged(both, nothing, declared=("S", "T"))[["sae_id", "worse"]].to_numpy().tolist() == [["S", True], ["T", True]]


def test_a_value_that_is_no_more_is_worse_and_one_that_was_not_there_before_is_not() -> None:
    healthy = of_errors(1, [30, 31], hashes="ab"), of_errors(8, [30, 31], hashes="ab", version="b")
    for missing in (np.nan, np.inf):
        diverged = of_errors(1, [missing, 31], hashes="ab"), of_errors(8, [missing, 31], hashes="ab", version="b")
        (again,) = judged(diverged[0], healthy[1]).to_dict("records")
        (lost,) = judged(healthy[0], diverged[1]).to_dict("records")
        assert np.isnan([again["before"], again["p_value"], lost["after"], lost["p_value"]]).all()
        assert (again["worse"], lost["worse"]) == (False, True)
        assert "no value before" in again["note"]
        assert "no value after" in lost["note"]


def test_what_does_not_vary_is_not_tested() -> None:
    one, alike = (
        judged(of_errors(1, [30], hashes="a"), of_errors(8, [40], hashes="b")),
        judged(of_errors(1, [30.1] * 3, hashes="abc"), of_errors(8, [40.3] * 3, hashes="abc", version="b")),
    )
    for found in (one, alike):
        (row,) = found.to_dict("records")
        assert np.isnan([row["p_value"], row["p_adjusted"], row["low"], row["high"]]).all()
        assert not row["worse"]
        assert "nothing that was resampled varies" in row["note"]


def test_few_documents_are_told() -> None:
    (few,) = judged(record(1, 0.7, documents=19), record(8, 0.7, version="b", documents=19, spread=0.3))["note"]
    (enough,) = judged(record(1, 0.7, documents=20), record(8, 0.7, version="b", documents=20, spread=0.3))["note"]
    assert (few, enough) == ("fewer than 20 documents in prose, so the interval may be too narrow", "")


def test_a_fall_on_three_documents_has_the_p_value_of_students_paired_test() -> None:
    """Explained variance falls by 2, 3 and 7 % of documents of equal variance, so its change is their mean."""
    (row,) = judged(of_errors(1, [30, 30, 30], hashes="abc"), of_errors(8, [32, 33, 37], hashes="abc", version="b"), tolerance=0.0, samples=20_000)[
        "p_value"
    ]
    assert row == pytest.approx(ttest_1samp([-2, -3, -7], 0, alternative="less").pvalue, rel=0.03)


def many(falls: list[float]) -> pd.DataFrame:
    """SAEs whose explained variance fell by so much each, in one record."""
    sides = []
    for day, version, fallen in ((1, "a", [0.0] * len(falls)), (8, "b", falls)):
        frames = [record(day, 0.7 - fall)[1].assign(sae_id=f"S{n}") for n, fall in enumerate(fallen)]
        about = record(day, 0.7)[0] | {"saes": {f"S{n}": version for n in range(len(falls))}}
        sides.append((about, pd.concat(frames, ignore_index=True)))
    return judged(*sides)


def test_holms_correction_runs_over_all_changes_of_the_record() -> None:
    found = many([0.05, 0.0101, 0.002])
    ascending = found.sort_values("p_value")
    stepped = np.maximum.accumulate(ascending["p_value"].to_numpy() * [3, 2, 1]).clip(max=1)
    assert ascending["p_adjusted"].to_numpy() == pytest.approx(stepped)
    assert found["worse"].tolist()[0]
    assert not found["worse"].tolist()[2]


@pytest.mark.parametrize("error_follows_variance", [True, False])
def test_intervals_cover_the_true_change_between_texts_of_uneven_documents(error_follows_variance: bool) -> None:
    # Documents differ in their variance, and their errors follow it or do not; the SAE is the same on both texts.
    covered = 0
    for draw in range(200):
        generator = np.random.default_rng(draw)
        sides = []
        for day in (1, 8):
            about, frame = record(day, 0.7, window=day, documents=80)
            sst = TOKENS * PER_TOKEN * generator.lognormal(0, 0.5, 80)
            noise = 1 + generator.normal(0, 0.2, 80)
            frame["sst"], frame["sse"] = sst, 0.3 * noise * (sst if error_follows_variance else sst.mean())
            sides.append((about, frame))
        row = judged(*sides).iloc[0]
        covered += row["low"] <= 0 <= row["high"]
    # 95 % of 200 less four standard deviations of a binomial.
    assert covered >= 178


def test_intervals_cover_the_true_change_as_often_as_they_say() -> None:
    covered = 0
    for draw in range(200):
        generator = np.random.default_rng(draw)
        sides = [record(1, 0.7, documents=80), record(8, 0.68, version="b", documents=80)]
        shared, own = generator.normal(0, 0.2, 80), generator.normal(0, 0.05, (2, 80))
        for (_, frame), explained, noise in zip(sides, (0.7, 0.68), own, strict=True):
            frame["sse"] = (1 - explained) * (1 + shared + noise) * frame["sst"]
        row = judged(*sides).iloc[0]
        covered += row["low"] <= -0.02 <= row["high"]
    assert covered >= 178

"""What counts as worse between recorded evaluations: paired on the same text, beyond the tolerance, and never noise alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from sae_pipeline.analysis.regressions import COLUMNS, NEW_TEXT, NEW_VERSION, regressions

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


def judged(*records: Recorded, tolerance: float = 0.01) -> pd.DataFrame:
    return regressions(records, tolerance=tolerance, bootstrap_samples=500, confidence=0.95, seed=0)


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
    about, documents = record(8, 0.7, version="b")
    assert len(judged(record(1, 0.7), (about | {"text": "edited"}, documents))) == 0
    about, documents = record(8, 0.5)
    (row,) = judged(record(1, 0.7), (about | {"text": "edited"}, documents)).to_dict("records")
    assert row["compared"] == NEW_TEXT


def many(falls: list[float]) -> pd.DataFrame:
    """SAEs whose explained variance fell by so much each, in one record."""
    sides = []
    for day, version, fallen in ((1, "a", [0.0] * len(falls)), (8, "b", falls)):
        frames = [record(day, 0.7 - fall)[1].assign(sae_id=f"S{n}") for n, fall in enumerate(fallen)]
        about = record(day, 0.7)[0] | {"saes": {f"S{n}": version for n in range(len(falls))}}
        sides.append((about, pd.concat(frames, ignore_index=True)))
    return judged(*sides)


def test_holms_correction_runs_over_all_changes_of_the_record() -> None:
    found = many([0.05, 0.0101, 0.0])
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

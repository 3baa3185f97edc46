"""Generalisation: drops against in-sample sets by hand, flags both ways, and what is said where there is no drop."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.generalisation import Band, expected, gaps, relative_drop, verdict
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.study.schema import Study

BAND = Band(low=0.2, high=0.4, source="made up")

SHIFTED = {
    "prose": {"shares": {"prose": 1.0}, "kind": "in_sample"},
    "mixed": {"shares": {"prose": 0.5, "chat": 0.5}, "kind": "in_sample"},
    "chat": {"shares": {"chat": 1.0}, "kind": "domain_shift"},
}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.41, 0.5, "more_than_expected"),
        (0.2, 0.4, "as_expected"),
        (0.25, 0.3, "as_expected"),
        (0.05, 0.19, "less_than_expected"),
        (-0.01, 0.19, "less_than_expected"),
        (-0.2, -0.1, "better_than_in_sample"),
        (0.19, 0.21, "uncertain"),
        (0.39, 0.41, "uncertain"),
        (0.0, 1.0, "uncertain"),
    ],
)
def test_a_drop_is_flagged_where_its_whole_interval_lies_outside_the_band(low: float, high: float, said: str) -> None:
    assert verdict(low, high, BAND) == said


def test_a_band_from_zero_on_is_left_downwards_by_being_better_than_in_sample_alone() -> None:
    from_zero = Band(low=0.0, high=0.6, source="made up")
    assert verdict(-0.02, -0.01, from_zero) == "better_than_in_sample"
    assert verdict(-0.01, 0.1, from_zero) == "uncertain"


def test_the_bands_are_those_of_the_framework() -> None:
    """S1, out-of-sample data set categories: 20-40 % for other domains, 0-60 % for other tasks, 10-30 % for other distributions."""
    assert {kind: (band.low, band.high) for kind, band in expected().items()} == {
        "domain_shift": (0.2, 0.4),
        "task_shift": (0.0, 0.6),
        "distribution_shift": (0.1, 0.3),
    }


def test_a_relative_drop_is_a_share_of_the_in_sample_value() -> None:
    inside, found = np.full(101, 0.8), np.concatenate([[0.6], np.linspace(0.56, 0.64, 100)])
    (estimate, low, high), note = relative_drop(inside, found, 0.9)
    assert estimate == pytest.approx(0.25)
    assert (low, high) == pytest.approx((0.25 - 0.9 * 0.05, 0.25 + 0.9 * 0.05))  # (0.8 - 0.564) / 0.8 and (0.8 - 0.636) / 0.8
    assert note == ""


def test_there_is_no_relative_drop_from_nothing() -> None:
    (estimate, low, high), note = relative_drop(np.full(11, -0.2), np.full(11, -0.5), 0.95)
    assert np.isnan([estimate, low, high]).all()
    assert "-0.200" in note


def test_an_in_sample_value_that_may_be_zero_leaves_the_drop_without_interval() -> None:
    inside = np.concatenate([[0.1], np.linspace(-0.05, 0.25, 100)])
    (estimate, low, high), note = relative_drop(inside, np.zeros(101), 0.95)
    assert estimate == pytest.approx(1.0)
    assert np.isnan([low, high]).all()
    assert "not clearly above zero" in note


def test_every_sae_is_held_against_the_mean_of_its_in_sample_sets(make_study: Callable[..., Study], make_tables: Callable[..., StudyTables]) -> None:
    """0.9 and 0.7 in-sample, 0.4 found: a drop of 0.4, which is half of 0.8 and more than a domain shift lets expect."""
    study = make_study(held_out=SHIFTED)
    tables = make_tables(study, lambda _, name: {"prose": 0.9, "mixed": 0.7, "chat": 0.4}[name], seeds=(0,))
    found = gaps(Evidence.of(tables, study))
    assert len(found) == len(tables.saes)
    assert set(found["evaluation_set"]) == {"chat"}
    assert set(found["in_sample_sets"]) == {"mixed, prose"}
    explained = tables.sae_metrics.set_index(["sae_id", "evaluation_set"])["explained_variance"]
    for row in found.itertuples():
        inside = (explained[row.sae_id, "prose"] + explained[row.sae_id, "mixed"]) / 2
        assert row.generalisation_gap == pytest.approx(inside - explained[row.sae_id, "chat"], rel=1e-9)
        assert row.relative_drop == pytest.approx(row.generalisation_gap / inside, rel=1e-9)
        assert row.relative_drop_low < row.relative_drop < row.relative_drop_high
        assert (row.expected_low, row.expected_high) == (0.2, 0.4)
        assert row.verdict == "more_than_expected"
        assert (row.l0_shift, row.relative_l0_shift) == pytest.approx((0.0, 0.0), abs=1e-9)
        assert row.documents == 180


def test_a_shift_of_l0_is_told_in_latents_and_as_a_share(make_study: Callable[..., Study], make_tables: Callable[..., StudyTables]) -> None:
    study = make_study()
    tables = make_tables(study, lambda *_: 0.5, seeds=(0,))
    sums = tables.document_sums
    sums.loc[sums["evaluation_set"] == "chat", "l0"] *= 1.5  # 16 in-sample, 24 here
    found = gaps(Evidence.of(tables, study))
    assert found["l0_shift"].tolist() == pytest.approx([8.0] * len(found))
    assert found["relative_l0_shift"].tolist() == pytest.approx([0.5] * len(found))


def test_a_study_without_in_sample_sets_has_an_empty_table_with_typed_columns(
    make_study: Callable[..., Study], make_tables: Callable[..., StudyTables]
) -> None:
    study = make_study(held_out={"chat": {"shares": {"chat": 1.0}, "kind": "task_shift"}})
    found = gaps(Evidence.of(make_tables(study, lambda *_: 0.5), study))
    assert found.empty
    assert "object" not in found.dtypes.astype(str).tolist()


def test_one_document_is_no_verdict(make_study: Callable[..., Study], make_tables: Callable[..., StudyTables]) -> None:
    study = make_study()
    found = gaps(Evidence.of(make_tables(study, lambda _, name: {"prose": 0.9, "chat": 0.1}[name], seeds=(0,), documents=1), study))
    assert set(found["verdict"]) == {"uncertain"}
    assert found["note"].str.startswith("one document in chat, prose, which tells nothing of others").all()

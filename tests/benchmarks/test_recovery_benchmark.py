"""The recovery benchmark: tools are compared at matched L0 and at the rate that suits each, on dictionaries that are known."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

import numpy as np
import pytest
from benchmark_runs import FOLDER, answered


def test_recovery_of_ours_alone(tmp_path: Path) -> None:
    """Figures per architecture and seed, without a difference where there is no peer."""
    options = ["--architectures", "topk", "--seeds", "2", "--steps", "30", "--rates", "2e-3", "--peers", "--scratch", str(tmp_path)]
    found, table = answered(FOLDER / "recovery.py", *options)
    topk = found["architectures"]["topk"]
    assert set(topk["tools"]) == {"ours"}
    assert len(topk["runs"]["ours"]) == 2
    assert 0 < topk["tools"]["ours"]["mean_max_cosine"] < 1
    assert "| topk | ours | 0.002 (2) |" in table


def test_recovery_is_complete_when_the_dictionary_is_the_planted_one() -> None:
    """Whatever the order and the lengths of its rows; a direction that is missing counts with its nearest."""
    from recovery import mean_max_cosine

    planted = np.eye(3)
    assert mean_max_cosine(np.array([[0, 0, 5.0], [2.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0]]), planted) == pytest.approx(1)
    assert mean_max_cosine(np.array([[1.0, 0, 0], [0, 1.0, 1.0]]), planted) == pytest.approx((1 + 2 * math.sqrt(0.5)) / 3)


def test_intervals_are_those_of_student() -> None:
    """Differences 1, 2, 3: mean 2, standard deviation 1, half width 4.303 / sqrt(3)."""
    from recovery import interval

    found = interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2
    assert found["high"] == pytest.approx(2 + 4.303 / math.sqrt(3))
    assert interval([1.0])["low"] is None


def test_a_strength_is_searched_between_too_dense_and_too_sparse() -> None:
    """L0 16 at strength 1 and 4 at strength 4, target 8: half way in logarithms is strength 2."""
    from fair_terms import next_strength

    assert next_strength([{"strength": 1.0, "l0": 16.0}, {"strength": 4.0, "l0": 4.0}], 8.0) == pytest.approx(2)
    assert next_strength([{"strength": 1.0, "l0": 16.0}], 8.0) > 1
    assert next_strength([{"strength": 1.0, "l0": 4.0}], 8.0) < 1


def test_a_strength_is_nudged_across_the_target_once_it_is_near() -> None:
    """An L0 of 8.2 is near 8: the next strength is a tenth larger, not two and a half times."""
    from fair_terms import next_strength

    assert next_strength([{"strength": 1.0, "l0": 8.2}], 8.0) == pytest.approx(1.1)
    assert next_strength([{"strength": 1.0, "l0": 7.8}], 8.0) == pytest.approx(1 / 1.1)


def test_figures_are_interpolated_at_the_target_l0() -> None:
    """L0 6 and 12 with target 6 * sqrt(2): half way in logarithms; the L0 shown is that of the nearest training."""
    from fair_terms import at_target

    runs = [
        {"l0": 6.0, "strength": 2.0, "explained_variance": 0.6, "mean_max_cosine": 0.9},
        {"l0": 12.0, "strength": 1.0, "explained_variance": 0.8, "mean_max_cosine": 0.7},
        {"l0": 40.0, "strength": 0.1, "explained_variance": 0.99, "mean_max_cosine": 0.1},
    ]
    target = 6 * math.sqrt(2)
    found = at_target(runs, target)
    assert found["explained_variance"] == pytest.approx(0.7)
    assert found["mean_max_cosine"] == pytest.approx(0.8)
    assert found["l0"] == 6
    assert found["l0_deviation"] == pytest.approx(1 - 1 / math.sqrt(2))
    assert at_target(runs[1:], target)["explained_variance"] == 0.8


@pytest.mark.parametrize(("l0", "matched"), [(8.39, True), (8.41, False)])
def test_an_l0_beyond_the_stated_tolerance_is_marked(l0: float, matched: bool) -> None:
    """5 % of 8 is 0.4."""
    from recovery import compared

    figures = {"explained_variance": 0.5, "mean_max_cosine": 0.5}
    found = compared({"ours": [figures | {"l0": 8.0}], "other": [figures | {"l0": l0}]})
    assert found["tools"]["other"]["l0_matched"] is matched


def test_rates_are_chosen_at_matched_l0_and_extended_beyond_their_edges() -> None:
    """The best of explained variances that peak at 8 is found from 1, 2, 4; a rise without end is said to be at the edge."""
    from fair_terms import chosen_rate

    def run(variance: float, deviation: float = 0.0) -> dict[str, float]:
        return {"explained_variance": variance, "l0_deviation": deviation}

    asked: list[float] = []

    def peaked(rate: float) -> dict[str, float]:
        asked.append(rate)
        return run(-abs(math.log(rate / 8)))

    assert chosen_rate((1.0, 2.0, 4.0), peaked) == (8.0, False)
    assert asked == [1, 2, 4, 8, 16]
    assert chosen_rate((1.0, 2.0, 4.0), lambda rate: run(rate)) == (16.0, True)
    assert chosen_rate((1.0, 2.0, 4.0), lambda rate: run(-rate)) == (0.25, True)
    assert chosen_rate((1.0, 2.0, 4.0), lambda rate: run(rate, deviation=0.2 if rate > 2 else 0.0))[0] == 2
    assert chosen_rate((1.0, 2.0, 4.0), lambda rate: run(math.nan if rate > 2 else rate))[0] == 2
    assert chosen_rate((1.0,), lambda rate: run(rate)) == (1.0, False)


def test_recovery_says_which_tools_were_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A peer without an environment is in the object and under the table, with the reason."""
    import recovery
    from side_by_side import Peer
    from training_tools import Tool

    absent = Peer("nobody", ".venv-of-nobody", "NOBODY_PYTHON", "requirements-saelens.txt")
    monkeypatch.setattr(recovery, "TOOLS", {"nobody": Tool("saelens_training.py", absent)})
    arguments = argparse.Namespace(scratch=tmp_path, peers=["nobody"], architectures=[], steps=1, seeds=1)
    found = recovery.measure(arguments)
    assert ".venv-of-nobody" in found["missing"]["nobody"]
    assert "- nobody was not measured: no environment .venv-of-nobody" in recovery.rendered(found)


def test_planted_activations_have_the_stated_scale_and_sparsity() -> None:
    """Unit root mean square; without noise and offset a row is in the span of its few directions."""
    from training_rows import planted

    rows, directions = planted(2_000, 16, 32, 3, seed=0)
    assert np.sqrt(np.square(rows).mean()) == pytest.approx(1, abs=1e-4)
    assert np.linalg.norm(directions, axis=1) == pytest.approx(np.ones(32), abs=1e-5)
    again, _ = planted(2_000, 16, 32, 3, seed=0)
    assert np.array_equal(rows, again)
    other, _ = planted(2_000, 16, 32, 3, seed=1)
    assert not np.allclose(rows, other)

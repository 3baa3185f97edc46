"""The two parts of the noise between seeds are told apart, and draws of them have the variances they were drawn from."""

from __future__ import annotations

import numpy as np
import pytest

from sae_pipeline.analysis.seed_noise import SeedNoise

MIXES, WIDTHS, SEEDS = 6, 40, 5
CELL = np.arange(MIXES * WIDTHS * SEEDS)
SETTING, BLOCK = CELL // SEEDS, CELL // SEEDS % WIDTHS * SEEDS + CELL % SEEDS


def figures(own: float, common: float, sets: int = 2) -> np.ndarray:
    """(sets, SAEs) of six mixes, forty widths and five seeds: large differences between settings, and noise of two standard deviations."""
    generator = np.random.default_rng(0)
    shared = generator.normal(0, common, (sets, WIDTHS * SEEDS))[:, BLOCK]
    found: np.ndarray = generator.normal(0, 10, (sets, MIXES * WIDTHS))[:, SETTING] + shared + generator.normal(0, own, (sets, len(CELL)))
    return found


def centring(groups: np.ndarray) -> np.ndarray:
    """Projection of settings on the differences between groups."""
    member = np.eye(groups.max() + 1)[groups]
    projection: np.ndarray = member @ np.linalg.pinv(member) - 1 / len(groups)
    return projection


def test_noise_that_a_block_shares_adds_to_widths_and_not_to_mixes() -> None:
    """Per degree of freedom and set: own² to mixes, and own² + 6 common² to widths, whose six mixes share a block."""
    noise = SeedNoise.of(SETTING, BLOCK, figures(0.5, 1.0))
    assert noise is not None
    drawn = noise.draw(3, np.random.default_rng(1))
    setting = np.arange(MIXES * WIDTHS)
    assert drawn.expected(centring(setting // WIDTHS))[0] == pytest.approx(2 * (MIXES - 1) * 0.25, rel=0.1)
    assert drawn.expected(centring(setting % WIDTHS))[0] == pytest.approx(2 * (WIDTHS - 1) * 6.25, rel=0.15)
    assert drawn.variance()[0] == pytest.approx(2 * 1.25, rel=0.15)


def test_draws_add_what_they_are_expected_to_add() -> None:
    noise = SeedNoise.of(SETTING, BLOCK, figures(0.5, 1.0))
    assert noise is not None
    drawn = noise.draw(100, np.random.default_rng(1))
    for form in (centring(np.arange(MIXES * WIDTHS) // WIDTHS), centring(np.arange(MIXES * WIDTHS) % WIDTHS)):
        added = ((form @ drawn.values) * drawn.values).sum((0, 1))
        assert added[0] == 0
        # What is expected of a draw is the noise of the figures and as much again.
        assert added[1:].mean() == pytest.approx(drawn.expected(form)[1:].mean() / 2, rel=0.15)


def test_without_two_seeds_of_a_setting_there_is_no_noise_to_know() -> None:
    assert SeedNoise.of(np.arange(4), np.arange(4), np.random.default_rng(0).normal(size=(1, 4))) is None


def test_where_no_seed_is_shared_all_noise_is_of_single_saes() -> None:
    """Two settings of two seeds each, no two SAEs of one block: the mean of the two variances, 2 and 8."""
    noise = SeedNoise.of(np.array([0, 0, 1, 1]), np.arange(4), np.array([[1.0, 3.0, 4.0, 8.0]]))
    assert noise is not None
    assert noise.draw(1, np.random.default_rng(0)).variance()[0] == pytest.approx(5)

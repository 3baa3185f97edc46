"""Figures of the true direction from noisy prompts: against every pair of prompts by hand, and against simulations with a known truth."""

from __future__ import annotations

from functools import cache
from itertools import permutations

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from sae_pipeline.concepts.directions import MEAN_DIFFERENCE, PURSUIT, SAE_ITSELF, DirectionFit, fit_direction
from sae_pipeline.concepts.true_direction import Sides, cosine_interval, difference_interval, halves_of, shown, signed_root, true_products
from sae_pipeline.saes.inference import InferenceSAE

WIDTH, D_SAE, REPETITIONS = 64, 16, 200
LIKENESS = 0.9
"""Cosine of the true direction with latent 0; with the others it has none."""


def sides(positive: int, negative: int, width: int, seed: int) -> Sides:
    generator = torch.Generator().manual_seed(seed)
    return Sides(*(torch.randn(n, width, generator=generator, dtype=torch.float64) for n in (positive, negative)))


def by_pairs(a: Sides, b: Sides) -> torch.Tensor:
    """The products over pairs of different prompts, one after the other."""
    own = [torch.stack([x[i] * y[j] for i, j in permutations(range(len(x)), 2)]).mean(0) for x, y in zip(a, b, strict=True)]
    crossed = [torch.stack([p * q for p in x for q in y]).mean(0) for x, y in ((a.positive, b.negative), (b.positive, a.negative))]
    return torch.stack(own).sum(0) - torch.stack(crossed).sum(0)


def without(side: torch.Tensor, place: int) -> torch.Tensor:
    return torch.cat([side[:place], side[place + 1 :]])


def test_products_are_the_means_over_pairs_of_different_prompts_and_so_without_each_prompt() -> None:
    a, b = sides(4, 3, 5, seed=0), sides(4, 3, 5, seed=1)
    found = true_products(a, b, Sides(torch.ones(4, dtype=torch.bool), torch.ones(3, dtype=torch.bool)))
    expected = [by_pairs(a, b)]
    expected += [by_pairs(Sides(without(a.positive, n), a.negative), Sides(without(b.positive, n), b.negative)) for n in range(4)]
    expected += [by_pairs(Sides(a.positive, without(a.negative, n)), Sides(b.positive, without(b.negative, n))) for n in range(3)]
    torch.testing.assert_close(found, torch.stack(expected))


def test_without_a_prompt_that_is_not_looked_at_nothing_changes() -> None:
    a, chosen = sides(5, 4, 2, seed=0), Sides(torch.tensor([1, 1, 0, 1, 0]).bool(), torch.tensor([0, 1, 1, 1]).bool())
    found = true_products(a, a, chosen)
    torch.testing.assert_close(found[0], by_pairs(a.among(chosen), a.among(chosen)))
    same = (found[1:] == found[0]).all(1)
    assert same.tolist() == [False, False, True, False, True, True, False, False, False]


def test_halves_are_halves_of_either_side_and_depend_on_the_name() -> None:
    halves = halves_of("d", 11, 6, seed=0)
    assert [(len(side), int(side.sum())) for side in halves] == [(11, 5), (6, 3)]
    again, other = halves_of("d", 40, 40, seed=0), halves_of("e", 40, 40, seed=0)
    assert torch.equal(again.positive, halves_of("d", 40, 40, seed=0).positive)
    assert not torch.equal(again.positive, other.positive)


def test_cosines_keep_their_sign_and_are_shown_within_their_bounds() -> None:
    assert signed_root(np.array([0.25, -0.25])).tolist() == [0.5, -0.5]
    assert shown(np.array([1.1, -0.04, 0.09]), 0.0).tolist() == pytest.approx([1.0, 0.0, 0.3])


def test_the_interval_is_the_jackknifes_on_the_squared_scale() -> None:
    """Of a mean of n values leaving one out moves it by (mean - value) / (n - 1), so that the deviation is s / sqrt(n - 1)."""
    values = np.random.default_rng(0).normal(0.5, 0.2, 50)
    left_out = (values.sum() - values) / 49
    low, high = cosine_interval(np.array([values.mean(), *left_out]), 0.95)
    reach = 1.959964 * values.std(ddof=1) / np.sqrt(49)
    assert [low**2, high**2] == pytest.approx([values.mean() - reach, values.mean() + reach])


def test_a_cosine_that_one_prompt_decides_on_may_be_any() -> None:
    low, high = cosine_interval(np.array([0.5, 0.4, np.nan]), 0.95, 0.0)
    assert (low, high) == (0.0, 1.0)


def test_an_sae_does_not_differ_from_itself_and_a_paired_difference_is_surer_than_either() -> None:
    generator = np.random.default_rng(0)
    common, own = 0.5 + generator.normal(0, 0.02, 40), generator.normal(0, 0.001, 40)
    assert [float(x) for x in difference_interval(common, common, 0.95)] == [0.0, 0.0, 0.0]
    _, low, high = difference_interval(common + own, common, 0.95)
    alone = cosine_interval(common, 0.95)
    assert high - low < 0.2 * (alone[1] - alone[0])


# ------------------------------------------------------------------------------------------------ against a known truth


def linear_sae(seed: int, leak: float) -> tuple[InferenceSAE, torch.Tensor]:
    """An SAE whose latents always fire, so that it is linear, and the true direction; ``leak`` is what it adds of other rows."""
    basis, _ = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))
    rows = basis[:D_SAE].clone()
    true = LIKENESS * rows[0] + np.sqrt(1 - LIKENESS**2) * basis[D_SAE]
    rows = rows.float()
    mixed = rows + leak * rows.roll(1, 0)
    return InferenceSAE(mixed.T.contiguous(), torch.full((D_SAE,), 1000.0), rows, torch.zeros(WIDTH), "relu"), true


def fitted(sae: InferenceSAE, prompts: Sides, seed: int) -> DirectionFit:
    halves = halves_of("planted", len(prompts.positive), len(prompts.negative), seed)
    return fit_direction(sae, prompts, prompts.map(lambda x: sae.encode(x.float()).double()), halves, 0)


def noisy(true: torch.Tensor, prompts: int, noise: float, seed: int) -> Sides:
    drawn = sides(prompts, prompts, WIDTH, seed)
    return Sides(true + noise * drawn.positive, noise * drawn.negative)


@cache
def simulated(prompts: int, noise: float) -> dict[str, tuple[float, float]]:
    """(share of intervals that hold the truth, median of the estimates) by figure; leaky is the SAE minus one that leaks more."""
    held: dict[str, list[tuple[bool, float]]] = {name: [] for name in ("sae", "mean_difference", "pursuit", "nearest", "leaky")}
    for seed in range(REPETITIONS):
        sae, true = linear_sae(seed, 0.0)
        leaky, _ = linear_sae(seed, 0.75)
        given = noisy(true, prompts, noise, seed + 1000)
        fit, other = fitted(sae, given, seed), fitted(leaky, given, seed)
        first = [fit.method.index(method) for method in (SAE_ITSELF, MEAN_DIFFERENCE, PURSUIT)]
        for name, squared in zip(("sae", "mean_difference", "pursuit", "nearest"), [*fit.squared[first], fit.nearest], strict=True):
            low, high = cosine_interval(squared, 0.95)
            held[name].append((bool(low <= LIKENESS <= high), float(signed_root(squared[0]))))
        # The leaky one writes 0.9 (row 0 + 0.75 row 1): its cosine is 0.9 / 1.25.
        difference, low, high = difference_interval(other.squared[0], fit.squared[0], 0.95)
        held["leaky"].append((bool(low <= LIKENESS / 1.25 - LIKENESS <= high), float(difference)))
    return {name: (float(np.mean([h for h, _ in pairs])), float(np.median([e for _, e in pairs]))) for name, pairs in held.items()}


SETTINGS = [(10, 0.2), (40, 0.2), (40, 0.5), (200, 0.5), (200, 0.2)]


@pytest.mark.slow
@pytest.mark.parametrize(("prompts", "noise"), SETTINGS)
@pytest.mark.parametrize("figure", ["sae", "mean_difference", "pursuit", "nearest", "leaky"])
def test_intervals_hold_the_cosine_with_the_true_direction_at_the_stated_rate(figure: str, prompts: int, noise: float) -> None:
    """At 40 prompts with noise 0.5 the noise is nearly as long as the direction: the sample's cosine is 0.67 where the truth is 0.9."""
    coverage, middle = simulated(prompts, noise)[figure]
    assert coverage > 0.92
    assert middle == pytest.approx(LIKENESS / 1.25 - LIKENESS if figure == "leaky" else LIKENESS, abs=0.02)


def test_the_estimate_is_not_drawn_down_by_the_noise_of_the_prompts() -> None:
    sae, true = linear_sae(0, 0.0)
    given = [noisy(true, 60, 0.5, seed) for seed in range(40)]
    sampled = [float(torch.nn.functional.cosine_similarity(each.difference(), sae.W_dec[0].double(), dim=0)) for each in given]
    fits = [fitted(sae, each, seed) for seed, each in enumerate(given)]
    one = fits[0].method.index(PURSUIT)
    found = np.mean([[*fit.squared[[0, one], 0], fit.nearest[0]] for fit in fits], axis=0)
    assert np.mean(sampled) < 0.75
    assert signed_root(found) == pytest.approx([LIKENESS] * 3, abs=0.02)


def test_the_best_of_random_rows_is_at_its_chance_level() -> None:
    """Rows that are chosen for the noise of one half have nothing of it on the other."""
    rows = normalize(torch.randn(200, WIDTH, generator=torch.Generator().manual_seed(5)), dim=1)
    sae = InferenceSAE(rows.T.contiguous(), torch.zeros(200), rows, torch.zeros(WIDTH), "relu")
    fits = []
    for seed in range(200):
        true = normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=0)
        fits.append(fitted(sae, noisy(true, 60, 0.4, seed + 1000), seed))
    pursued = [n for n, method in enumerate(fits[0].method) if method == PURSUIT]
    found = np.sqrt(np.mean([fit.squared[pursued, 0] for fit in fits], axis=0))
    expected = np.sqrt(np.mean([fit.chance[pursued] ** 2 for fit in fits], axis=0))
    assert found == pytest.approx(expected, abs=0.03)
    # Signed squares hold the scatter of the highest cosine too, so they lie a little above the square of its mean.
    assert np.sqrt(np.mean([fit.nearest[0] for fit in fits])) == pytest.approx(np.mean([fit.nearest_chance for fit in fits]), abs=0.04)

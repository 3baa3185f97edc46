"""Figures of pairs are as uncertain as the SAEs that the pairs share."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sae_pipeline.analysis.pairwise import _members, _seen_of_the_truth, pair_estimate, pair_mean


def pairs_of(names: str) -> pd.DataFrame:
    return pd.DataFrame(list(combinations(names, 2)), columns=["sae_id", "other_sae_id"])


def test_the_variance_of_a_mean_is_the_sum_over_pairs_that_share_an_sae() -> None:
    """The double sum of Aronow, Samii and Assenova written out, over what it has on average: (n - 2)(n - 3) / (n (n - 1)) of n SAEs."""
    pairs, values = pairs_of("abcdef"), np.array([1, 9, 4, 3, 8, 2, 7, 5, 1, 6, 2, 9, 4, 8, 3]) / 10
    errors = values - values.mean()
    names = [set(pair) for pair in pairs.itertuples(index=False)]
    total = sum(errors[p] * errors[q] for p in range(15) for q in range(15) if names[p] & names[q])
    deviation = max(total / (4 * 3 / (6 * 5)), (errors**2).sum() * 15 / 14) ** 0.5 / 15
    found = pair_mean(values.tolist(), pairs, 0.95)
    assert found.estimate == pytest.approx(values.mean())
    assert found.high - found.estimate == pytest.approx(stats.t.ppf(0.975, 5) * deviation)
    assert found.p_value == pytest.approx(2 * stats.t.sf(values.mean() / deviation, 5), rel=1e-4)
    assert (found.pairs, found.saes) == (15, 6)


def test_pairs_without_a_common_sae_give_students_interval() -> None:
    pairs = pd.DataFrame({"sae_id": list("abcde"), "other_sae_id": list("vwxyz")})
    values = [0.3, 0.1, 0.4, 0.2, 0.6]
    found = pair_mean(values, pairs, 0.9)
    expected = stats.t.interval(0.9, 4, np.mean(values), stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)


def test_the_only_pair_of_its_kind_leaves_the_difference_without_an_interval() -> None:
    pairs = pairs_of("abcd")
    terms = pd.DataFrame({"mean": 1.0, "kind": [1.0, 0, 0, 0, 0, 0]})
    found = pair_estimate([0.9, 0.4, 0.2, 0.5, 0.3, 0.5], terms, [0.0, 1.0], pairs, 0.95)
    assert found.estimate == pytest.approx(0.9 - 0.38)
    assert np.isnan([found.low, found.high, found.p_value]).all()


@pytest.mark.parametrize("names", ["ab", "abc"])
def test_pairs_of_fewer_than_four_saes_have_no_interval(names: str) -> None:
    """Residuals of three SAEs leave nothing of what pairs have in common."""
    assert np.isnan(pair_mean([0.4, 0.1, 0.3][: len(names) * (len(names) - 1) // 2], pairs_of(names), 0.95).low)


def one_factor_pairs(*levels: int) -> pd.DataFrame:
    """Pairs of a grid's SAEs that differ in one factor."""
    grid = list(product(*map(range, levels)))
    chosen = [(str(a), str(b)) for a, b in combinations(grid, 2) if sum(x != y for x, y in zip(a, b, strict=True)) == 1]
    return pd.DataFrame(chosen, columns=["sae_id", "other_sae_id"])


DESIGNS = {
    "4 SAEs": pairs_of("abcd"),
    "6 SAEs": pairs_of("abcdef"),
    "10 SAEs": pairs_of("abcdefghij"),
    "3 x 2": one_factor_pairs(3, 2),
    "4 x 2": one_factor_pairs(4, 2),
    "3 x 2 x 2": one_factor_pairs(3, 2, 2),
}


@pytest.mark.parametrize("design", DESIGNS)
def test_intervals_hold_the_truth_though_every_sae_is_in_many_pairs(design: str) -> None:
    """A pair's figure is the sum of what its two SAEs bring along, so ten SAEs are ten observations and not forty-five."""
    generator, pairs, rounds = np.random.default_rng(1), DESIGNS[design], 400
    names = pd.unique(pairs.to_numpy().ravel())
    held, naive = 0, 0
    for _ in range(rounds):
        of = pd.Series(generator.normal(size=len(names)), index=names)
        values = 0.5 + of[pairs["sae_id"]].to_numpy() + of[pairs["other_sae_id"]].to_numpy() + 0.3 * generator.normal(size=len(pairs))
        found = pair_mean(values.tolist(), pairs, 0.95)
        held += found.low <= 0.5 <= found.high
        low, high = stats.t.interval(0.95, len(pairs) - 1, values.mean(), stats.sem(values))
        naive += low <= 0.5 <= high
    assert held >= stats.binom.ppf(0.001, rounds, 0.95)
    assert naive <= 0.8 * rounds


@pytest.mark.parametrize("noise", [0.3, 3.0])
@pytest.mark.parametrize("levels", [(2, 2), (3, 2), (3, 3), (2, 2, 2)])
def test_a_difference_between_kinds_of_pairs_that_is_not_there_is_seldom_found(levels: tuple[int, ...], noise: float) -> None:
    """Pairs that differ in the first factor against the others: the noise of SAEs cancels, and an interval is left."""
    generator, pairs, rounds = np.random.default_rng(2), one_factor_pairs(*levels), 300
    names = pd.unique(pairs.to_numpy().ravel())
    first = np.array([float(a[1] != b[1]) for a, b in pairs.itertuples(index=False)])
    for terms, weights in (
        (pd.DataFrame({"mean": 1.0, "first": first}), [0.0, 1.0]),
        (pd.DataFrame({"first": first, "other": 1 - first}), [1.0, -1.0]),
    ):
        found = []
        for _ in range(rounds):
            of = pd.Series(generator.normal(size=len(names)), index=names)
            values = of[pairs["sae_id"]].to_numpy() + of[pairs["other_sae_id"]].to_numpy() + noise * generator.normal(size=len(pairs))
            found.append(pair_estimate(values.tolist(), terms, weights, pairs, 0.95).p_value)
        assert np.isfinite(found).all()
        assert sum(p < 0.05 for p in found) <= stats.binom.ppf(0.999, rounds, 0.05)


def test_the_part_that_residuals_show_is_that_of_the_matrices_written_out() -> None:
    """Every pair by every pair, as the definition has it, on pairs between settings of which one has a single SAE."""
    pairs = one_factor_pairs(3, 2).iloc[:-1]
    terms = pd.DataFrame({"mean": 1.0, "slope": np.arange(len(pairs), dtype=float)}).to_numpy()
    inverse, member = np.linalg.pinv(terms.T @ terms), _members(pairs).toarray()
    share = terms @ inverse @ np.array([1.0, 0.0])
    residuals, common = np.eye(len(pairs)) - terms @ inverse @ terms.T, ((member @ member.T) > 0).astype(float)
    form = residuals @ np.diag(share) @ common @ np.diag(share) @ residuals
    of_pairs, of_saes = (np.trace(form @ noise) / (share @ noise @ share) for noise in (np.eye(len(pairs)), member @ member.T))
    seen, freedom = _seen_of_the_truth(terms, inverse, share, _members(pairs))
    assert seen == pytest.approx(min(of_pairs, of_saes))
    quadratic = member.T @ form @ member
    assert freedom == pytest.approx(np.trace(quadratic) ** 2 / (quadratic**2).sum())

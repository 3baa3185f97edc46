"""Means and differences of figures of pairs of SAEs, with the noise that pairs have in common because they share an SAE.

A figure of matching belongs to a pair, and every SAE is in many pairs: thirty pairs of six SAEs are no thirty observations.
The variance here lets any two pairs vary together that have an SAE in common (Aronow, Samii and Assenova 2015), so what is
sampled is the SAE: its setting and its seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import stdtrit

from sae_pipeline.analysis.significance import level_of


@dataclass(frozen=True)
class PairEstimate:
    """A figure over pairs of SAEs with its interval; nan where too few pairs leave nothing to tell noise by."""

    estimate: float
    low: float
    high: float
    p_value: float
    pairs: int
    saes: int


def pair_estimate(values: Sequence[float], terms: pd.DataFrame, weights: Sequence[float], saes: pd.DataFrame, confidence: float) -> PairEstimate:
    """A linear combination of least-squares coefficients over pairs.

    Args:
        values: the figure of each pair, (n,).
        terms: the regressors of each pair, (n, terms); a constant column alone gives a mean.
        weights: of the coefficients, (terms,).
        saes: (n, 2) ids of the two SAEs of each pair.
        confidence: level of the interval, Student's with as many degrees of freedom as the smaller of the pairs and the
            SAEs leaves.
    """
    y, x = np.asarray(values, dtype=float), terms.to_numpy(dtype=float)
    inverse = np.linalg.pinv(x.T @ x)
    coefficients = inverse @ x.T @ y
    estimate = float(np.asarray(weights) @ coefficients)
    rank, distinct = int(np.linalg.matrix_rank(x)), int(pd.unique(saes.to_numpy().ravel()).size)
    freedom = min(len(y) - rank, distinct - 1)
    share = x @ inverse @ np.asarray(weights, dtype=float)
    influence, leverage = share * (y - x @ coefficients), ((x @ inverse) * x).sum(1)
    nan = float("nan")
    # The only pair of its kind is fitted exactly: its noise is not nought but unknown, and so is that of all it is held against.
    alone = bool(((np.abs(share) > 1e-12) & (leverage > 1 - 1e-9)).any())
    if freedom < 1 or alone or np.abs(influence).max() <= 1e-12:
        return PairEstimate(estimate, nan, nan, nan, len(y), distinct)
    by_sae = pd.concat([pd.Series(influence, index=saes.iloc[:, side].to_numpy()) for side in (0, 1)]).groupby(level=0).sum()
    # The pairs themselves are in the sum over SAEs twice. Below the variance of unrelated pairs an estimate of it is noise.
    own = float((influence**2).sum())
    variance = max(float((by_sae**2).sum()) - own, own) * len(y) / (len(y) - rank)
    deviation = variance**0.5
    reach = deviation * float(stdtrit(freedom, (1 + confidence) / 2))
    p = level_of(lambda level: deviation * float(-stdtrit(freedom, level / 2)) - abs(estimate))
    return PairEstimate(estimate, estimate - reach, estimate + reach, p, len(y), distinct)


def ends(first: pd.Series, second: pd.Series) -> pd.DataFrame:
    """Regressors (n, settings) of what the two SAEs of each pair are set to: a half for either end, so that a row sums to one.

    A pair between two settings is by these terms held against the mean of the pairs within the one and within the other,
    so nothing that depends on the settings alone, and adds up over two SAEs, is taken for an effect of what pairs differ in.

    Args:
        first, second: the setting of either SAE of each pair, (n,), any text.
    """
    sides = [pd.get_dummies(side).astype(float) for side in (first, second)]
    return sides[0].add(sides[1], fill_value=0.0) / 2


def pair_mean(values: Sequence[float], saes: pd.DataFrame, confidence: float) -> PairEstimate:
    """The mean over pairs; arguments as in :func:`pair_estimate`."""
    return pair_estimate(values, pd.DataFrame({"mean": np.ones(len(values))}), [1.0], saes, confidence)

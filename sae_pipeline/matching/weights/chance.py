"""What random directions give: the floor below which a figure of matching says nothing.

The cosine of two independent uniform directions in d dimensions is symmetric around 0 and its square is Beta(1/2, (d - 1)/2).
Cosines of one direction with n others are independent, so the highest of them has the distribution F(t)^n, exactly. Only
the one-to-one pairing has no such form, and is simulated where it could matter.
"""

from __future__ import annotations

from functools import cache, lru_cache
from math import ceil, expm1, log, log1p, sqrt

import numpy as np
import torch
from scipy.special import betainc

from sae_pipeline.matching.assignment import assign
from sae_pipeline.matching.weights.directions import unit_rows

NODES = 512
"""Of the Gauss-Legendre rule; the expectation agrees with twice as many to 1e-9 from d = 3 on."""

NEGLIGIBLE = 0.01
"""Expected number of matched rows below which no pairing is simulated: 99 of 100 simulations would find none."""

SIMULATED_PAIRS = 2048
"""Pairs that a simulated pairing consists of at least, over all its draws."""

SIGNIFICANT_BITS = 5
"""Of the numbers of rows that are simulated: within 4 % of those asked for, so that many alive populations share one simulation."""

SEED = 0


def tail(cosine: np.ndarray | float, d: int) -> np.ndarray:
    """P(cosine of two random directions in d dimensions > the given, from 0 to below 1), float64."""
    t = np.asarray(cosine, dtype=np.float64)
    if d == 1:  # same or opposite
        return np.full_like(t, 0.5)
    # 1 - t² as a product: exact near 1, where the tail is small.
    return np.asarray(betainc((d - 1) / 2, 0.5, (1 - t) * (1 + t)) / 2)


def chance_match_ratio(n_other: int, d: int, threshold: float) -> float:
    """P(highest of ``n_other`` cosines in d dimensions > threshold, between -1 and 1): the expected match ratio of random directions."""
    above = float(tail(abs(threshold), d))
    return -expm1(n_other * (log1p(-above) if threshold >= 0 else log(above)))


@cache
def _legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of the Gauss-Legendre rule on [-1, 1], which take longer than the integral."""
    return np.polynomial.legendre.leggauss(nodes)


@cache
def chance_mmcs(n_other: int, d: int) -> float:
    """Expectation of the highest of ``n_other`` cosines in d dimensions: the integral of 1 - F^n above 0 less that of F^n below."""
    # P(cosine > t) <= exp(-(d - 1) t² / 2): beyond this, the highest of n is found with a probability below 1e-16.
    end = min(1.0, sqrt(2 * (log(n_other) + 37) / max(d - 1, 1)))
    nodes, weights = _legendre(NODES)
    above = tail((nodes + 1) * (end / 2), d)
    highest = -np.expm1(n_other * np.log1p(-above)) - above**n_other
    return float(highest @ weights * (end / 2))


def chance_sharing(n_a: int, n_b: int, d: int, threshold: float) -> tuple[float, float]:
    """Expected (shared in the decoder, shared in decoder and encoder) of two random dictionaries, as shares of the smaller.

    A row that is shared has a cosine above the threshold, so the match ratio bounds the first; where that expects less than
    :data:`NEGLIGIBLE` matched rows, the bound is returned. Else pairings of seeded random directions are counted. The
    encoder's directions are independent of the pairing, which is the decoder's.
    """
    fewer, more = sorted((n_a, n_b))
    shared = chance_match_ratio(more, d, threshold)
    if shared * fewer >= NEGLIGIBLE:
        shared = float((random_pairing(_rounded(fewer), _rounded(more), d) > threshold).mean())
    return shared, shared * chance_match_ratio(1, d, threshold)


def _rounded(n: int) -> int:
    """The number to :data:`SIGNIFICANT_BITS`."""
    step = 2 ** max(n.bit_length() - SIGNIFICANT_BITS, 0)
    return round(n / step) * step


@lru_cache(maxsize=256)
def random_pairing(fewer: int, more: int, d: int) -> np.ndarray:
    """Cosines of the one-to-one pairing of random directions, (draws * fewer,) float32, all draws together."""
    generator = torch.Generator().manual_seed(SEED)
    found = []
    for _ in range(ceil(SIMULATED_PAIRS / fewer)):
        a, b = (unit_rows(torch.randn(n, d, generator=generator)) for n in (fewer, more))
        found.append(np.asarray(assign(a, b).cosine))
    return np.concatenate(found)

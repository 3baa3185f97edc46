"""Lengths and inner products of the true difference of two groups' means, from prompts that show it with noise.

The difference of sample means holds the noise of its prompts: its squared length is too long by tr(covariance) / n of either
side, and every cosine with it is too small by as much. A product of two different prompts has no such excess, so products of
means are taken over pairs of different prompts alone (a U-statistic, Hoeffding 1948). Leaving out each prompt in turn gives
the standard error (jackknife).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from sae_pipeline.store.fingerprints import digest

Array = np.ndarray

FEWEST_PROMPTS = 6
"""Prompts that either side needs: three in each half, so that two are left when one is left out."""


class Sides(NamedTuple):
    """Something of each prompt on either side of a direction."""

    positive: Tensor
    """(n_positive, …)."""
    negative: Tensor
    """(n_negative, …)."""

    def map(self, of: Callable[[Tensor], Tensor]) -> Sides:
        """The same of both sides."""
        return Sides(of(self.positive), of(self.negative))

    def among(self, chosen: Sides) -> Sides:
        """Of chosen prompts alone, (n_positive,) and (n_negative,) bool."""
        return Sides(self.positive[chosen.positive], self.negative[chosen.negative])

    def difference(self) -> Tensor:
        """Difference of the means over prompts."""
        return self.positive.mean(0) - self.negative.mean(0)

    def centred(self) -> Sides:
        """Less the mean of all prompts, which changes no difference and keeps rounding small."""
        centre = torch.cat(list(self)).mean(0)
        return self.map(lambda side: side - centre)


def halves_of(name: str, positive: int, negative: int, seed: int) -> Sides:
    """Whether each prompt is in the first of two random halves: bool, the same for every SAE."""
    generator = np.random.default_rng(int(digest("prompt halves", seed, name, positive, negative), 16))
    return Sides(*(torch.from_numpy(generator.permutation(count) < count // 2) for count in (positive, negative)))


def true_products(first: Sides, second: Sides, chosen: Sides) -> Tensor:
    """Unbiased products of the true differences of two values of the prompts, component by component.

    Args:
        first: (n_positive, width) and (n_negative, width) float64.
        second: of the same shape.
        chosen: the prompts that are looked at, bool, three of either side at least.

    Returns:
        (1 + n_positive + n_negative, width): from all that are chosen, then without each prompt in turn; without one that is
        not chosen it is the first again.
    """
    (a, c), (b, d) = first.among(chosen), second.among(chosen)
    positive, negative = _Moments.of(a, b), _Moments.of(c, d)
    all_of_them = positive.whole.combined(negative.whole)
    products = all_of_them.repeat(1 + len(chosen.positive) + len(chosen.negative), 1)
    left_out = torch.cat([positive.without.combined(negative.whole), positive.whole.combined(negative.without)])
    products[1 + torch.cat(list(chosen)).to(products.device).nonzero()[:, 0]] = left_out
    return products


class _Means(NamedTuple):
    """Unbiased estimates of one side: the product of its two true means, and each of these."""

    product: Tensor
    first: Tensor
    second: Tensor

    def combined(self, other: _Means) -> Tensor:
        """The product of the differences to the other side."""
        return self.product + other.product - self.first * other.second - self.second * other.first


class _Moments(NamedTuple):
    """One side with all prompts, (1, width), and without each of them in turn, (n, width)."""

    whole: _Means
    without: _Means

    @classmethod
    def of(cls, first: Tensor, second: Tensor) -> _Moments:
        n, equal = len(first), first * second
        sums = [x.sum(0, keepdim=True) for x in (first, second, equal)]
        left = [total - x for total, x in zip(sums, (first, second, equal), strict=True)]
        return cls(*(_Means((a * b - ab) / (m * (m - 1)), a / m, b / m) for (a, b, ab), m in ((sums, n), (left, n - 1))))


# ------------------------------------------------------------------------------------------------ cosines and their intervals


def signed_root(squared: Array) -> Array:
    """Cosines of squared ones that have the sign of the cosine; not clipped: an unbiased estimate may be above 1."""
    return np.asarray(np.copysign(np.sqrt(np.abs(squared)), squared))


def shown(squared: Array, lowest: Array | float) -> Array:
    """Cosines from ``lowest`` to 1 of squared ones with a sign."""
    return np.clip(signed_root(squared), lowest, 1.0)


def cosine_interval(squared: Array, confidence: float, lowest: Array | float = -1.0) -> tuple[Array, Array]:
    """Interval of cosines from squared ones (…, 1 + prompts), the first from all prompts and the others without one each.

    Normal on the squared scale, where the estimate is the ratio of two sums over pairs of prompts.
    """
    reach = _reach(squared, confidence)
    return shown(squared[..., 0] - reach, lowest), shown(squared[..., 0] + reach, lowest)


def difference_interval(squared: Array, others: Array, confidence: float) -> tuple[Array, Array, Array]:
    """(difference, low, high) of cosines to those of another SAE, from squared ones as above, in pairs of prompts."""
    differences = signed_root(squared) - signed_root(others)
    reach = _reach(differences, confidence)
    low, high = (np.clip(differences[..., 0] + end, -2.0, 2.0) for end in (-reach, reach))  # no two cosines lie further apart
    return differences[..., 0], low, high


def _reach(values: Array, confidence: float) -> Array:
    """Half the width of an interval; infinite where the value does not exist without one of the prompts."""
    # Around the estimate, and without the factor (n - 1) / n of the jackknife: what few prompts understate is made up for.
    deviation = np.sqrt(np.square(values[..., 1:] - values[..., :1]).sum(-1))
    return np.asarray(float(ndtri((1 + confidence) / 2)) * np.where(np.isnan(deviation), np.inf, deviation))

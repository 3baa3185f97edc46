"""How surprising a figure would be if there were nothing to find, alone and among all that were asked at once.

A p-value here is an interval read backwards: the level at which the interval that is stated would just reach zero. So a
figure's interval and its p-value never disagree; only the control of the family, which looks at all figures at once, can
call a figure inconclusive whose own interval lies beside zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq
from scipy.special import stdtrit

from sae_pipeline.analysis.bootstrap import with_seed_noise

SMALLEST = 1e-12
"""Below this a p-value says no more than that it is small."""
LARGEST = 1 - 1e-9
"""Above this it says no more than that there is nothing; an interval of confidence 0 has no width to measure by."""


def level_of(excess: Callable[[float], float]) -> float:
    """The two-sided level at which a statement just stops to hold.

    Args:
        excess: how far the statement's bound lies beyond what was found, falling in the level; zero at the level asked for.

    Returns:
        nan where the excess is: nothing is stated.
    """
    at_most = excess(SMALLEST)
    if math.isnan(at_most):
        return math.nan
    if at_most <= 0:
        return SMALLEST
    if excess(LARGEST) >= 0:
        return 1.0
    return float(np.exp(brentq(lambda log_level: excess(float(np.exp(log_level))), np.log(SMALLEST), np.log(LARGEST), xtol=1e-6)))


@dataclass(frozen=True)
class Spread:
    """A figure with what its interval is made of, so that the interval can be had at any level."""

    value: float
    low: float
    high: float
    """Ends of the percentile interval over resamples, nan where there is none."""
    confidence: float
    """Level of the percentile interval."""
    variance: float = 0.0
    """Of the figure due to seeds; see :func:`sae_pipeline.analysis.bootstrap.with_seed_noise`."""
    degrees_of_freedom: float = 1.0
    """Of the variance due to seeds."""
    resample_freedom: float = math.inf
    """Of the percentile interval, where it rests on few clusters or variances; infinite where it is a normal distribution's."""

    def interval(self, confidence: float) -> tuple[float, float]:
        """The interval at a level: the percentile interval, scaled at any level but its own as Student's distribution with the
        resamples' degrees of freedom (resamples are too few to have tails), and the noise between seeds added."""
        here, own = (float(stdtrit(self.resample_freedom, (1 + level) / 2)) for level in (confidence, self.confidence))
        scale = here / own if confidence != self.confidence else 1.0
        ends = self.value - scale * (self.value - self.low), self.value + scale * (self.high - self.value)
        return with_seed_noise(self.value, ends, self.variance, self.degrees_of_freedom, confidence)

    @property
    def p_value(self) -> float:
        """Two-sided p-value against zero; nan without an interval."""
        if not np.isfinite([self.value, self.low, self.high]).all():
            return float("nan")

        def excess(level: float) -> float:
            low, high = self.interval(1 - level)
            return -low if self.value > 0 else high

        return level_of(excess) if self.value else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted so that the chance of even one false discovery stays below the level, in the order given.

    Step-down of Holm (1979), which needs valid p-values and no assumption on how the tests depend on each other: the claims
    share SAEs, documents and even contrasts. Values that are nan were not tested; they stay nan and count for nothing.
    """
    values = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(values), np.nan)
    tested = np.flatnonzero(np.isfinite(values))
    ascending = tested[np.argsort(values[tested], kind="stable")]
    steps = values[ascending] * np.arange(len(ascending), 0, -1)
    adjusted[ascending] = np.minimum(np.maximum.accumulate(steps), 1.0) if len(steps) else steps
    return [float(value) for value in adjusted]

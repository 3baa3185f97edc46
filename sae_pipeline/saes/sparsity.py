"""Steering an SAE to a target L0, because with fixed coefficients architectures end at different sparsities.

Two hands on one wheel. The coefficient of the sparsity term integrates log(L0 / target), so that in the long run the
loss itself holds the target. That is slow: Adam moves a threshold by about a learning rate per step, and no penalty,
however small, makes latents fire more often. So a common correction is also applied to the thresholds (or biases) directly,
in proportion to the present deviation; it vanishes as the coefficient arrives. How strong it may be is the architecture's: a
dictionary that is held at its target from the first step on keeps the latents that it happened to begin with, where one
that may first become denser and then gives latents up finds more features (benchmarks/recovery.py). As the learning rate falls
at the end, and with it the power of the coefficient, the correction takes over.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

INTEGRAL_GAIN = 0.02
"""Power of L0 / target that the coefficient gains per step: a factor-2 excess doubles it in 50 steps."""

FINAL_CORRECTION_GAIN = 0.1
"""The same at the end of the fall, if it is not more already: a deviation halves in a handful of steps."""

SMOOTHING = 0.7
"""Weight of the past in the running L0: batches of a few hundred activations are noisy."""

MAX_RATIO = 4.0
"""L0 / target is cut to [1/4, 4], so that the first steps cannot wind the integral up."""

LARGEST = 1e9
"""Largest coefficient, and the inverse of the least: an L0 that does not answer to the penalty must not wind it up without end."""


class SparsityController:
    """Coefficient and threshold correction as functions of the L0 seen so far; two numbers of state.

    Args:
        target_l0: mean active latents per token to reach.
        start: the first coefficient.
        correction_gain: share of log(L0 / target) by which thresholds are corrected per step before the rate falls.
    """

    def __init__(self, target_l0: float, start: float, correction_gain: float) -> None:
        self.target_l0, self._correction_gain = target_l0, correction_gain
        self._log_coefficient = _bounded(math.log(start))
        self._log_ratio = 0.0

    @property
    def coefficient(self) -> float:
        """The weight of the sparsity term in the next step's loss."""
        return math.exp(self._log_coefficient)

    def correction(self, fallen: float) -> float:
        """How far thresholds shall rise now, in units of their scale; negative when too few latents are active.

        Args:
            fallen: see ``Schedule.fallen``.
        """
        return max(self._correction_gain, fallen * FINAL_CORRECTION_GAIN) * self._log_ratio

    def observe(self, l0: float) -> None:
        """Take in one batch's mean L0."""
        limit = math.log(MAX_RATIO)
        ratio = min(max(math.log(max(l0, 1e-3) / self.target_l0), -limit), limit)
        self._log_ratio = SMOOTHING * self._log_ratio + (1 - SMOOTHING) * ratio
        self._log_coefficient = _bounded(self._log_coefficient + INTEGRAL_GAIN * ratio)

    def state(self) -> Tensor:
        """Two float64 numbers for the checkpoint."""
        return torch.tensor([self._log_coefficient, self._log_ratio], dtype=torch.float64)

    def load_state(self, state: Tensor) -> None:
        """Continue exactly where :meth:`state` was taken."""
        self._log_coefficient, self._log_ratio = state.tolist()


def _bounded(log_coefficient: float) -> float:
    return min(max(log_coefficient, -math.log(LARGEST)), math.log(LARGEST))

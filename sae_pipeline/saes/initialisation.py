"""Where training starts: statistics of the inputs, the decoder bias and the weights.

Everything is estimated on a shuffled sample that is not taken from the training order, and is stored with the SAE.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from sae_pipeline.errors import TrainingError

SAMPLE_SIZE = 8_192
"""Activations in a sample: the relative error of the variance and of a threshold's L0 is about 1 %."""


class Activations(Protocol):
    """What the trainer needs of an activation stream."""

    def sample(self, size: int) -> Tensor:
        """A shuffled sample in raw units, float32 (at most size, d_model), which leaves the stream as it is."""

    def held_out(self, half: int) -> Tensor:
        """Raw activations that no batch contains, float32 (n, d_model): half 0 to calibrate on, half 1 to measure on."""

    def batches(self, start: int, size: int, count: int, device: str) -> Generator[Tensor, None, None]:
        """``count`` batches, float32 (size, d_model) on the device, from item ``start`` of the endless stream on.

        A batch is overwritten when the next is asked for.
        """


@dataclass(frozen=True)
class InputStatistics:
    """What training needs to know about its inputs; all but ``scale`` in normalised units (x times ``scale``)."""

    scale: float
    """Factor that brings the root mean square norm of the inputs to sqrt(d_model); 1.0 without normalisation."""
    mean: Tensor
    """(d_model,) float64."""
    variance: float
    """Mean squared distance to the mean: the loss of the best constant prediction, which normalises every loss."""
    sample: Tensor
    """(n, d_model) float32, the normalised sample itself, for the starting values of thresholds and biases."""

    @cached_property
    def rms(self) -> float:
        """Root mean square of one coordinate: the unit of pre-activations of unit-norm encoder rows."""
        return self.sample.double().pow(2).mean().sqrt().item()


def input_statistics(raw: Tensor, *, normalise: bool) -> InputStatistics:
    """Statistics of a raw sample (n, d_model), accumulated in float64.

    Raises:
        TrainingError: the sample is constant or not finite, so that no loss can be normalised by its variance.
    """
    wide = raw.double()
    mean_square_norm = wide.pow(2).sum(1).mean().item()
    scale = (raw.shape[1] / mean_square_norm) ** 0.5 if normalise and mean_square_norm > 0 else 1.0
    mean = wide.mean(0)
    variance = (wide - mean).pow(2).sum(1).mean().item() * scale**2
    if not 0 < variance < float("inf"):
        raise TrainingError(
            f"expected activations that vary and are finite, found a total variance of {variance:g} in a sample of {len(raw)}; "
            "check the subject's dtype (float16 overflows) and the cached activations"
        )
    return InputStatistics(scale, mean * scale, variance, raw * scale)


def decoder_bias(kind: str, statistics: InputStatistics) -> Tensor:
    """Initial b_dec (d_model,) float64: ``zero``, ``mean`` or ``geometric_median`` of the sample."""
    if kind == "zero":
        return torch.zeros_like(statistics.mean)
    if kind == "mean":
        return statistics.mean
    return geometric_median(statistics.sample)


def geometric_median(x: Tensor, steps: int = 100, tolerance: float = 1e-7) -> Tensor:
    """Point with the least mean Euclidean distance to the rows of x (n, d_model), by Weiszfeld's iteration, float64."""
    points = x.double()
    median = points.mean(0)
    for _ in range(steps):
        weights = 1 / (points - median).norm(dim=1).clamp_min(1e-12)
        updated = (weights @ points) / weights.sum()
        moved = (updated - median).norm()
        median = updated
        if moved <= tolerance * (1 + median.norm()):
            break
    return median


def unit_rows(d_sae: int, d_model: int, seed: int) -> Tensor:
    """Directions drawn uniformly from the sphere, (d_sae, d_model) float32, from a generator of their own."""
    rows = torch.randn(d_sae, d_model, generator=torch.Generator().manual_seed(seed))
    return rows / rows.norm(dim=1, keepdim=True)

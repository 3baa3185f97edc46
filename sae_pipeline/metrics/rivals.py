"""What other tools print under the names of our metrics, recomputed on the same tokens so that numbers can be reconciled.

None of these is used by a verdict. Two of them are formed per batch and averaged, so they depend on which tokens share
a batch; here a batch is :data:`~sae_pipeline.metrics.registry.RIVAL_BATCH` consecutive usable tokens in the order of the
text, and a shorter batch at the end is left out of what is averaged over batches unless it is the only one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_pipeline.metrics.ratios import centred_squares
from sae_pipeline.metrics.reconstruction import wide
from sae_pipeline.metrics.rival_definitions import RIVAL_BATCH

NO_VARIANCE = 1e-10
"""Variance per token below which sae-lens calls a set constant and answers 1 or 0."""


class RivalBatch:
    """What the rivals need of a batch's activations (n_tokens, d_model), the same for every SAE."""

    def __init__(self, x: Tensor) -> None:
        x = wide(x)
        self.tokens = len(x)
        self.sum = x.sum(0).cpu().double()
        centred = x - x.mean(0)
        self.centred_squares = torch.linalg.vecdot(centred, centred).cpu().double()
        """(n_tokens,) squared distance of each token from the batch's mean."""


class RivalSums:
    """What one SAE accumulates for its rival metrics while batches stream past."""

    def __init__(self, d_model: int) -> None:
        self.residual = torch.zeros(d_model, dtype=torch.float64)
        self.batches = 0
        self.tokens = 0
        self.token_ratios = 0.0
        self.unexplained = 0.0
        self.residual_variance = 0.0

    def update(self, batch: RivalBatch, sse: Tensor, sum_x_hat: Tensor) -> None:
        """Take in a batch: squared error of each token (n_tokens,), and the sum of the reconstructions (d_model,), float64."""
        residual = batch.sum - sum_x_hat
        self.residual += residual
        if batch.tokens < RIVAL_BATCH and self.batches:
            return
        total = batch.centred_squares.sum().item()
        self.batches += 1
        self.tokens += batch.tokens
        self.token_ratios += (sse / batch.centred_squares).sum().item()
        self.unexplained += _ratio(sse.sum().item(), total)
        self.residual_variance += _ratio(sse.sum().item() - (residual @ residual).item() / batch.tokens, total)

    def values(self, *, n: int, sse: float, sum_sq: float, sum_x: Tensor) -> dict[str, float | None]:
        """The rival metrics.

        Args:
            n: tokens of the set.
            sse: sum of |x - x_hat|^2 over them.
            sum_sq: sum of |x|^2.
            sum_x: (d_model,) float64, sum of x.

        Returns:
            Every ``legacy.`` metric; None where it is undefined.
        """
        variance = centred_squares(n, sum_sq, sum_x.numpy()).item()
        explained = 1 - _ratio(sse, variance)
        square = _ratio(sum_sq, n)
        constant = square - _ratio((sum_x @ sum_x).item(), n**2) < NO_VARIANCE
        values = {
            "legacy.sae_lens.explained_variance": float(_ratio(sse, n) < NO_VARIANCE) if constant else explained,
            "legacy.sae_lens.explained_variance_legacy": 1 - _ratio(self.token_ratios, self.tokens),
            "legacy.sae_bench.explained_variance": 1 - _ratio(_ratio(sse, n), square - (square / len(sum_x)) ** 2),
            "legacy.dictionary_learning.frac_variance_explained": 1 - _ratio(self.residual_variance, self.batches),
            "legacy.sparsify.fvu": _ratio(self.unexplained, self.batches),
            "legacy.scikit_learn.explained_variance_score": 1 - _ratio(sse - _ratio((self.residual @ self.residual).item(), n), variance),
            "legacy.s1.loss_recovered": max(explained, 0.0),
        }
        return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _ratio(part: float, whole: float) -> float:
    """nan where there is nothing to divide by, as numpy has it."""
    return part / whole if whole else math.nan

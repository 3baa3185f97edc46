"""Match ratio and mean highest cosine of one dictionary in another, with the floor that chance gives the same shapes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.matching.weights.chance import chance_match_ratio, chance_mmcs

QUANTILES = (0.1, 0.5, 0.9)


@dataclass(frozen=True)
class Matched:
    """How well the rows of one dictionary are found in another; directed, the other way differs."""

    n: int
    """Rows looked for."""
    n_other: int
    """Rows among which they are looked for."""
    match_ratio: float
    """Share of the n rows whose highest signed cosine is strictly above the threshold (Cho 2025)."""
    mmcs: float
    """Mean of the highest cosines (mean maximum cosine similarity, Sharkey et al. 2022)."""
    q10: float
    q50: float
    q90: float
    """Quantiles of the highest cosines, linear between order statistics."""
    chance_match_ratio: float
    chance_mmcs: float
    """Expectations of both for random directions in the same numbers."""


def matched(best: Tensor, n_other: int, d: int, threshold: float) -> Matched:
    """The directed figures of highest cosines (n,), n at least 1, of rows of length d among ``n_other`` others."""
    values = best.double()
    q10, q50, q90 = torch.quantile(values, torch.tensor(QUANTILES, dtype=torch.float64)).tolist()
    return Matched(
        n=len(best),
        n_other=n_other,
        match_ratio=match_ratio(best, threshold),
        mmcs=values.mean().item(),
        q10=q10,
        q50=q50,
        q90=q90,
        chance_match_ratio=chance_match_ratio(n_other, d, threshold),
        chance_mmcs=chance_mmcs(n_other, d),
    )


def match_ratio(best: Tensor, threshold: float) -> float:
    """Share of cosines (n,) strictly above the threshold."""
    return (best > threshold).double().mean().item()


def feature_count_difference(n: int, ratio: float, n_other: int, ratio_other: float) -> float:
    """Matched features of the other dictionary minus those of this one (Cho 2025, table 2).

    Args:
        n, ratio: width of this dictionary, and the share of it found in the other.
        n_other, ratio_other: width of the other, and the share of it found in this one.
    """
    return n_other * ratio_other - n * ratio

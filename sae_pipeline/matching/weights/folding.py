"""SAE Match's parameter folding: the threshold of a latent written into its weights, so that their norms carry it.

Balagansky et al. 2024, equation 4: W_enc' = W_enc diag(1/θ), b_enc' = b_enc / θ, W_dec' = diag(θ) W_dec (rows are latents
here), θ' = 1. The SAE's outputs stay what they were. The pairing is then the one with the least sum of squared differences of
the folded decoder rows; the authors found that adding the encoder's changes little, and a sum of both would depend on the
unit of the activations, because one grows with it and the other shrinks.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_pipeline.matching.assignment import assign
from sae_pipeline.metrics.reconstruction import wide
from sae_pipeline.saes.inference import InferenceSAE

EQUAL_NORMS = 1e-6
"""Relative difference of norms that is rounding: float32 weights of unit norm differ by less."""


def folded_decoder(sae: InferenceSAE) -> Tensor | None:
    """Decoder rows times their thresholds (d_sae, d_model) float32; zero rows where a threshold is not positive.

    A JumpReLU latent whose threshold is not positive is a plain ReLU: no scale of its weights makes the threshold 1.

    Returns:
        None where the SAE has no thresholds, or none that is positive.
    """
    if sae.threshold is None or not bool((sae.threshold > 0).any()):
        return None
    return (wide(sae.threshold.clamp_min(0))[:, None] * wide(sae.W_dec)).float()


def folded_pairs(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of a (n_a, d) and of b (n_b, d), paired one to one with the least sum of squared differences.

    Rows of zero norm have no partner.

    Returns:
        Two int64 tensors (n,) on the CPU: rows of a, and their partners in b.
    """
    rows, columns = (torch.linalg.vector_norm(folded, dim=1).nonzero()[:, 0] for folded in (a, b))
    if not len(rows) or not len(columns):
        return rows.new_empty(0).cpu(), columns.new_empty(0).cpu()
    found = assign(*squared_difference_rows(a[rows], b[columns]))
    return rows.cpu()[found.rows], columns.cpu()[found.columns]


def squared_difference_rows(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Rows whose products rank one-to-one pairings as the squared differences of a (n_a, d) and b (n_b, d) do, reversed.

    |x - y|² = |x|² + |y|² - 2 x·y. Where every row is used, norms are the same in every pairing and the products decide. Else
    the norms of the side with more rows count, and one more dimension carries them. Divided by the largest norms, products
    are of the size of cosines.

    Returns:
        (n_a, d) and (n_b, d) float32 where both have as many rows, else (n_a, d + 1) and (n_b, d + 1).
    """
    if len(a) > len(b):
        second, first = squared_difference_rows(b, a)
        return first, second
    wide_a, wide_b = wide(a), wide(b)
    norms_b = torch.linalg.vector_norm(wide_b, dim=1, keepdim=True)
    scale_a, scale_b = torch.linalg.vector_norm(wide_a, dim=1).max(), norms_b.max()
    first, second = wide_a / scale_a, wide_b / scale_b
    if len(a) < len(b):
        first = torch.cat([first, -torch.ones_like(first[:, :1])], dim=1)
        second = torch.cat([second, norms_b.square() / (2 * scale_a * scale_b)], dim=1)
    return first.float(), second.float()


def equal_norms(folded: Tensor) -> bool:
    """Whether all rows (n, d) have one norm, as in a BatchTopK SAE: then folding changes no ranking."""
    norms = torch.linalg.vector_norm(wide(folded), dim=1)
    return bool(norms.max() - norms.min() <= EQUAL_NORMS * norms.max())

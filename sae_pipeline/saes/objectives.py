"""Terms that any architecture's loss can have: the tilt over tokens and the diversity of the decoder.

Both are functions of one call of the step. Where a batch is processed in parts, each part has its own tilt and its own
sample of co-active latents, and the parts' gradients are averaged like all others.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sae_pipeline.saes.kernels import ByLatent, SparseCode, row_starts, tokens_of

DIVERSITY_TOKENS = 256
"""Tokens of a batch whose co-active pairs count: thousands of pairs already, and batches are shuffled."""

GROUP_ELEMENTS = 2**20
"""Numbers held at a time for the decoder rows and cosines of a group of tokens, at least one (4 MiB in float32: stays in cache)."""


def tilted(losses: Tensor, t: float) -> tuple[float, Tensor]:
    """Tilted empirical risk (Li et al. 2021, "Tilted Empirical Risk Minimization"): (1/t) log mean exp(t * loss).

    Args:
        losses: (n_tokens,) squared errors relative to the inputs' variance, so that t has no unit.
        t: positive lets the worst tokens count more, negative the best; 0 is the mean.

    Returns:
        The risk, and its gradient by the losses: softmax(t * losses), (n_tokens,) float64, which sums to one.
    """
    wide = losses.double()
    if t == 0:
        return wide.mean().item(), torch.full_like(wide, 1 / len(wide))
    exponents = t * wide
    return (exponents.logsumexp(0).item() - math.log(len(wide))) / t, exponents.softmax(0)


def effective_sample_size(weights: Tensor) -> float:
    """Kish's 1 / sum of squared weights, in tokens, of weights (n_tokens,) that sum to one: n_tokens when all are equal."""
    return 1 / weights.square().sum().item()


def add_diversity(code: SparseCode, W_dec: Tensor, gradient: Tensor, coefficient: float) -> float:
    """Mean squared cosine between the decoder rows of two latents that are active on the same token.

    The mean is over all ordered pairs of different latents active together, over the first ``DIVERSITY_TOKENS`` tokens;
    a pair counts once for every token that has it. 0 where no token has two active latents. Rows have unit norm
    whenever the loss is computed, so the cosine is the product.

    Args:
        code: active latents of the batch.
        W_dec: (d_sae, d_model).
        gradient: of W_dec, same shape; ``coefficient`` times this term's gradient is added to it.

    Returns:
        The mean, before the coefficient.
    """
    n, d_model = min(DIVERSITY_TOKENS, len(code.starts) - 1), W_dec.shape[1]
    end = int(code.starts[n])
    sample = SparseCode(code.starts[: n + 1], code.latents[:end], code.values[:end])
    active = sample.values > 0
    tokens, latents = tokens_of(sample)[active], sample.latents[active].long()
    counts = torch.bincount(tokens, minlength=n)
    pairs, most = int((counts * (counts - 1)).sum()), int(counts.max())
    if not pairs:
        return 0.0
    starts = row_starts(counts)
    # Every token of a group is padded to the most crowded one; zero rows add nothing.
    places = tokens * most + torch.arange(len(tokens), device=tokens.device) - starts[tokens]
    size = max(1, GROUP_ELEMENTS // (most * (most + d_model)))
    squares = 0.0
    for first in range(0, n, size):
        last = min(first + size, n)
        part = slice(int(starts[first]), int(starts[last]))
        inside = places[part] - first * most
        rows = W_dec.new_zeros((last - first) * most, d_model).index_copy_(0, inside, W_dec.index_select(0, latents[part]))
        grouped = rows.view(last - first, most, d_model)
        cosines = torch.bmm(grouped, grouped.transpose(1, 2))
        cosines.diagonal(dim1=1, dim2=2).zero_()
        squares += cosines.square().sum(dtype=torch.float64).item()
        # A row meets every other row of its token twice, as the first and as the second of an ordered pair.
        pull = torch.bmm(cosines, grouped).view(-1, d_model).index_select(0, inside).mul_(4 * coefficient / pairs)
        _add_rows(gradient, latents[part], pull)
    return squares / pairs


def _add_rows(gradient: Tensor, latents: Tensor, rows: Tensor) -> None:
    """gradient[latents[j]] += rows[j], in an order that is the same every time on every device."""
    if not len(latents):
        return
    chosen, inverse = latents.unique(return_inverse=True)
    ones = torch.ones(len(rows), dtype=rows.dtype, device=rows.device)
    # To the sums by latent, every row is a token with one active latent.
    by_latent = ByLatent(SparseCode(torch.arange(len(rows) + 1, device=rows.device), inverse, ones), len(rows), len(chosen))
    gradient.index_add_(0, chosen, by_latent.weighted_sum(rows, ones))

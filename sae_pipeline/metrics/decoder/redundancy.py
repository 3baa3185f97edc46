"""How alike the decoder directions of one SAE are, from cosines that are never all in memory at once."""

from __future__ import annotations

from typing import NamedTuple

import pandas as pd
import torch
from torch import Tensor

from sae_pipeline.metrics.reconstruction import wide
from sae_pipeline.metrics.registry import TOP_PAIRS

BLOCK_ELEMENTS = 2**22
"""Cosines held at once (16 MiB), whatever the width of the dictionary."""

ANTIPODAL_COSINE = -0.9
"""Cosine below which, strictly, two decoder rows count as opposite: one direction written as two latents, one per sign."""


class DecoderSimilarity(NamedTuple):
    """What one pass over the pairs of decoder rows finds."""

    metrics: dict[str, float | None]
    """``decoder_mean_cos`` and ``decoder_mean_abs_cos`` over pairs, ``decoder_mean_max_cos`` (mean over rows of the largest cosine
    with another row), ``decoder_top100_pair_cos`` (mean of the 100 largest cosines of distinct pairs, or of all pairs when there
    are fewer) and ``antipodal_pairs`` (number of pairs with a cosine below :data:`ANTIPODAL_COSINE`). All None when fewer than
    two rows have a direction."""
    most_similar: pd.DataFrame
    """The pairs averaged by ``decoder_top100_pair_cos``, most similar first: ``latent`` < ``other_latent`` and ``cosine``."""


def decoder_similarity(W_dec: Tensor, *, block_elements: int = BLOCK_ELEMENTS) -> DecoderSimilarity:
    """Cosines between distinct decoder rows, signed unless the name says otherwise, and the most similar pairs by their ids.

    Args:
        W_dec: (d_sae, d_model) decoder; rows of zero norm have no direction and are left out.
        block_elements: cosines held at once; does not change the result beyond rounding.
    """
    rows = wide(W_dec)
    norms = torch.linalg.vector_norm(rows, dim=-1)
    directed = (norms > 0).nonzero()[:, 0]
    unit = (rows[directed] / norms[directed, None]).float()
    count = len(unit)
    if count < 2:
        names = ("decoder_mean_cos", "decoder_mean_abs_cos", "decoder_mean_max_cos", "decoder_top100_pair_cos", "antipodal_pairs")
        return DecoderSimilarity(dict.fromkeys(names), _pairs(directed, torch.empty(0), torch.empty(0, dtype=torch.int64)))
    pairs = count * (count - 1) // 2
    kept = min(TOP_PAIRS, pairs)
    total, total_abs, antipodal = 0.0, 0.0, 0
    largest = torch.full((count,), -torch.inf, device=unit.device)
    top = torch.empty(0, device=unit.device)
    top_pairs = torch.empty(0, dtype=torch.int64, device=unit.device)
    step = max(block_elements // count, 1)
    for start in range(0, count, step):
        block = unit[start : start + step] @ unit[start:].T
        below = torch.ones_like(block, dtype=torch.bool).tril()  # every pair once, no row with itself
        upper = block.masked_fill(below, 0.0)
        total += wide(upper).sum().item()
        total_abs += wide(upper.abs()).sum().item()
        antipodal += int((upper < ANTIPODAL_COSINE).sum())
        block = block.masked_fill(below, -torch.inf)
        largest_of_row = block.amax(1)
        largest[start : start + step] = torch.maximum(largest[start : start + step], largest_of_row)
        largest[start:] = torch.maximum(largest[start:], block.amax(0))
        hopeful = (largest_of_row > (top[-1] if len(top) == kept else -torch.inf)).nonzero()[:, 0]
        cosines, where = block[hopeful].flatten().topk(min(kept, len(hopeful) * block.shape[1]))
        first, second = start + hopeful[where // block.shape[1]], start + where % block.shape[1]
        real = cosines > -torch.inf
        cosines, found = torch.cat([top, cosines[real]]), torch.cat([top_pairs, (first * count + second)[real]])
        top, chosen = cosines.topk(min(kept, len(cosines)))
        top_pairs = found[chosen]
    metrics: dict[str, float | None] = {
        "decoder_mean_cos": total / pairs,
        "decoder_mean_abs_cos": total_abs / pairs,
        "decoder_mean_max_cos": wide(largest).mean().item(),
        "decoder_top100_pair_cos": wide(top).mean().item(),
        "antipodal_pairs": float(antipodal),
    }
    return DecoderSimilarity(metrics, _pairs(directed, top, top_pairs))


def _pairs(directed: Tensor, cosines: Tensor, pairs: Tensor) -> pd.DataFrame:
    """The table of pairs (n,), numbered among the rows that have a direction (n_directed,), first row times their number plus second."""
    latents = directed.cpu().numpy()
    numbers, count = pairs.cpu().numpy(), max(len(latents), 1)
    return pd.DataFrame({"latent": latents[numbers // count], "other_latent": latents[numbers % count], "cosine": cosines.cpu().double().numpy()})

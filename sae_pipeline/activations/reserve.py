"""Activations that no training order contains: one half calibrates thresholds, the other measures the sparsity reached.

A threshold set on what the SAE was trained on lets fewer latents through on text it has not seen. The reserve is taken
from the ends of blocks spread evenly over the corpus, the same for every data seed, and is small beside the corpus.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_pipeline.activations.rows import ActivationRows

RESERVED_TOKENS = 16_384
"""Tokens of the reserve in a large corpus: two samples in which a mean L0 has a relative error below 1 %."""

RESERVED_SHARE = 8
"""One in so many tokens of a block is reserved, and of a corpus that is too small for the full reserve."""

LEAST_TOKENS = 3
"""Usable tokens of the smallest set: one to train on, and one for each half of the reserve."""


def reserved_per_block(usable_per_block: Tensor) -> Tensor:
    """How many of each block's last usable rows are reserved, int64 (n_blocks,).

    Args:
        usable_per_block: int64 (n_blocks,), at least LEAST_TOKENS together.
    """
    filled = usable_per_block.nonzero().squeeze(1)
    possible = -(-usable_per_block[filled] // RESERVED_SHARE)
    wanted = max(2, min(RESERVED_TOKENS, int(usable_per_block.sum()) // RESERVED_SHARE))
    count = min(len(filled), max(1, round(len(filled) * wanted / int(possible.sum()))))
    if count == 1:  # a single pass over the model: the end of its fullest block
        fullest = usable_per_block.argmax()
        chosen, sizes = fullest[None], usable_per_block[fullest].sub(1).clamp(max=wanted)[None]
    else:
        chosen = filled[((torch.arange(count) + 0.5) * len(filled) / count).long()]
        sizes = -(-usable_per_block[chosen] // RESERVED_SHARE)
    return torch.zeros_like(usable_per_block).index_put((chosen,), sizes)


def read_reserve(rows: ActivationRows, reserved: Tensor, half: int) -> Tensor:
    """The first (0) or second (1) half of the reserve as float32 (n, d_model), in the order of the corpus."""
    cut = int(reserved.sum()) // 2
    wanted = (0, cut) if half == 0 else (cut, int(reserved.sum()))
    parts, place = [], 0
    for block in reserved.nonzero().squeeze(1).tolist():
        kept = int(reserved[block])
        low, high = max(wanted[0] - place, 0), min(wanted[1] - place, kept)
        place += kept
        if low < high:
            usable = int(rows.usable_per_block[block])
            whole = torch.empty(usable, rows.d_model, dtype=rows.dtype)
            rows.read_block(block, whole)
            parts.append(whole[usable - kept + low : usable - kept + high].float())
    return torch.cat(parts)

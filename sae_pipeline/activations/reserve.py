"""Activations that no training order contains: one half calibrates thresholds, the other measures the sparsity reached.

A threshold set on what the SAE was trained on lets fewer latents through on what it was not. The reserve is taken from the
ends of blocks spread evenly over the corpus, the same for every data seed, and is small beside the corpus. Its rows are in
no epoch, but the tokens before them, often of the same documents, are: text that shares nothing with training is what the
evaluation sets are for.
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
    """One half of the reserve as float32 (n, d_model), in the order of the corpus: of each block's the first (0) or the second (1).

    Where a block's reserve is odd, the halves get the row left over in turn.
    """
    parts = []
    for number, block in enumerate(reserved.nonzero().squeeze(1).tolist()):
        usable, kept = int(rows.usable_per_block[block]), int(reserved[block])
        cut = usable - kept + (kept + number % 2) // 2
        low, high = (usable - kept, cut) if half == 0 else (cut, usable)
        if low < high:
            whole = torch.empty(high, rows.d_model, dtype=rows.dtype)
            rows.read_block(block, whole)
            parts.append(whole[low:].float())
    return torch.cat(parts)

"""Active latents of a batch as compressed sparse rows: what every primitive of a sparse step reads or makes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class SparseCode(NamedTuple):
    """Active latents of a batch, token after token (compressed sparse rows)."""

    starts: Tensor
    """(n_tokens + 1,) int64: token t owns entries starts[t] to starts[t + 1]."""
    latents: Tensor
    """(entries,) int64."""
    values: Tensor
    """(entries,) activations, >= 0; an entry of value 0 counts as inactive."""
    near: Tensor | None = None
    """(entries,) bool: within reach of a threshold's straight-through estimator; JumpReLU only."""
    gate: Tensor | None = None
    """(entries,) positive pre-activations of the gate; Gated only."""


def row_starts(counts: Tensor) -> Tensor:
    """Row pointers (rows + 1,) int64 of rows with ``counts`` entries (integers, or bool for none and one)."""
    starts = torch.zeros(len(counts) + 1, dtype=torch.int64, device=counts.device)
    torch.cumsum(counts, 0, dtype=torch.int64, out=starts[1:])
    return starts


def tokens_of(code: SparseCode) -> Tensor:
    """(entries,) int64: the token that every entry belongs to."""
    tokens = torch.arange(len(code.starts) - 1, device=code.starts.device)
    return torch.repeat_interleave(tokens, code.starts.diff(), output_size=code.latents.numel())

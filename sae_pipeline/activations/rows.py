"""What training needs of a table of activations, whether it lies on disk or is computed while it is read.

A table is read block by block. A block is one forward pass, so the rows of a block are the same bits wherever they
come from, and so is everything that follows from them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from sae_pipeline.activations.blocks import Cut


class ActivationRows(Protocol):
    """Activations of one corpus at one hook, one row per token, in the order of the contexts.

    Attributes:
        rows: number of tokens, special ones included.
        d_model: width of an activation.
        cut: shards and blocks of the corpus.
        dtype: of storage; what is computed anew is rounded to it.
        usable_per_block: int64 (n_blocks,) tokens of every block that are not special.
        document: int32 (rows,) row of the corpus's documents table, -1 for special tokens.
        usable: int64 row numbers of the tokens that are not special, ascending.
    """

    rows: int
    d_model: int
    cut: Cut
    dtype: torch.dtype

    @property
    def usable_per_block(self) -> Tensor: ...
    @property
    def document(self) -> Tensor: ...
    @property
    def usable(self) -> Tensor: ...

    def expect_block(self, block: int) -> None:
        """Say that a block will be read soon, so that it can be fetched meanwhile."""

    def read_block(self, block: int, out: Tensor) -> None:
        """Write the first usable rows of a block, in order, as many as ``out`` (n, d_model) of ``dtype`` on the CPU takes."""


def usable_rows(document: Tensor) -> Tensor:
    """int64 places of the tokens that belong to a document, ascending; ``document`` (n,) is -1 elsewhere."""
    return (document >= 0).nonzero().squeeze(1)


def count_usable(cut: Cut, document: Callable[[int], Tensor]) -> Tensor:
    """Usable tokens of every block, int64 (n_blocks,), from the documents (rows of a shard,) of one shard at a time."""
    per_context = torch.cat([(document(n) >= 0).view(-1, cut.context_length).sum(1) for n in range(len(cut.shards))])
    before = torch.cat([torch.zeros(1, dtype=torch.int64), per_context.cumsum(0)])
    first, stop = torch.tensor(cut.blocks).T
    return before[stop] - before[first]

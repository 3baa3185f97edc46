"""The order in which training sees the tokens of a corpus.

A block shuffle: the blocks of an epoch are permuted, consecutive ones form a window of at least the stated number of
tokens, and the tokens of a window are permuted uniformly. Every epoch is an exact permutation of all usable tokens,
and the token at any place follows from (seed, epoch, cut, window size) alone: nothing is consumed, so arms share one
order and a resumed run goes on exactly.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Window:
    """Blocks whose tokens are shuffled together.

    Attributes:
        blocks: ascending numbers of the blocks.
        rows: tokens of theirs that take part; row ``i`` counts through the blocks in that order.
        start: place of the window's first token in its epoch.
        name: what its permutation is drawn from.
    """

    blocks: tuple[int, ...]
    rows: int
    start: int
    name: str

    def permutation(self) -> Tensor:
        """int64 (rows,): the rows in the order in which they are seen."""
        return torch.randperm(self.rows, generator=generator(self.name))


class ShuffledOrder:
    """The order of an endless concatenation of epochs."""

    def __init__(self, rows_per_block: Tensor, seed: int, shuffle_tokens: int) -> None:
        """Of blocks of which so many tokens each take part, int64 (n_blocks,), at least one of them above 0."""
        self.rows_per_block, self.seed = rows_per_block, seed
        self.per_epoch = int(rows_per_block.sum())
        largest = int(rows_per_block.max())
        # Windows end at the block that reaches an equal share of the epoch, so each is within a block of that share,
        # and none is short: the last would be, were each filled to the least size and the rest left over.
        self.n_windows = max(1, self.per_epoch // (shuffle_tokens + largest))
        self.largest_window = min(self.per_epoch, self.per_epoch // self.n_windows + largest)
        self._latest: tuple[int, list[Window]] = (-1, [])

    def windows(self, epoch: int) -> list[Window]:
        """The windows of an epoch, in order."""
        known, found = self._latest
        if known != epoch:
            found = self._cut(epoch)
            self._latest = (epoch, found)
        return found

    def _cut(self, epoch: int) -> list[Window]:
        name = f"{self.seed}/{epoch}"
        blocks = torch.randperm(len(self.rows_per_block), generator=generator(name))
        blocks = blocks[self.rows_per_block[blocks] > 0]  # a window's name for what it holds would depend on empty ones
        reached = self.rows_per_block[blocks].cumsum(0)
        shares = torch.arange(1, self.n_windows + 1) * self.per_epoch // self.n_windows
        ends = (torch.searchsorted(reached, shares) + 1).tolist()
        windows, start = [], 0
        for number, (first, stop) in enumerate(pairwise([0, *ends])):
            end = int(reached[stop - 1])
            windows.append(Window(tuple(blocks[first:stop].sort().values.tolist()), end - start, start, f"{name}/{number}"))
            start = end
        return windows

    def pieces(self, start: int, size: int) -> Iterator[tuple[Window, int, int]]:
        """Places [start, start + size) of the endless order as (window, place in its permutation, place after the last)."""
        while size > 0:
            epoch, offset = divmod(start, self.per_epoch)
            for window in self.windows(epoch):
                if offset < window.start + window.rows and size > 0:
                    low = max(offset - window.start, 0)
                    high = min(low + size, window.rows)
                    yield window, low, high
                    start, size = start + high - low, size - (high - low)


def generator(name: str) -> torch.Generator:
    """A generator of its own for every name; hashed, so that those of neighbouring seeds and epochs have nothing in common."""
    key = hashlib.sha256(f"activation order/{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(key[:8], "little") >> 1)

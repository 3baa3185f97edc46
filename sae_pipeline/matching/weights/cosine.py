"""The highest signed cosines of every row of one SAE among the rows of another, in both directions, from one product.

The product is never held as a whole beyond :data:`BLOCK_ELEMENTS` cosines, so memory stays bounded whatever the widths.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

BLOCK_ELEMENTS = 2**22
"""Cosines held at once (16 MiB), whatever the widths of the dictionaries."""

TOP = 4
"""How many of a row's highest cosines are kept: one that matches, and how far the next ones are below (Cho 2025, figure 11)."""

EDGES = np.arange(-20, 21) / 20
"""Edges of the histograms of cosines, 0.05 apart."""


@dataclass(frozen=True)
class Nearest:
    """The highest cosines of rows among other rows, on the CPU."""

    cosine: Tensor
    """(n, top) float32, highest first; fewer columns where there are fewer other rows."""
    index: Tensor
    """(n, top) int64, which of the other rows, in the numbering of all of them."""

    @property
    def best(self) -> Tensor:
        """(n,) float32, the highest cosine of each row."""
        return self.cosine[:, 0]


class NearestSearch:
    """Collects the highest cosines in both directions while blocks of the product go by.

    Args:
        n_a, n_b: number of rows of each side.
        top: how many cosines are kept per row.
        kept_a, kept_b: the rows that take part, int64 on the CPU, ascending, at least one each; all by default.
    """

    def __init__(self, n_a: int, n_b: int, *, top: int = TOP, kept_a: Tensor | None = None, kept_b: Tensor | None = None) -> None:
        self._rows = torch.arange(n_a) if kept_a is None else kept_a
        self._columns = torch.arange(n_b) if kept_b is None else kept_b
        self._whole = len(self._rows) == n_a and len(self._columns) == n_b
        self._top = top
        self._forward: list[tuple[Tensor, Tensor]] = []
        self._backward: tuple[Tensor, Tensor] | None = None

    def take_in(self, start: int, block: Tensor) -> None:
        """Look at cosines (rows, n_b) of all of b's rows with the rows of a from ``start`` on; blocks come in order."""
        first, last = torch.searchsorted(self._rows, torch.tensor([start, start + len(block)])).tolist()
        if first == last:
            return
        if not self._whole:
            block = block[(self._rows[first:last] - start).to(block.device)[:, None], self._columns.to(block.device)]
        self._forward.append(_highest(block, self._top))
        cosine, index = _highest(block.T.contiguous(), self._top)
        index += first
        if self._backward is not None:
            cosine, place = _highest(torch.cat([self._backward[0], cosine], dim=1), self._top)
            index = torch.cat([self._backward[1], index], dim=1).gather(1, place)
        self._backward = cosine, index

    @property
    def forward(self) -> Nearest:
        """Of a's rows among b's, one row per row of a that takes part."""
        cosine, index = (torch.cat(parts).cpu() for parts in zip(*self._forward, strict=True))
        return Nearest(cosine, self._columns[index])

    @property
    def backward(self) -> Nearest:
        """Of b's rows among a's."""
        assert self._backward is not None
        cosine, index = (part.cpu() for part in self._backward)
        return Nearest(cosine, self._rows[index])


def sweep(a: Tensor, b: Tensor, *searches: NearestSearch, block_elements: int = BLOCK_ELEMENTS) -> None:
    """Form the product of unit rows a (n_a, d) and b (n_b, d) on one device, block by block, and show it to every search."""
    step = max(block_elements // len(b), 1)
    for start in range(0, len(a), step):
        block = a[start : start + step] @ b.T
        for search in searches:
            search.take_in(start, block)


def nearest(a: Tensor, b: Tensor, *, top: int = TOP, block_elements: int = BLOCK_ELEMENTS) -> tuple[Nearest, Nearest]:
    """The highest signed cosines of unit rows a (n_a, d) among b (n_b, d), and of b's among a's; n_a and n_b at least 1."""
    search = NearestSearch(len(a), len(b), top=top)
    sweep(a, b, search, block_elements=block_elements)
    return search.forward, search.backward


def top_counts(found: Nearest) -> np.ndarray:
    """Histograms (top, 40) int64 of each place's cosines between :data:`EDGES`; rounding beyond 1 counts as 1."""
    return np.stack([np.histogram(place, EDGES)[0] for place in found.cosine.clamp(-1, 1).double().T.numpy()])


def _highest(values: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The ``top`` highest of each row, highest first, with their places; ``Tensor.max`` where it is one, which is faster."""
    if top == 1:
        cosine, index = values.max(dim=1, keepdim=True)
        return cosine, index
    cosine, index = values.topk(min(top, values.shape[1]), dim=1)
    return cosine, index

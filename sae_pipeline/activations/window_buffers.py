"""The windows that a stream holds in memory: at most two, one in use and the next being read."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Generator, Iterable
from contextlib import suppress

import torch
from torch import Tensor

from sae_pipeline.activations.order import ShuffledOrder, Window
from sae_pipeline.activations.rows import ActivationRows

BLOCKS_AHEAD = 16
"""Blocks that the disk is asked for before they are read: two to three times the rate of one after the other, when nothing is cached."""


class _Stopped(Exception):
    """Nobody wants the window that is being read."""


class WindowBuffers:
    """Two reused tensors (largest_window, d_model) of the storage dtype, the second made only when a second window is needed."""

    def __init__(self, rows: ActivationRows, order: ShuffledOrder) -> None:
        self._rows, self._order = rows, order
        self._wanted: list[int] = order.rows_per_block.tolist()
        self._tensors: list[Tensor] = []
        self._holds: list[tuple[int, ...]] = []
        self._latest = 0
        self._stopping = threading.Event()

    def load(self, window: Window) -> Tensor:
        """The rows of a window (window.rows, d_model) in the order of its blocks, valid until the window after the next is loaded.

        What is already held is not read again: the window that a sample was taken from, or the only window of a small
        corpus in every epoch.
        """
        if window.blocks not in self._holds:
            self._read(window.blocks, self._free())
        self._latest = self._holds.index(window.blocks)
        return self._tensors[self._latest][: window.rows]

    def _free(self) -> int:
        """The buffer that was not handed out last."""
        if len(self._tensors) == 2:
            return 1 - self._latest
        self._tensors.append(_in_huge_pages(self._order.largest_window, self._rows.d_model, self._rows.dtype))
        self._holds.append(())
        return len(self._tensors) - 1

    def _read(self, blocks: tuple[int, ...], place: int) -> None:
        self._holds[place] = ()  # until it is complete, because a read that fails or stops leaves pieces of two windows
        filled = 0
        for block in blocks[:BLOCKS_AHEAD]:
            self._rows.expect_block(block)
        for number, block in enumerate(blocks):
            if self._stopping.is_set():
                raise _Stopped
            for coming in blocks[number + BLOCKS_AHEAD : number + BLOCKS_AHEAD + 1]:
                self._rows.expect_block(coming)
            wanted = self._wanted[block]
            self._rows.read_block(block, self._tensors[place][filled : filled + wanted])
            filled += wanted
        self._holds[place] = blocks

    def pieces(self, places: Iterable[tuple[Window, int, int]], stopping: threading.Event) -> Generator[tuple[Tensor, Tensor], None, None]:
        """For every (window, low, high) its rows, and which of them are its items [low, high); ends within a block of ``stopping``."""
        self._stopping = stopping
        try:
            for window, low, high in places:
                yield self.load(window), window.permutation()[low:high]
        except _Stopped:
            return
        finally:
            self._stopping = threading.Event()


def _in_huge_pages(rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """A tensor (rows, width) of zeros in huge pages where the system has them.

    Touched for the first time in pages of 4 kB, a window costs more than reading it, and its rows are gathered slower.
    """
    memory = mmap.mmap(-1, rows * width * dtype.itemsize, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=dtype).view(rows, width)

"""The shuffled stream of activations that SAEs are trained on.

An endless concatenation of epochs in the order of :class:`~sae_pipeline.activations.order.ShuffledOrder`, raw model
units, the same bits whether the rows are cached or computed anew. A small reserve is in no epoch, for calibration. Two windows are held in memory, whatever the number
of tokens: batches are gathered from one while the next is read.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator

import torch
from torch import Tensor

from sae_pipeline.activations.batches import HostSlot, Slot, make_slots
from sae_pipeline.activations.order import ShuffledOrder, generator
from sae_pipeline.activations.prefetch import Ahead
from sae_pipeline.activations.reserve import LEAST_TOKENS, read_reserve, reserved_per_block
from sae_pipeline.activations.rows import ActivationRows
from sae_pipeline.activations.window_buffers import WindowBuffers
from sae_pipeline.errors import StorageError


class ActivationStream:
    """The non-special rows of a table, but for a reserve, in a shuffled order that ``seed`` decides."""

    def __init__(self, rows: ActivationRows, seed: int, shuffle_tokens: int) -> None:
        """Nothing is read yet but which tokens are special.

        Args:
            shuffle_tokens: least number of tokens that are shuffled together; a set that does not fill two such
                windows is shuffled as a whole.

        Raises:
            StorageError: the rows are those of special tokens only, or too few to reserve some of them.
        """
        usable = rows.usable_per_block
        if (found := int(usable.sum())) < LEAST_TOKENS:
            raise StorageError(
                f"expected activations of at least {LEAST_TOKENS} ordinary tokens, found {found} beside special tokens; "
                "check the corpus that they were harvested from"
            )
        self.rows = rows
        self._reserved = reserved_per_block(usable)
        self.order = ShuffledOrder(usable - self._reserved, seed, shuffle_tokens)
        self._buffers = WindowBuffers(rows, self.order)

    def sample(self, size: int) -> Tensor:
        """A random sample for statistics, float32 (at most size, d_model), in another order than that of training.

        Without replacement from the first window: a set of its own would have to be read, or computed, only for this.
        """
        window = self.order.windows(0)[0]
        chosen = torch.randperm(window.rows, generator=generator(f"{self.order.seed}/sample"))[:size]
        return self._buffers.load(window)[chosen].float()

    def held_out(self, half: int) -> Tensor:
        """Activations that are in no epoch of any seed, float32 (n, d_model): half 0 to calibrate on, half 1 to measure on."""
        return read_reserve(self.rows, self._reserved, half)

    def batch(self, start: int, size: int) -> Tensor:
        """Items ``start`` to ``start + size`` of the endless stream as float32 (size, d_model), wherever they lie."""
        slot, filled = HostSlot(size, self.rows.d_model, self.rows.dtype), 0
        for window, low, high in self.order.pieces(start, size):
            slot.fill(filled, self._buffers.load(window), window.permutation()[low:high])
            filled += high - low
        return slot.take()

    def batches(self, start: int, size: int, count: int, device: str | torch.device = "cpu", ahead: int = 2) -> Generator[Tensor, None, None]:
        """``count`` batches from item ``start`` on, prepared by background threads; the same items as :meth:`batch` gives.

        A batch is valid until the next is asked for. Close the generator (``contextlib.closing``) to stop early: it
        returns when its threads have ended, which takes no longer than one block.

        Args:
            ahead: batches prepared beside the one in use.

        Yields:
            float32 (size, d_model) on ``device``.
        """
        where = torch.device(device)
        stopping = threading.Event()
        slots = make_slots(ahead + 1, size, self.rows.d_model, self.rows.dtype, where)
        # Lent for as long as batches are made, so that a random access in between has buffers of its own.
        buffers, self._buffers = self._buffers, WindowBuffers(self.rows, self.order)
        try:
            with Ahead(self._make(buffers, slots, start, size, count, stopping), ahead + 1, stopping) as made:
                for slot in made:
                    yield slot.take()
                    slot.release()
        finally:
            if where.type == "cuda":
                torch.cuda.synchronize(where)  # copies under way must not outlive their memory
            self._buffers = buffers

    def _make(
        self, buffers: WindowBuffers, slots: list[Slot], start: int, size: int, count: int, stopping: threading.Event
    ) -> Generator[Slot, None, None]:
        windows = buffers.pieces(self.order.pieces(start, size * count), stopping)
        with Ahead(windows, 2, stopping) as pieces:
            yield from _filled(pieces, slots, size)


def _filled(pieces: Iterator[tuple[Tensor, Tensor]], slots: list[Slot], size: int) -> Generator[Slot, None, None]:
    """The slots in turn, each filled with the next ``size`` items of the pieces."""
    number, filled = 0, 0
    for rows, indices in pieces:
        while len(indices):
            taken = indices[: size - filled]
            slots[number].fill(filled, rows, taken)
            filled, indices = filled + len(taken), indices[len(taken) :]
            if filled == size:
                slots[number].finish()
                yield slots[number]
                number, filled = (number + 1) % len(slots), 0

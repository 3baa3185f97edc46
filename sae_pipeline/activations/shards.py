"""Reading cached activations: safetensors shards that behave like one table of rows.

Files are read by position into buffers that the reader keeps, not through memory maps: a page fault per 4 kB costs
more than the copy, and pages of a map count as memory of the process. Only what is asked for leaves the disk.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from sae_pipeline.activations.blocks import Cut
from sae_pipeline.activations.rows import count_usable, usable_rows
from sae_pipeline.errors import StorageError
from sae_pipeline.store.artifacts import Artifact

SHARD = "shard-{:05d}.safetensors"
"""Name of a shard by its number, which has more digits from the 100,000th on: sort by :func:`shard_number`."""
DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "I32": torch.int32}
"""Element types of a shard, by their names in a safetensors header."""

BUFFERS_PER_READ = 1024
"""Buffers that one positional read may fill: the kernel's limit (IOV_MAX)."""


@dataclass(frozen=True)
class Column:
    """Where a tensor of a shard lies in its file."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def bytes_per_row(self) -> int:
        """Bytes of one row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


@dataclass(frozen=True)
class Shard:
    """The layout of one file."""

    path: Path
    context_length: int
    columns: dict[str, Column]

    @classmethod
    def open(cls, path: Path) -> Shard:
        """Read the header (8 bytes of its length, then JSON) and check it against the size of the file."""
        try:
            with path.open("rb") as file:
                start = 8 + int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(start - 8))
                size = os.fstat(file.fileno()).st_size
            length = int(header.pop("__metadata__")["context_length"])
            columns = {
                name: Column(start + field["data_offsets"][0], DTYPES[field["dtype"]], tuple(field["shape"]))
                for name, field in ((name, header[name]) for name in ("activations", "document"))
            }
            rows = columns["activations"].shape[0]
            if any(column.shape[0] != rows or column.offset + rows * column.bytes_per_row > size for column in columns.values()) or rows % length:
                raise ValueError("its header does not fit its size")
        except (OSError, ValueError, KeyError, TypeError, IndexError, OverflowError, MemoryError, ZeroDivisionError, AttributeError) as error:
            raise StorageError(
                f"{path}: expected a shard of activations, found a file that cannot be read as one ({error}); remove its artifact and run again"
            ) from None
        return cls(path, length, columns)

    @property
    def rows(self) -> int:
        """Tokens of the shard."""
        return self.columns["activations"].shape[0]

    def read(self, name: str, start: int, out: Tensor) -> None:
        """Fill ``out`` with the rows of a column from ``start`` on."""
        self.scatter(name, start, [_bytes(out)])

    def expect(self, name: str, start: int, rows: int) -> None:
        """Have the system fetch rows of a column into its cache while other work goes on; only a hint, so failing is no error."""
        if not hasattr(os, "posix_fadvise"):
            return
        column = self.columns[name]
        with suppress(OSError), self.path.open("rb") as file:
            os.posix_fadvise(file.fileno(), column.offset + start * column.bytes_per_row, rows * column.bytes_per_row, os.POSIX_FADV_WILLNEED)

    def scatter(self, name: str, start: int, buffers: list[memoryview]) -> None:
        """Fill the buffers, one after the other, with the rows of a column from ``start`` on.

        Raises:
            StorageError: the file ends too early or cannot be read.
        """
        column = self.columns[name]
        offset = column.offset + start * column.bytes_per_row
        buffers = [buffer for buffer in buffers if len(buffer)]
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                while buffers:
                    read = os.preadv(file, buffers[:BUFFERS_PER_READ], offset)
                    if read == 0:
                        raise OSError("it ends too early")
                    offset += read
                    buffers = _remaining(buffers, read)
            finally:
                os.close(file)
        except OSError as error:
            raise StorageError(
                f"{self.path}: expected to read activations, found that it cannot be read ({error}); check the disk and run again"
            ) from None


class ActivationShards:
    """Cached activations; see :class:`~sae_pipeline.activations.rows.ActivationRows` for what a table holds."""

    def __init__(self, paths: Sequence[Path], batch_size: int | None = None) -> None:
        """Read the headers of the shards, in the order given.

        Args:
            paths: files of equal length, except that the last may be shorter.
            batch_size: contexts per block; without it a shard is one block, which is enough to read it in order.

        Raises:
            StorageError: there are none, one is not a shard of activations, or they are not pieces of one table.
        """
        if not paths:
            raise StorageError("expected at least one shard of activations, found none; run `sae-pipeline run` to harvest them")
        self._shards = [Shard.open(path) for path in paths]
        first = self._shards[0]
        self.rows, self.d_model = sum(shard.rows for shard in self._shards), first.columns["activations"].shape[1]
        self.dtype, self.context_length = first.columns["activations"].dtype, first.context_length
        contexts = first.rows // self.context_length
        self.cut = Cut(self.rows // self.context_length, self.context_length, contexts, batch_size or contexts)
        for shard, (start, stop) in zip(self._shards, self.cut.shards, strict=False):
            activations = shard.columns["activations"]
            expected = ((stop - start) * self.context_length, self.d_model, self.dtype, self.context_length)
            if (found := (*activations.shape, activations.dtype, shard.context_length)) != expected:
                raise StorageError(
                    f"{shard.path}: expected a shard like the first (rows, width, dtype, context length {expected}), found {found}; remove its artifact and run again"
                )
        self._blocks = self.cut.blocks

    @classmethod
    def open(cls, artifact: Artifact) -> ActivationShards:
        """The shards of a published artifact, each checked against its manifest."""
        names = sorted((name for name in artifact.manifest["files"] if name.startswith("shard-")), key=shard_number)
        return cls([artifact.file(name) for name in names], artifact.summary["batch_size"])

    @cached_property
    def document(self) -> Tensor:
        """int32 (rows,) row of the corpus's documents table, -1 for special tokens."""
        return torch.cat([self._documents(number, 0, shard.rows) for number, shard in enumerate(self._shards)])

    @cached_property
    def usable(self) -> Tensor:
        """int64 row numbers of the tokens that are not special, ascending."""
        return usable_rows(self.document)

    @cached_property
    def usable_per_block(self) -> Tensor:
        """int64 (n_blocks,) tokens of every block that are not special."""
        return count_usable(self.cut, lambda n: self._documents(n, 0, self._shards[n].rows))

    def expect_block(self, block: int) -> None:
        """Say that a block will be read soon: blocks lie apart on the disk, which the system's own reading ahead does not foresee."""
        first, stop = self._blocks[block]
        number, within = divmod(first, self.cut.shard_contexts)
        self._shards[number].expect("activations", within * self.context_length, (stop - first) * self.context_length)

    def read_block(self, block: int, out: Tensor) -> None:
        """Write the first usable rows of a block, in order, as many as ``out`` (n, d_model) of ``dtype`` takes."""
        if len(out) == 0:
            return
        first, stop = self._blocks[block]
        number, within = divmod(first, self.cut.shard_contexts)
        start, rows = within * self.context_length, (stop - first) * self.context_length
        usable = self._documents(number, start, rows) >= 0
        rows = int(usable.nonzero()[len(out) - 1]) + 1  # nothing behind the last row that is wanted is read
        usable = usable[:rows]
        # Special tokens are skipped by the read itself: their bytes land in a buffer that nobody looks at.
        borders = [0, *(usable.diff().nonzero().squeeze(1) + 1).tolist(), rows]
        target, width = _bytes(out), self._shards[number].columns["activations"].bytes_per_row
        unused = memoryview(bytearray(max(high - low for low, high in pairwise(borders)) * width))
        buffers, filled, keep = [], 0, bool(usable[0])
        for low, high in pairwise(borders):
            size = (high - low) * width
            buffers.append(target[filled : filled + size] if keep else unused[:size])
            filled, keep = filled + size * keep, not keep
        self._shards[number].scatter("activations", start, buffers)

    def read(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` as float32 (stop - start, d_model)."""
        if start < 0 or stop > self.rows:
            raise IndexError(f"expected rows from 0 to {self.rows - 1}, found {start} to {stop - 1}")
        out = torch.empty(stop - start, self.d_model, dtype=self.dtype)
        per_shard = self._shards[0].rows
        place = start
        while place < stop:
            number, within = divmod(place, per_shard)
            rows = min(stop - place, self._shards[number].rows - within)
            self._shards[number].read("activations", within, out[place - start : place - start + rows])
            place += rows
        return out.float()

    def chunks(self, rows: int) -> Iterator[tuple[slice, Tensor]]:
        """The whole table in order, at most ``rows`` at a time: (slice of row numbers, float32 activations)."""
        for start in range(0, self.rows, rows):
            stop = min(start + rows, self.rows)
            yield slice(start, stop), self.read(start, stop)

    def _documents(self, number: int, start: int, rows: int) -> Tensor:
        out = torch.empty(rows, dtype=torch.int32)
        self._shards[number].read("document", start, out)
        return out


def shard_number(name: str) -> int:
    """The number in a shard's name."""
    return int(name.removeprefix("shard-").removesuffix(".safetensors"))


def _bytes(tensor: Tensor) -> memoryview:
    """The memory of a contiguous tensor."""
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _remaining(buffers: list[memoryview], read: int) -> list[memoryview]:
    """What is left to fill after ``read`` bytes went into the buffers in order."""
    for number, buffer in enumerate(buffers):
        if read < len(buffer):
            return [buffer[read:], *buffers[number + 1 :]]
        read -= len(buffer)
    return []

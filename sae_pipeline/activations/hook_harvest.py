"""What a harvest does at one hook: describe the activations of a pass, round them, and append them to a shard."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from sae_pipeline.activations.rounding import rounded
from sae_pipeline.activations.shard_writing import ShardWriter
from sae_pipeline.activations.shards import SHARD
from sae_pipeline.activations.statistics import ActivationStatistics, storage_losses
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.store import storage_errors


class HookHarvest:
    """One hook of a harvest.

    Attributes:
        folder: where its shards lie.
        hook: its name in the model.
        shards: number -> record of every finished shard: ``sha256``, ``bytes``, ``losses``.
        statistics: of everything taken in so far.
        losses: sums of :func:`storage_losses` over the shard being written, or over everything when there is none.
    """

    def __init__(self, folder: Path, hook: str, model: SubjectModel, storage_dtype: str, shards: dict[int, dict[str, Any]]) -> None:
        self.folder, self.hook, self.shards = folder, hook, shards
        self.storage_dtype: torch.dtype = getattr(torch, storage_dtype)
        self.statistics = ActivationStatistics(model.d_model)
        self.losses: dict[str, float] = {}
        self.d_model, self._device = model.d_model, model.device
        self._writer: ShardWriter | None = None

    @property
    def dtype_name(self) -> str:
        """The storage dtype as a study names it."""
        return str(self.storage_dtype).removeprefix("torch.")

    @property
    def shards_by_name(self) -> dict[str, dict[str, Any]]:
        """The records of finished shards under their file names."""
        return {SHARD.format(n): record for n, record in self.shards.items()}

    def open(self, n: int, rows: int, context_length: int) -> None:
        """Start writing shard ``n`` of so many rows."""
        self.discard()
        with storage_errors(self.folder):
            self._writer = ShardWriter(self.folder / SHARD.format(n), rows, self.d_model, self.dtype_name, context_length)
        self.losses = {}

    def take(self, exact: Tensor, columns: dict[str, Tensor], block: tuple[int, int]) -> None:
        """Describe the activations of a block and write them, if a shard is open.

        Args:
            exact: (n, d_model) in the model's dtype, on its device.
            columns: tokens, document and position, (n,) each, on the CPU.
            block: first context and the one after the last, for messages.

        Raises:
            SubjectError: the values are not finite.
            StorageError: values do not fit the storage dtype, or there is no room to write.
        """
        if exact.device.type == "mps":  # which has no float64, in which all sums are
            exact = exact.cpu()
        stored = rounded(exact, self.storage_dtype, self.hook, block)
        for name, value in storage_losses(exact, columns["document"] >= 0).items():
            self.losses[name] = self.losses.get(name, 0.0) + value
        self.statistics.add(stored, **columns)
        if self._writer is not None:
            with storage_errors(self.folder):
                self._writer.write(stored.cpu())

    def publish(self, n: int, corpus: Corpus, start: int, stop: int) -> None:
        """Finish shard ``n``, which holds contexts ``start`` to ``stop``, and record it."""
        assert self._writer is not None
        sha256 = self._writer.publish(corpus.document[start:stop].flatten())
        self.shards[n] = {"sha256": sha256, "bytes": self._writer.bytes, "losses": self.losses}
        self._writer = None

    def discard(self) -> None:
        """Remove a shard that was begun and not published."""
        if self._writer is not None:
            self._writer.discard()
            self._writer = None

    def read_back(self, n: int, corpus: Corpus, blocks: list[tuple[int, int]]) -> None:
        """Take in a finished shard for the statistics, in the blocks and on the device it was computed in: sums keep their bits."""
        origin = blocks[0][0] * corpus.context_length
        with storage_errors(self.folder), safe_open(self.folder / SHARD.format(n), framework="pt") as file:
            activations = file.get_slice("activations")
            for first, stop in blocks:
                rows = activations[first * corpus.context_length - origin : stop * corpus.context_length - origin]
                self.statistics.add(rows.to("cpu" if self._device.type == "mps" else self._device), **columns_of(corpus, first, stop))


def columns_of(corpus: Corpus, start: int, stop: int) -> dict[str, Tensor]:
    """Token ids, document and position of contexts ``start`` to ``stop``, flattened."""
    return {name: getattr(corpus, name)[start:stop].flatten() for name in ("tokens", "document", "position")}

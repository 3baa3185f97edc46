"""Writing one shard of activations piece by piece, so that no more than a forward pass of it is ever in memory.

The file is an ordinary safetensors file: ``activations`` (rows, d_model), and ``document`` int32 (rows,), which is -1 for
special tokens. Row r is token r of the corpus, context after context; its id and position are read there. All shapes are
known before the first activation, so the header is written first and the activations, which follow it directly, in the
order they are computed; the checksum is taken on the way.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import BinaryIO

import torch
from torch import Tensor

from sae_pipeline.activations.disk import BYTES_PER_VALUE, DOCUMENT_BYTES, HEADER_BYTES
from sae_pipeline.activations.shards import DTYPES

_NAMES = {str(dtype).removeprefix("torch."): name for name, dtype in DTYPES.items()}


class ShardWriter:
    """A shard being written, beside its place until :meth:`publish` renames it there.

    Attributes:
        path: where it will be.
        bytes: written so far.
    """

    def __init__(self, path: Path, rows: int, d_model: int, storage_dtype: str, context_length: int) -> None:
        """Start a file for ``rows`` activations of width ``d_model``."""
        self.path, self._temporary = path, path.with_name(f".{path.name}")
        self.bytes = 0
        self._hash = hashlib.sha256()
        self._file: BinaryIO = self._temporary.open("wb")
        end = rows * d_model * BYTES_PER_VALUE[storage_dtype]
        header: dict[str, object] = {"__metadata__": {"context_length": str(context_length)}}
        header["activations"] = {"dtype": _NAMES[storage_dtype], "shape": [rows, d_model], "data_offsets": [0, end]}
        header["document"] = {"dtype": "I32", "shape": [rows], "data_offsets": [end, end + DOCUMENT_BYTES * rows]}
        self._end = HEADER_BYTES + end + DOCUMENT_BYTES * rows
        text = json.dumps(header).encode().ljust(HEADER_BYTES - 8)
        self._append(len(text).to_bytes(8, "little") + text)

    def write(self, rows: Tensor) -> None:
        """Append activations, (n, d_model) contiguous in the storage dtype on the CPU."""
        self._append(rows.view(torch.uint8).numpy().data.cast("B"))

    def publish(self, document: Tensor) -> str:
        """Append the documents of the rows, int32 (rows,), put the file in its place and return its SHA-256."""
        self._append(document.contiguous().numpy().data.cast("B"))
        if self.bytes != self._end:
            raise ValueError(f"{self.path.name}: expected {self._end} bytes, found {self.bytes}")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        os.replace(self._temporary, self.path)
        return self._hash.hexdigest()

    def discard(self) -> None:
        """Remove what was written; nothing remains of a shard that was not published."""
        self._file.close()
        self._temporary.unlink(missing_ok=True)

    def _append(self, data: bytes | memoryview) -> None:
        self._hash.update(data)
        self._file.write(data)
        self.bytes += len(data)

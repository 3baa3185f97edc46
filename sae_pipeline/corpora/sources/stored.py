"""Documents that an earlier stage wrote: self-generated text, and text retrieved from another source."""

from __future__ import annotations

import hashlib
import mmap
import tempfile
from array import array
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from sae_pipeline.corpora.documents import Document, document_hash
from sae_pipeline.corpora.numbering import DocumentNumbers
from sae_pipeline.errors import SourceError
from sae_pipeline.store import storage_errors

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 1_024
"""Rows decoded at a time."""


class StoredDocuments:
    """The rows of a ``documents.parquet`` with ``text`` and ``key``, and where they apply ``ids`` and ``control_tokens``.

    Args:
        path: the file.
        version: its identity, which becomes the data version.
    """

    def __init__(self, path: Path, version: str) -> None:
        self.path = path
        self.version = version
        self.dropped: Counter[str] = Counter()

    def data_version(self) -> str:
        """The identity it was opened with: what is stored never changes."""
        return self.version

    def documents(self, seed: int) -> Iterator[Document]:
        """The documents in the order of a hash of seed and text; blank ones and exact duplicates are left out and counted.

        In that order any row may come next, so the rows lie uncompressed in a nameless file beside the original for as long as
        they are read. Memory holds 16 bytes of each document while it is read, and 34 to 70 while the order is found.

        Raises:
            SourceError: the file holds no document with text.
            StorageError: there is no room for the uncompressed rows.
        """
        self.dropped = Counter()
        with storage_errors(self.path), tempfile.TemporaryFile(dir=self.path.parent) as unpacked:
            ranks, places, starts = self._unpack(unpacked, seed)
            order = np.argsort(np.frombuffer(ranks, np.uint64), kind="stable")
            del ranks
            batches = _batches(unpacked)
            for place in (places[index] for index in order):
                number = bisect_right(starts, place) - 1
                row = {name: column[place - starts[number]].as_py() for name, column in zip(*batches[number], strict=True)}
                ids = row.get("ids")
                yield Document(row["text"], row["key"], None if ids is None else tuple(ids), bool(row.get("control_tokens")))

    def _unpack(self, unpacked: BinaryIO, seed: int) -> tuple[array[int], array[int], list[int]]:
        """Write the rows as batches that can be mapped; gives the rank and the row of each document, and the first row of each batch."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        met, ranks, places, starts, rows = DocumentNumbers(), array("Q"), array("q"), [], 0
        with pq.ParquetFile(self.path) as stored, pa.ipc.new_file(unpacked, stored.schema_arrow) as file:
            for batch in stored.iter_batches(ROWS_AT_ONCE):
                file.write_batch(batch)
                starts.append(rows)
                for place, text in enumerate(batch["text"].to_pylist(), rows):
                    if not text.strip():
                        self.dropped["empty"] += 1
                    elif not met.add(identity := document_hash(text)):
                        self.dropped["duplicate"] += 1
                    else:
                        ranks.append(int.from_bytes(hashlib.sha256(f"{seed}:{identity}".encode()).digest()[:8]))
                        places.append(place)
                rows += batch.num_rows
        if not places:
            raise SourceError(f"{self.path}: expected documents with text, found none among {rows:,} rows; make the source again with more text")
        return ranks, places, starts


def _batches(unpacked: BinaryIO) -> list[tuple[list[str], list[pa.Array]]]:
    """Names and columns of every batch; the columns are parts of the mapped file and take no memory of their own."""
    import pyarrow as pa

    unpacked.flush()
    mapped: Any = mmap.mmap(unpacked.fileno(), 0, access=mmap.ACCESS_READ)
    reader = pa.ipc.open_file(pa.BufferReader(pa.py_buffer(mapped)))
    read = (reader.get_batch(number) for number in range(reader.num_record_batches))
    return [(batch.schema.names, batch.columns) for batch in read]

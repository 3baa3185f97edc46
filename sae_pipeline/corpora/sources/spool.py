"""Records of a stream, kept on disk as they arrive, so that a download happens once and never starts over.

Every mix, evaluation set and pass reads the same prefix of a data set. The first reader that needs more extends the
spool; a process that was killed, or a connection that broke for good, leaves finished parts behind, and the next one
asks the stream for what follows them.

Every part ends where the limits below say, whoever writes it, so a part that is fetched again holds what it held, and
readers at other places of the same spool never notice.
"""

from __future__ import annotations

import atexit
import io
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from sae_pipeline.errors import StorageError
from sae_pipeline.store import exclusive, storage_errors, write_atomically, write_json

JOURNAL = "journal.json"
PART = "part-{:05d}.parquet"

PART_RECORDS = 2_000
PART_BYTES = 8 * 2**20
"""A part ends with the record that reaches either: what a kill costs at most, and what is held in memory."""

Record = dict[str, Any]


class Stream(Protocol):
    """Records in order from some point on, with a state from which another stream goes on after the last one given."""

    def __iter__(self) -> Iterator[Record]: ...

    def state(self) -> dict[str, Any]:
        """JSON-like position after the last record that was given."""
        ...


_OPEN: dict[tuple[int, Path], tuple[int, Stream, Iterator[Record]]] = {}
"""The streams this process holds open, by process and folder, with the records they have given; touched under the spool's lock.

Kept between readers: the next mix goes on where the last one stopped. By process, because a fork must not read a parent's sockets."""

atexit.register(_OPEN.clear)  # while the libraries that read them are still there


@dataclass
class _Journal:
    """What the spool holds: per part its number of records, checksum, and the stream's state after it."""

    parts: list[dict[str, Any]]
    complete: bool = False

    @property
    def records(self) -> int:
        return sum(part["records"] for part in self.parts)


class Spool:
    """A growing prefix of a stream.

    Args:
        folder: where the parts lie; made when the first is written.
        open_stream: opens the stream at a state that it gave earlier, None for the start.
    """

    def __init__(self, folder: Path, open_stream: Callable[[dict[str, Any] | None], Stream]) -> None:
        self.folder = folder
        self._open_stream = open_stream

    @property
    def held(self) -> int:
        """Records kept so far."""
        return self._journal().records

    def records(self) -> Iterator[Record]:
        """Every record, what is kept first; nothing is fetched that is not asked for, up to a part.

        Raises:
            StorageError: there is no room to keep what arrives.
        """
        number = 0
        journal = self._journal()
        while True:
            if number < len(journal.parts):
                if (records := self._read(number, journal.parts[number])) is not None:
                    yield from records
                    number += 1
                    continue
                self._mend(number)
            elif journal.complete:
                return
            else:
                self._extend(number)
            journal = self._journal()

    def _read(self, number: int, part: dict[str, Any]) -> list[Record] | None:
        """The records of a part; None when its bytes are not those that were written."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            content = (self.folder / PART.format(number)).read_bytes()
        except FileNotFoundError:
            return None
        if sha256(content).hexdigest() != part["sha256"]:
            return None
        return [json.loads(record) for record in pq.read_table(pa.BufferReader(content))["record"].to_pylist()]

    def _mend(self, number: int) -> None:
        """Fetch the records of a damaged part again; the others stay."""
        with exclusive(self.folder / ".lock"):
            journal = self._journal()
            if number >= len(journal.parts) or self._read(number, journal.parts[number]) is not None:
                return  # another process was quicker
            part = journal.parts[number]
            stream = self._open_stream(journal.parts[number - 1]["state"] if number else None)
            records = [_encoded(record) for record in islice(stream, part["records"])]
            if len(records) != part["records"]:
                raise StorageError(
                    f"{self.folder / PART.format(number)}: expected {part['records']:,} records to arrive again in place of the damaged file, "
                    f"found {len(records):,}; delete the folder and run again"
                )
            journal.parts[number] = part | self._written(number, records)
            self._write_journal(journal)

    def _extend(self, number: int) -> None:
        """Fetch the part after the last one, unless there is a part ``number`` already: another process was quicker."""
        with storage_errors(self.folder, missing=True):
            self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder / ".lock"):
            journal = self._journal()
            if number < len(journal.parts) or journal.complete:
                return
            stream, rest = self._stream_at(journal)
            records: list[str] = []
            size = 0
            while len(records) < PART_RECORDS and size < PART_BYTES and (record := next(rest, None)) is not None:
                records.append(_encoded(record))
                size += len(records[-1])
            journal.complete = len(records) < PART_RECORDS and size < PART_BYTES
            if records:
                journal.parts.append(self._written(len(journal.parts), records) | {"state": stream.state()})
            self._write_journal(journal)
            if not journal.complete:
                _OPEN[os.getpid(), self.folder] = (journal.records, stream, rest)

    def _stream_at(self, journal: _Journal) -> tuple[Stream, Iterator[Record]]:
        """The stream this process holds open if it stands where the journal ends, else a new one from there on."""
        held = _OPEN.pop((os.getpid(), self.folder), None)  # an error while it is read leaves it at an unknown place
        if held is not None and held[0] == journal.records:
            return held[1:]
        for name in (PART.partition("{")[0], JOURNAL):
            for leftover in self.folder.glob(f".{name}*"):  # of a process that was killed while it wrote
                leftover.unlink()
        stream = self._open_stream(journal.parts[-1]["state"] if journal.parts else None)
        return stream, iter(stream)

    def _written(self, number: int, records: list[str]) -> dict[str, Any]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        buffer = io.BytesIO()
        pq.write_table(pa.table({"record": pa.array(records, pa.large_string())}), buffer, compression="zstd")
        with storage_errors(self.folder):
            write_atomically(self.folder / PART.format(number), buffer.getvalue())
        return {"records": len(records), "sha256": sha256(buffer.getvalue()).hexdigest()}

    def _journal(self) -> _Journal:
        try:
            return _Journal(**json.loads((self.folder / JOURNAL).read_text()))
        except (OSError, ValueError, TypeError):
            return _Journal([])  # nothing yet, or a journal that cannot be read: what it named is fetched again

    def _write_journal(self, journal: _Journal) -> None:
        with storage_errors(self.folder):
            write_json(self.folder / JOURNAL, vars(journal))


def _encoded(record: Record) -> str:
    return json.dumps(record, default=_plain)


def _plain(value: Any) -> Any:
    """What stands in for a value that JSON does not have: never a string, or bytes and dates would pass for text."""
    return float(value) if isinstance(value, Decimal) else {"not text": type(value).__name__}

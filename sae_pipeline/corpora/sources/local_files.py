"""Local text files, also compressed: jsonl, parquet, csv and txt, named by paths or globs.

Identity is by content: renaming or moving files changes nothing, neither the data version nor the order of the
documents. Only a ``window`` counts records in the order of the files' names, because the first thousand of
``part-0.jsonl, part-1.jsonl, ...`` must be those of the first part; there a new name can mean other text. This file turns files into rows
(csv, which has rules of its own, in :mod:`sae_pipeline.corpora.sources.csv_rows`), each a record or the reason why it is
none; what becomes of them is decided in :mod:`sae_pipeline.corpora.sources.records`.
"""

from __future__ import annotations

import glob
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sae_pipeline.corpora.documents import Document
from sae_pipeline.corpora.sources import compressed
from sae_pipeline.corpora.sources.csv_rows import read_csv
from sae_pipeline.corpora.sources.file_contents import content_hash
from sae_pipeline.corpora.sources.ordering import distinct, shuffled_in_window
from sae_pipeline.corpora.sources.records import Malformed, RecordReader, Row
from sae_pipeline.errors import SourceError
from sae_pipeline.store.fingerprints import digest
from sae_pipeline.study.text_sections import Files

FORMAT_OF_SUFFIX = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".txt": "txt", ".text": "txt", ".md": "txt",
}  # fmt: skip
"""What ``format: auto`` takes a file for, after the ending of its compression is taken off."""

PARQUET_BATCH = 1_024
"""Rows of a row group decoded at a time, so that memory does not depend on how the file was written."""


class LocalFiles:
    """Documents of local files; one record (line, row, or a whole txt file) is one document.

    Args:
        source: the study's entry; its ``paths`` may hold globs (``**`` crosses folders). A path that exists as it is written is no glob.
        reader: makes documents of the records.
    """

    def __init__(self, source: Files, reader: RecordReader) -> None:
        self.source = source
        self.reader = reader
        self.dropped: Counter[str] = Counter()
        self._rows_read = 0

    def data_version(self) -> str:
        """Hash of the files' contents and formats in the order in which they are read; names and places count only through that order.

        Raises:
            SourceError: a path matches nothing, or a file cannot be read.
        """
        return digest("files", [(content, format) for content, format, _ in self._files()])

    def documents(self, seed: int) -> Iterator[Document]:
        """The documents, shuffled through a window of the entry's ``shuffle_buffer``.

        Raises:
            SourceError: no file matches, no document is found, or a record is refused.
        """
        files = self._files()
        self.dropped = Counter()
        self._rows_read = 0
        read = distinct(self.reader.documents(self._rows(files), self.dropped), self.dropped)
        found = False
        for document in shuffled_in_window(read, seed, self.source.shuffle_buffer):
            found = True
            yield document
        if found:
            return
        where, skip = ", ".join(str(path) for _, _, path in files), self.source.window.skip
        if skip and self._rows_read <= skip:
            raise SourceError(f"{where}: expected more than the {skip} records that window.skip passes over, found {self._rows_read}; lower it")
        left_out = ", ".join(f"{count} {reason}" for reason, count in sorted(self.dropped.items()))
        raise SourceError(
            f"{where}: expected documents with text, found none"
            + (f" (left out: {left_out})" if left_out else "")
            + "; fill the files or correct the source's settings"
        )

    def _rows(self, files: list[tuple[str, str, Path]]) -> Iterator[Row]:
        for _, format, path in files:
            for row in READERS[format](path, self.reader):
                self._rows_read += 1
                yield row

    def _files(self) -> list[tuple[str, str, Path]]:
        """(content hash, format, path) of every matching file in the order in which they are read: of their contents, or in a window of their names."""
        matching: set[Path] = set()
        for pattern in self.source.paths:
            matches = [Path(pattern)] if Path(pattern).exists() else [Path(match) for match in glob.glob(pattern, recursive=True)]
            files = [path for path in matches if path.is_file()]
            if not files:
                raise SourceError(f"{pattern}: expected at least one file, found {_no_file(matches)}")
            matching |= {path.resolve() for path in files}
        found = []
        for path in matching:
            with compressed.damage(path):
                found.append((content_hash(path), self._format(path), path))
        window = self.source.window
        return sorted(found, key=lambda file: natural(file[2])) if window.skip or window.take is not None else sorted(found)

    def _format(self, path: Path) -> str:
        if self.source.format != "auto":
            return self.source.format
        suffix = compressed.inner_name(path).suffix
        if suffix.lower() not in FORMAT_OF_SUFFIX:
            raise SourceError(
                f"{path}: expected a suffix among {', '.join(FORMAT_OF_SUFFIX)} (and after it {', '.join(compressed.SUFFIXES)} or nothing), "
                f"found '{suffix}'; set 'format' or narrow the glob"
            )
        return FORMAT_OF_SUFFIX[suffix.lower()]


def _no_file(matches: list[Path]) -> str:
    if any(path.is_dir() for path in matches):
        return "only a folder; add a glob such as '/*.jsonl'"
    if any(path.exists() for path in matches):
        return "a pipe or a device, which can be read only once; write its contents to a file first"
    return "a link to nothing; mend the link" if matches else "none; correct the path or glob"


def natural(path: Path) -> tuple[list[str | int], str]:
    """Sorts paths as people do: runs of digits by their value, so that ``part-10`` comes after ``part-9``."""
    pieces = re.split(r"([0-9]+)", str(path))  # text and digits in turn, so that like is compared with like
    return [int(piece) if place % 2 else piece for place, piece in enumerate(pieces)], str(path)


def _read_jsonl(path: Path, reader: RecordReader) -> Iterator[Row]:
    for number, line in enumerate(compressed.lines(path), start=1):
        if line is None or line.strip():
            yield f"{path}:{number}", _json_record(line)


def _json_record(line: bytes | None) -> dict[str, Any] | Malformed:
    text = _decoded(line)
    if isinstance(text, Malformed):
        return text
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        return Malformed(f"expected one JSON object per line, found malformed JSON ({error.msg} at column {error.colno})")
    except RecursionError:
        return Malformed("expected one JSON object per line, found lists or records nested too deeply to be read")
    except ValueError:  # Python refuses such numbers, since reading one takes time quadratic in its digits
        return Malformed(f"expected one JSON object per line, found a whole number of more than {sys.get_int_max_str_digits()} digits")
    return record if isinstance(record, dict) else Malformed(f"expected a JSON object, found a {type(record).__name__}")


def _read_parquet(path: Path, reader: RecordReader) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if path.suffix.lower() in compressed.SUFFIXES:
        raise SourceError(f"{path}: expected a plain parquet file, which is compressed inside, found one compressed again; unpack it")
    try:
        with compressed.damage(path), pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            reader.require(str(path), names)
            wanted = names if reader.columns is None else [name for name in names if name in reader.columns]
            row = 0
            for group in range(file.num_row_groups):
                for batch in file.iter_batches(PARQUET_BATCH, row_groups=[group], columns=wanted):
                    for record in _parquet_records(batch):
                        yield f"{path}:{row}", record
                        row += 1
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SourceError(f"{path}: expected a parquet file, found one that cannot be read ({str(error).splitlines()[0]}); write it again") from None


def _parquet_records(batch: Any) -> Iterator[dict[str, Any] | Malformed]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:  # a string column is not checked when it is written: one bad value must not lose its batch
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError as error:
                yield Malformed(f"expected UTF-8 text, found other bytes ({error.reason})")


def _read_txt(path: Path, reader: RecordReader) -> Iterator[Row]:
    with compressed.damage(path), compressed.opened(path) as file:
        data = file.read(compressed.LONGEST_LINE + 1)
    text = _decoded(data if len(data) <= compressed.LONGEST_LINE else None)
    # the whole file is the text, whatever the entry calls its column
    first, *others = reader.text_fields
    yield str(path), text if isinstance(text, Malformed) else dict.fromkeys(others) | {first: text}


READERS: dict[str, Callable[[Path, RecordReader], Iterator[Row]]] = {
    "jsonl": _read_jsonl, "csv": read_csv, "parquet": _read_parquet, "txt": _read_txt,
}  # fmt: skip


def _decoded(data: bytes | None) -> str | Malformed:
    """Bytes as text without a byte order mark; None is a record that was too long to hold."""
    if data is None:
        return _too_long()
    try:
        return data.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        return Malformed(f"expected UTF-8 text, found other bytes ({error.reason} at byte {error.start})")


def _too_long() -> Malformed:
    return Malformed(f"expected at most {compressed.LONGEST_LINE} bytes, found more", too_long=True)

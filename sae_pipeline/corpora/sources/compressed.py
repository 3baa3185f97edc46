"""Files opened as streams of bytes, compressed or not, and read line by line within a bound.

A file's ending says how it is compressed (``notes.jsonl.zst``). A line of a broken or hostile file can be as long as the file;
a line above :data:`LONGEST_LINE` is passed over piece by piece and never held whole.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from sae_pipeline.errors import SourceError

LONGEST_LINE = 2**26
"""Bytes (64 MiB) of a line, row or txt file above which it is left out as too long: a record that long is no document of text."""

PIECE = 2**20
"""Bytes of a block, and of an over-long line, held at a time."""

SUFFIXES = (".gz", ".zst", ".bz2", ".xz")
"""Endings of compressed files."""


def inner_name(path: Path) -> Path:
    """The path without the ending of its compression."""
    return path.with_suffix("") if path.suffix.lower() in SUFFIXES else path


def opened(path: Path) -> BinaryIO:
    """The uncompressed bytes of a file, as a stream.

    Raises:
        OSError: the file cannot be opened; damage shows while reading, see :func:`damage`.
    """
    suffix = path.suffix.lower()
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".bz2":
        return cast(BinaryIO, bz2.open(path, "rb"))
    if suffix == ".xz":
        return cast(BinaryIO, lzma.open(path, "rb"))
    if suffix == ".zst":
        import pyarrow as pa

        # pyarrow's stream reads whole blocks; the buffer gives it lines
        return cast(BinaryIO, io.BufferedReader(pa.input_stream(str(path), compression="zstd"), PIECE))
    return path.open("rb")


@contextmanager
def damage(path: Path) -> Iterator[None]:
    """Turns what reading a file raises into one sentence. A damaged file is an error whatever is said about malformed records.

    Raises:
        SourceError: the file cannot be read, or its compression is damaged or ends early.
    """
    try:
        yield
    except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise SourceError(f"{path}: expected a file that can be read, found: {error.strerror}; check the path and its permissions") from error
        raise SourceError(f"{path}: expected a complete {path.suffix} file, found a damaged one ({error}); fetch or write it again") from error


def lines(path: Path) -> Iterator[bytes | None]:
    """The lines of a file with their ends; None for each one above :data:`LONGEST_LINE`.

    Raises:
        SourceError: the file cannot be read, or its compression is damaged.
    """
    with damage(path), opened(path) as file:
        while (line := _line(file)) != b"":
            yield line


def blocks(path: Path) -> Iterator[bytes | None]:
    """The lines of a file many at a time, in blocks of whole lines with their ends; None for each line above :data:`LONGEST_LINE`.

    Raises:
        SourceError: the file cannot be read, or its compression is damaged.
    """
    with damage(path), opened(path) as file:
        while piece := file.read(PIECE):
            end = piece.rfind(b"\n") + 1
            if end:
                yield piece[:end]
            if end < len(piece):
                yield _line(file, piece[end:])


def _line(file: BinaryIO, begun: bytes = b"") -> bytes | None:
    """The line that begins with ``begun``, of which that much has been read; empty at the end of the file, None when it is too long."""
    line = begun + file.readline(LONGEST_LINE - len(begun))
    if len(line) < LONGEST_LINE or line.endswith(b"\n"):
        return line
    piece = file.readline(PIECE)
    while piece and not piece.endswith(b"\n"):
        piece = file.readline(PIECE)
    return None

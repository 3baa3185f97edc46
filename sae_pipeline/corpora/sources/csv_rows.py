"""Rows of csv files, with one rule for quotes that do not close: what they swallow is never lost in silence.

A row that cannot be read but ends on its own line is one malformed record. A quote that opens a field and is closed too
late is another matter: it turns all the rows up to the next quote into one field, and after that nobody can say where the
next row begins. So the file is refused at the line where the quote opens, whatever is said about malformed records, when

* the file ends before the quote is closed,
* the quote is closed on a later line in the middle of a text (which is where the next stray quote mostly is), or
* at least :data:`SWALLOWED` whole lines lie within the quotes of one row and nine tenths of them have as many commas as a
  row of the file. A table that is meant as one text reads the same; such texts belong in a jsonl or parquet file.

In a file of one column any line has as many commas as a row, so there the third case is not looked for.
"""

from __future__ import annotations

import csv
import re
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from sae_pipeline.corpora.sources import compressed
from sae_pipeline.corpora.sources.records import Malformed, RecordReader, Row
from sae_pipeline.errors import SourceError

SWALLOWED = 10
"""Lines within the quotes of a row from which on they are looked at: fewer lines of prose may well have the same number of commas."""

LOOKED_AT = 1_000
"""Lines within the quotes of a row that are looked at, so that a document of millions of lines costs nothing more."""

CARRIAGE_RETURN = "new-line character"
"""How Python's csv reader begins to say that it found a carriage return outside quotes."""

REASONS = {
    CARRIAGE_RETURN: "a carriage return within a row (rows end in a line feed, with or without a carriage return before it)",
    "unexpected end of data": "a quote that is not closed before the file ends",
    "',' expected after": "text between a closing quote and the next comma",
}
"""Our words for what Python's csv reader says, by how it begins."""

CLOSING = re.compile(rb'"(?<!"")(?:"")*+(?!")')
"""An odd number of quotes on end: within a quoted field the last of them is not doubled and closes it."""


def read_csv(path: Path, reader: RecordReader) -> Iterator[Row]:
    """The rows below the header, each placed at the line where it begins.

    Raises:
        SourceError: the header cannot be read, names a column twice or lacks one that is wanted; or a quote is closed too late or never.
    """
    csv.field_size_limit(sys.maxsize)  # the default refuses documents above 128 kB
    physical = _CsvLines(path)
    rows = csv.reader(physical, strict=True)
    columns: list[str] = []
    while True:
        physical.start_row()
        try:
            row = next(rows)
            "".join(row).encode()
        except StopIteration:
            return
        except _RowTooLong:
            found: list[str] | Malformed = Malformed(f"expected a row of at most {compressed.LONGEST_LINE} bytes, found more", too_long=True)
        except UnicodeEncodeError:
            found = Malformed("expected UTF-8 text, found bytes that are no UTF-8 text")
        except csv.Error as error:
            if physical.number > physical.quote and not str(error).startswith(CARRIAGE_RETURN):
                raise _late_quote(path, physical) from None
            found = Malformed(f"expected comma-separated values, found {_reason(error)}")
        else:
            if not row:
                continue
            found = row
        if not columns:
            columns = _header(physical.place, found)
            reader.require(physical.place, columns)
            continue
        if physical.swallows_rows(len(columns)):
            raise SourceError(
                f"{physical.place}: expected one row, found a quoted field that takes in the {physical.number - physical.first} lines after it, "
                "which look like rows; close its quote, or write the file as jsonl or parquet if those lines are meant as one text"
            )
        yield physical.place, found if isinstance(found, Malformed) else _record(columns, found, physical)


def _header(place: str, found: list[str] | Malformed) -> list[str]:
    if isinstance(found, Malformed):
        raise SourceError(f"{place}: expected a header that names the columns, found {found.reason.partition(', found ')[2]}; mend the first row")
    if twice := [name for name, count in Counter(found).items() if name and count > 1]:
        raise SourceError(f"{place}: expected a header that names each column once, found '{twice[0]}' more than once; rename or remove one of them")
    return found


def _record(columns: list[str], row: list[str], physical: _CsvLines) -> dict[str, Any] | Malformed:
    if len(row) == len(columns):
        return dict(zip(columns, row, strict=True))
    until = f" in a row that goes on to line {physical.number}" if physical.number > physical.first else ""
    return Malformed(f"expected {len(columns)} columns, found {'fewer' if len(row) < len(columns) else 'more'} ({len(row)}){until}")


def _reason(error: csv.Error) -> str:
    return next((words for said, words in REASONS.items() if str(error).startswith(said)), f"a row that cannot be read ({error})")


def _leaves_open(text: str) -> bool:
    """Whether text that begins within a quoted field ends within one."""
    lines = iter(['"' + text, ""])
    with suppress(csv.Error):
        next(csv.reader(lines, strict=True))
    return next(lines, None) is None  # the csv reader asked for more


def _late_quote(path: Path, physical: _CsvLines) -> SourceError:
    found = f"none up to line {physical.number}, the last" if physical.ended else f"one amid a text in line {physical.number}"
    return SourceError(
        f"{path}:{physical.quote}: expected the quote that opens a field here to be closed at the end of that field, found {found}; "
        "close it, or double each quote that belongs to the text"
    )


class _RowTooLong(Exception):
    """A row has more bytes than LONGEST_LINE; the caller makes it a malformed record."""


class _CsvLines:
    """Text for the csv reader; bytes that are no UTF-8 pass through as lone surrogates, so that only their row is lost.

    The csv reader asks for more text within a row only when a quoted field is open. So the first line of a row is handed over
    alone, and after it everything up to the line of the next quote at once: a text of millions of lines costs little more than its bytes.

    Attributes:
        first: the line where the row begins.
        quote: the line where the row's last quoted field begins that is not closed on the same line; without one, the row's only line.
        number: the last line handed over.
        ended: whether the file ended within the row.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._blocks = compressed.blocks(path)
        self._block = b""
        self._at = 0
        self.number = 0
        self.start_row()

    def start_row(self) -> None:
        """What is handed over next begins a row."""
        self.first = self.quote = self.number + 1
        self.ended = False
        self._bytes = 0
        self._closed = False  # whether a quote closes on the last line handed over, so that one still open was opened there
        self._commas: list[int] = []  # of the row's second line and those after it

    @property
    def place(self) -> str:
        """Where the row begins."""
        return f"{self._path}:{self.first}"

    def swallows_rows(self, n_columns: int) -> bool:
        """Whether the lines within the quotes of the row that was read look like rows themselves."""
        within = self._commas[: self.number - self.first - 1]  # the last line is that of the closing quote
        return n_columns > 1 and len(within) >= SWALLOWED and 10 * within.count(n_columns - 1) >= 9 * len(within)

    def __iter__(self) -> _CsvLines:
        return self

    def __next__(self) -> str:
        """The next line, or within a quoted field the lines up to that of the next quote.

        Raises:
            _RowTooLong: the row is over the bound; it is passed over up to its end.
        """
        data = self._quoted() if self._bytes else self._line()
        self._bytes += len(data)
        if self._bytes <= compressed.LONGEST_LINE:
            return data.decode(errors="surrogateescape").removeprefix("\ufeff" if self.number == 1 else "")
        while _leaves_open(data.decode(errors="surrogateescape")):
            data = self._quoted()
        raise _RowTooLong

    def _line(self) -> bytes:
        self._fill()
        end = self._block.find(b"\n", self._at) + 1 or len(self._block)
        self._at, line = end, self._block[self._at : end]
        self.number += 1
        return line

    def _quoted(self) -> bytes:
        """Whole lines that begin within a quoted field, up to the one with a quote that is not doubled."""
        if self._closed:
            self.quote = self.number
        try:
            self._fill()
        except StopIteration:
            self.ended = True
            raise
        closing = CLOSING.search(self._block, self._at)
        self._closed = closing is not None
        end = (self._block.find(b"\n", closing.end()) + 1 if closing else 0) or len(self._block)
        self._at, text = end, self._block[self._at : end]
        self.number += text.count(b"\n") + (not text.endswith(b"\n"))
        if (room := LOOKED_AT - len(self._commas)) > 0:
            self._commas += [line.count(b",") for line in text.removesuffix(b"\n").split(b"\n", room)[:room]]
        return text

    def _fill(self) -> None:
        if self._at < len(self._block):
            return
        block = next(self._blocks)
        if block is None:
            self.number += 1
            raise _RowTooLong
        self._block, self._at = block, 0

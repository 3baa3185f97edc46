"""csv files: rows are those of Python's csv module, and a quote closed too late or never takes no other row with it unseen."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sae_pipeline.corpora.sources import compressed, csv_rows
from sae_pipeline.corpora.sources.csv_rows import SWALLOWED, read_csv
from sae_pipeline.corpora.sources.records import Malformed, RecordReader
from sae_pipeline.errors import SourceError
from sae_pipeline.study.text_sections import Records


def rows_of(folder: Path, content: bytes) -> list[tuple[int, list[str] | str]]:
    """(line, values) of each row below the header, or (line, reason)."""
    (folder / "a.csv").write_bytes(content)
    found = list(read_csv(folder / "a.csv", RecordReader(Records(), None)))
    return [(int(place.rpartition(":")[2]), row.reason if isinstance(row, Malformed) else list(row.values())) for place, row in found]


def numbered(n: int, *edits: tuple[bytes, bytes]) -> bytes:
    """A file of n rows, of which row i is in line i + 2."""
    content = b"text,n\n" + b"".join(b"row %d,%d\n" % (i, i) for i in range(n))
    for old, new in edits:
        assert content.count(old) == 1
        content = content.replace(old, new)
    return content


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200, deadline=None)
@given(rows=st.lists(st.tuples(*[st.text(st.sampled_from('ab,"\n\ré'), max_size=12)] * 2), max_size=6), piece=st.integers(1, 40))
def test_rows_are_those_of_the_csv_module_however_the_file_is_read_in_pieces(tmp_path, monkeypatch, rows, piece):
    written = io.StringIO()
    csv.writer(written).writerows([("text", "n"), *rows])
    with monkeypatch.context() as patch:
        patch.setattr(compressed, "PIECE", piece)
        patch.setattr(csv_rows, "SWALLOWED", 100)
        found = rows_of(tmp_path, written.getvalue().encode())
    assert [row for _, row in found] == [list(row) for row in rows]
    above = [1]  # lines above each row
    for row in rows:
        line = io.StringIO()
        csv.writer(line).writerow(row)
        above.append(above[-1] + line.getvalue().count("\n"))
    assert [place for place, _ in found] == [lines + 1 for lines in above[:-1]]


def test_a_quote_that_is_never_closed_is_refused_at_the_line_where_it_opens(tmp_path):
    with pytest.raises(
        SourceError, match=r"a\.csv:12: expected the quote that opens a field here to be closed .*, found none up to line 1001, the last;"
    ):
        rows_of(tmp_path, numbered(1000, (b"row 10,", b'"row 10,')))
    with pytest.raises(SourceError, match=r"a\.csv:4: .* found none up to line 7"):  # the quoted text before it was closed
        rows_of(tmp_path, b'text,n\n"two\nlines\nof text","of which\nthe last\nis not\nclosed\n')


def test_a_quote_that_is_closed_amid_a_later_text_is_refused_at_the_line_where_it_opens(tmp_path):
    with pytest.raises(SourceError, match=r"a\.csv:12: expected the quote .*, found one amid a text in line 502; close it, or double each quote"):
        rows_of(tmp_path, numbered(1000, (b"row 10,", b'"row 10,'), (b"row 500,", b'"row 500,')))


@pytest.mark.parametrize("closing", [b'row 500,500"', b'row 500",500'], ids=["a row of another width", "a row of the file's width"])
def test_a_quote_that_is_closed_hundreds_of_rows_later_is_refused(tmp_path, closing):
    with pytest.raises(SourceError, match=r"a\.csv:12: expected one row, found a quoted field that takes in the 490 lines after it"):
        rows_of(tmp_path, numbered(1000, (b"row 10,", b'"row 10,'), (b"row 500,500", closing)))


def test_the_same_holds_when_the_row_is_too_long_to_be_held(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "LONGEST_LINE", 256)
    monkeypatch.setattr(compressed, "PIECE", 64)
    stray = numbered(100, (b"row 10,", b'"row 10,'))
    with pytest.raises(SourceError, match=r"a\.csv:12: .* found none up to line 101, the last"):
        rows_of(tmp_path, stray)
    with pytest.raises(SourceError, match=r"a\.csv:12: .* takes in the 80 lines after it"):
        rows_of(tmp_path, stray.replace(b"row 90,", b'row 90",'))


def test_texts_of_many_lines_are_rows_when_their_lines_do_not_look_like_rows(tmp_path):
    prose = "\n".join("a line, with a comma" if i % 3 else "a line" for i in range(1_000))
    table = "\n".join("a,b" for _ in range(SWALLOWED + 1))  # one whole line fewer: the first and the last share theirs with the row
    written = io.StringIO()
    csv.writer(written).writerows([("text", "n"), (prose, 1), (table, 2)])
    assert [row for _, row in rows_of(tmp_path, written.getvalue().encode())] == [[prose, "1"], [table, "2"]]
    assert [row for _, row in rows_of(tmp_path, b'text\n"' + b"line\n" * 100 + b'"\n')] == [["line\n" * 100]]


def test_a_row_of_many_lines_and_the_wrong_width_says_where_it_ends(tmp_path):
    assert rows_of(tmp_path, b'text,n\n"a\nb\nc"\nd,1\n') == [
        (2, "expected 2 columns, found fewer (1) in a row that goes on to line 4"),
        (5, ["d", "1"]),
    ]


def test_columns_without_a_name_may_repeat(tmp_path):
    assert [place for place, _ in rows_of(tmp_path, b"text,n,,\nx,1,,\n")] == [2]


@pytest.mark.parametrize("line", [b"x\n", b'x ""y""\n'], ids=["plain", "with doubled quotes"])
def test_a_text_of_many_lines_reaches_the_csv_reader_in_a_few_pieces(tmp_path, monkeypatch, line):
    handed: list[int] = []
    one: Callable[[object], str] = csv_rows._CsvLines.__next__
    monkeypatch.setattr(csv_rows._CsvLines, "__next__", lambda self: handed.append(1) or one(self))
    n_lines = 4 * compressed.PIECE // len(line)
    ((place, row),) = rows_of(tmp_path, b'text,n\n"' + line * n_lines + b'",2\n')
    assert (place, row[0]) == (2, line.decode().replace('""', '"') * n_lines)
    assert len(handed) < 20

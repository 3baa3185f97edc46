"""Every kind of malformed document is either refused by place or left out and counted, and never takes another one with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from toy_text import byte_tokenizer, chat_tokenizer

from sae_pipeline.corpora.sources import compressed
from sae_pipeline.corpora.sources.local_files import LocalFiles
from sae_pipeline.corpora.sources.records import RecordReader
from sae_pipeline.errors import SourceError
from sae_pipeline.study.text_sections import Files

GOOD = b'{"text": "good"}\n'
HEADER = b"text,n\n"


def read(path: Path, **settings: object) -> tuple[list[str], dict[str, int]]:
    source = Files(kind="files", paths=(str(path),), **settings)  # type: ignore[arg-type]
    opened = LocalFiles(source, RecordReader(source, None))
    return sorted(d.text for d in opened.documents(0)), dict(opened.dropped)


MALFORMED = {
    "bad UTF-8": ("a.jsonl", b'{"text": "caf\xe9"}\n', "expected UTF-8 text, found other bytes"),
    "broken JSON": ("a.jsonl", b'{"text": "x"\n', "found malformed JSON"),
    "no object": ("a.jsonl", b"[1]\n", "expected a JSON object, found a list"),
    "a list for text": ("a.jsonl", b'{"text": [["nested"], ["lists"]]}\n', "expected text in the field 'text', found list"),
    "a record for text": ("a.jsonl", b'{"text": {"a": 1}}\n', "found dict"),
    "a number for text": ("a.jsonl", b'{"text": 7}\n', "found int"),
    "lists nested beyond reason": ("a.jsonl", b'{"text": ' + b"[" * 200_000 + b"\n", "found lists or records nested too deeply to be read"),
    "a number beyond reason": ("a.jsonl", b'{"text": ' + b"9" * 10_000 + b"}\n", "found a whole number of more than 4300 digits"),
    "no such field": ("a.jsonl", b'{"body": "x"}\n', "expected the field text, found the fields body"),
    "bytes of zero": ("a.jsonl", b"\x00\x00\x00\n", "found malformed JSON"),
    "csv with too few columns": ("a.csv", b"x\n", "expected 2 columns, found fewer"),
    "csv with too many columns": ("a.csv", b"x,1,2\n", "expected 2 columns, found more"),
    "csv with bad UTF-8": ("a.csv", b"caf\xe9,1\n", "expected UTF-8 text"),
    "csv with bad quoting": ("a.csv", b'"x"y,1\n', "expected comma-separated values, found text between a closing quote and the next comma"),
    "csv with a carriage return": ("a.csv", b"x\ry,1\n", "expected comma-separated values, found a carriage return within a row"),
    "csv with a carriage return after a text of two lines": ("a.csv", b'"x\nz",1\ry\n', "found a carriage return within a row"),
}


@pytest.mark.parametrize(("name", "bad", "message"), MALFORMED.values(), ids=MALFORMED)
def test_a_malformed_record_is_refused_by_place_or_skipped_and_counted(tmp_path, name, bad, message):
    path = tmp_path / name
    before, after = (HEADER + b"good,1\n", b"better,2\n") if name == "a.csv" else (GOOD, GOOD.replace(b"good", b"better"))
    path.write_bytes(before + bad + after)
    with pytest.raises(SourceError, match=rf"{name}:{3 if name == 'a.csv' else 2}: .*{message}.*mend it, or set 'malformed: skip'"):
        read(path)
    assert read(path, malformed="skip") == (["better", "good"], {"malformed": 1})


@pytest.mark.parametrize("text", [None, "", "  \n\t", "\u00a0"])
def test_null_and_blank_text_is_counted_as_empty_and_never_refused(tmp_path, text):
    (tmp_path / "a.jsonl").write_bytes(GOOD + json.dumps({"text": text}).encode() + b"\n")
    assert read(tmp_path / "a.jsonl") == (["good"], {"empty": 1})


def test_one_bad_value_of_a_parquet_column_does_not_take_its_batch_with_it(tmp_path):
    binary = pa.array([b"good", b"caf\xe9", b"better"], pa.binary())
    unchecked = pa.Array.from_buffers(pa.string(), 3, binary.buffers())
    pq.write_table(pa.table({"text": unchecked}), tmp_path / "a.parquet")
    assert read(tmp_path / "a.parquet", malformed="skip") == (["better", "good"], {"malformed": 1})
    with pytest.raises(SourceError, match=r"a\.parquet:1: expected UTF-8 text"):
        read(tmp_path / "a.parquet")


def test_a_line_of_50_megabytes_is_a_document_too_long_or_cut(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(GOOD + json.dumps({"text": "x" * 50_000_000}).encode() + b"\n" + GOOD.replace(b"good", b"better"))
    assert read(tmp_path / "a.jsonl") == (["better", "good"], {"too_long": 1})
    texts, dropped = read(tmp_path / "a.jsonl", over_length="cut", max_characters=10)
    assert (texts, dropped) == (["better", "good", "x" * 10], {})


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.jsonl", GOOD + b'{"text": "' + b"x" * 200 + b'"}\n' + GOOD.replace(b"good", b"better")),
        ("a.csv", HEADER + b"good,1\n" + b"x" * 200 + b",1\nbetter,2\n"),
        ("a.csv", HEADER + b'good,1\n"' + b"x\n" * 100 + b'",1\nbetter,2\n'),
        ("a.csv", HEADER + b'good,1\n"' + b'x ""y""\n' * 30 + b'",1\nbetter,2\n'),
    ],
    ids=["a line", "a row", "a row of many lines", "a row of many lines with quotes"],
)
def test_a_record_beyond_the_bound_is_counted_and_reading_goes_on_after_it(tmp_path, monkeypatch, name, content):
    monkeypatch.setattr(compressed, "LONGEST_LINE", 64)
    monkeypatch.setattr(compressed, "PIECE", 16)
    (tmp_path / name).write_bytes(content)
    for malformed in ("refuse", "skip"):
        assert read(tmp_path / name, malformed=malformed) == (["better", "good"], {"too_long": 1})


def test_a_txt_file_beyond_the_bound_is_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(compressed, "LONGEST_LINE", 64)
    (tmp_path / "a.txt").write_bytes(b"good")
    (tmp_path / "b.txt").write_bytes(b"x" * 65)
    assert read(tmp_path / "*.txt") == (["good"], {"too_long": 1})


MEASURE = """
import resource, sys
from sae_pipeline.corpora.sources import compressed
from pathlib import Path
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert [line if line is None else len(line) for line in compressed.lines(Path(sys.argv[1]))] == [None, 3]
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024))
"""


def test_a_line_of_400_megabytes_is_never_held_whole(tmp_path):
    path = tmp_path / "a.txt"
    with path.open("wb") as file:
        file.truncate(400 * 2**20)  # zeros that take no room on disk
        file.seek(0, 2)
        file.write(b"\nok\n")
    grown = int(subprocess.run([sys.executable, "-c", MEASURE, str(path)], check=True, capture_output=True, text=True).stdout)
    assert grown < 2.5 * compressed.LONGEST_LINE  # the bound, and once more while the buffer grows to it


def test_a_document_of_special_tokens_alone_is_text_unless_a_template_would_make_them_real(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text": "<bos><eos><eos>"}\n')
    texts, dropped = read(tmp_path / "a.jsonl")
    assert (texts, dropped) == (["<bos><eos><eos>"], {})
    assert not set(byte_tokenizer().encode(texts)[0]) & byte_tokenizer().special_ids
    (tmp_path / "a.jsonl").write_bytes(b'{"prompt": "<bos>", "completion": "<eos>"}\n{"prompt": "a", "completion": "b"}\n')
    source = Files(kind="files", paths=(str(tmp_path / "a.jsonl"),), chat={})  # type: ignore[arg-type]
    opened = LocalFiles(source, RecordReader(source, chat_tokenizer))
    assert len(list(opened.documents(0))) == 1
    assert opened.dropped == {"control_tokens": 1}

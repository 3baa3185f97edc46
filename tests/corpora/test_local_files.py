"""Local files: four formats, globs, identity by content, and one clear sentence for each way a file can be wrong."""

from __future__ import annotations

import csv
import json
import os
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sae_pipeline.corpora.sources import open_source
from sae_pipeline.corpora.sources.local_files import LocalFiles
from sae_pipeline.corpora.sources.records import RecordReader
from sae_pipeline.errors import SourceError
from sae_pipeline.store import Store
from sae_pipeline.study.text_sections import Files

TEXTS = [f"document {i}, with a comma\nand a second line – é" for i in range(30)]


def write_jsonl(path: Path, texts: list[str], field: str = "text") -> None:
    path.write_text("".join(json.dumps({field: text, "n": i}) + "\n" for i, text in enumerate(texts)))


def write_parquet(path: Path, texts: list[str]) -> None:
    pq.write_table(pa.table({"n": list(range(len(texts))), "text": texts}), path, row_group_size=7)


def write_csv(path: Path, texts: list[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["n", "text"], *enumerate(texts)])


WRITERS = {"jsonl": write_jsonl, "parquet": write_parquet, "csv": write_csv}


def files(*paths: Path | str, **settings: Any) -> LocalFiles:
    source = Files(kind="files", paths=tuple(map(str, paths)), **({"shuffle_buffer": 8} | settings))
    return LocalFiles(source, RecordReader(source, None))


@pytest.mark.parametrize("format", sorted(WRITERS))
def test_each_record_is_one_document(tmp_path, format):
    WRITERS[format](tmp_path / f"a.{format}", TEXTS)
    source = open_source(Files(kind="files", paths=(str(tmp_path / "*"),), shuffle_buffer=8), Store(tmp_path / "store"))
    found = list(source.documents(0))
    assert sorted(d.text for d in found) == sorted(TEXTS)
    assert len({d.key for d in found}) == len(TEXTS)


def test_a_txt_file_is_one_document_and_globs_cross_folders(tmp_path):
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "one.txt").write_text("\ufeffone\ntwo\n", encoding="utf-8")
    (tmp_path / "deep" / "deeper" / "two.md").write_text("# two")
    found = {Path(d.key).name: d.text for d in files(tmp_path / "**" / "*.*").documents(0)}
    assert found == {"one.txt": "one\ntwo\n", "two.md": "# two"}


def test_exact_duplicates_are_dropped_and_counted(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ["x", "y", "x ", "z", "x\n"])
    source = files(tmp_path / "a.jsonl")
    assert sorted(d.text for d in source.documents(0)) == ["x", "y", "z"]
    assert source.dropped == {"duplicate": 2}
    list(source.documents(1))
    assert source.dropped == {"duplicate": 2}  # of the latest reading, not of all


def test_null_and_blank_records_are_no_documents(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": null}\n\n{"text": "  "}\n{"text": "x"}\n')
    source = files(tmp_path / "a.jsonl")
    assert [d.key for d in source.documents(0)] == [f"{tmp_path}/a.jsonl:4"]
    assert source.dropped == {"empty": 2}  # an empty line is no record


def test_the_seed_changes_the_order_and_nothing_else(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", TEXTS)
    orders = [[d.text for d in files(tmp_path / "a.jsonl").documents(seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2])
    assert orders[0] != TEXTS


def test_what_comes_first_does_not_depend_on_text_far_behind_the_window(tmp_path):
    write_jsonl(tmp_path / "short.jsonl", TEXTS[:20])
    write_jsonl(tmp_path / "long.jsonl", TEXTS)
    short, long = ([d.text for d in files(tmp_path / name).documents(5)] for name in ("short.jsonl", "long.jsonl"))
    assert short[:12] == long[:12]  # 20 documents read, 8 of them still held


def test_version_and_order_follow_content_and_not_names(tmp_path):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    write_jsonl(tmp_path / "here" / "a.jsonl", TEXTS[:10])
    write_jsonl(tmp_path / "here" / "b.jsonl", TEXTS[10:])
    write_jsonl(tmp_path / "there" / "z.jsonl", TEXTS[:10])
    write_jsonl(tmp_path / "there" / "c.jsonl", TEXTS[10:])
    here, there = files(tmp_path / "here" / "*"), files(tmp_path / "there" / "*")
    assert here.data_version() == there.data_version()
    assert [d.text for d in here.documents(0)] == [d.text for d in there.documents(0)]


def test_a_window_counts_the_records_of_several_files_by_their_names(tmp_path):
    for part in (10, 9, 2):
        write_jsonl(tmp_path / f"part-{part}.jsonl", [f"{part}.{n}" for n in range(3)])
    glob = tmp_path / "part-*.jsonl"
    taken = {take: sorted(d.text for d in files(glob, window={"take": take}).documents(0)) for take in (3, 7)}
    assert taken == {3: ["2.0", "2.1", "2.2"], 7: ["10.0", "2.0", "2.1", "2.2", "9.0", "9.1", "9.2"]}
    assert sorted(d.text for d in files(glob, window={"skip": 6}).documents(0)) == ["10.0", "10.1", "10.2"]
    before = [files(glob, **settings).data_version() for settings in ({}, {"window": {"take": 3}})]
    (tmp_path / "part-10.jsonl").rename(tmp_path / "part-1.jsonl")
    after = [files(glob, **settings).data_version() for settings in ({}, {"window": {"take": 3}})]
    assert before[0] == after[0]  # the whole is the same text
    assert before[1] != after[1]  # its first records are not


def test_a_changed_file_has_another_version(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ["one"])
    source = files(tmp_path / "a.jsonl")
    before = source.data_version()
    write_jsonl(tmp_path / "a.jsonl", ["two"])  # same size: only the content and the time differ
    os.utime(tmp_path / "a.jsonl", ns=(time.time_ns(), time.time_ns() + 1))
    assert source.data_version() != before


def test_half_a_surrogate_pair_is_replaced(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a\\ud800b"}\n')
    assert [d.text for d in files(tmp_path / "a.jsonl").documents(0)] == ["a?b"]


def test_a_csv_field_may_be_longer_than_the_library_allows_by_default(tmp_path):
    write_csv(tmp_path / "a.csv", ["x" * 200_000])
    assert [len(d.text) for d in files(tmp_path / "a.csv").documents(0)] == [200_000]


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl:2: expected one JSON object per line, found malformed JSON"),
        ("a.jsonl", b'["x"]\n', r"a\.jsonl:1: expected a JSON object, found a list"),
        ("a.jsonl", b'{"body": "x", "id": 1}\n', r"a\.jsonl:1: expected the field text, found the fields body, id; set 'text_field'"),
        ("a.jsonl", b'{"text": 7}\n', r"a\.jsonl:1: expected text in the field 'text', found int"),
        ("a.jsonl", b'{"text": "x"}\n{"text": "\xe9"}\n', r"a\.jsonl:2: expected UTF-8 text"),
        ("a.jsonl", b"", r"a\.jsonl: expected documents with text, found none"),
        ("a.csv", b"n,body\n1,x\n", r"a\.csv:1: expected the field text, found the fields n, body"),
        ("a.csv", b"n,text\n1\n", r"a\.csv:2: expected 2 columns, found fewer"),
        ("a.csv", b"n,text\n1,caf\xe9\n", r"a\.csv:\d: expected UTF-8 text"),
        ("a.csv", b'n,text\n1,"x\n', r"a\.csv:\d: expected comma-separated values"),
        ("a.csv", b"n,text\n1,x,y\n", r"a\.csv:2: expected 2 columns, found more"),
        ("a.csv", b"\xff,text\n1,x\n", r"a\.csv:1: expected a header that names the columns, found bytes that are no UTF-8 text; mend the first row"),
        ("a.csv", b"n,text\r1,x\r", r"a\.csv:1: expected a header that names the columns, found a carriage return within a row"),
        ("a.csv", b"n,text,text\n1,x,y\n", r"a\.csv:1: expected a header that names each column once, found 'text' more than once; rename"),
        ("a.jsonl", b'{"text": ["x"]}\n', r"a\.jsonl:1: expected text in the field 'text', found list; mend it, or set 'malformed: skip'"),
        ("a.jsonl", b'{"text": null}\n', r"a\.jsonl: expected documents with text, found none \(left out: 1 empty\)"),
        ("a.csv", b"", r"a\.csv: expected documents with text, found none"),
        ("a.txt", b"\xff\xfe", r"a\.txt: expected UTF-8 text"),
        ("a.txt", b" \n", r"a\.txt: expected documents with text, found none"),
        ("a.parquet", b"not parquet", r"a\.parquet: expected a parquet file"),
        ("a.parquet", b"", r"a\.parquet: expected a parquet file"),
        ("a.doc", b"x", r"a\.doc: expected a suffix among \.jsonl.*found '\.doc'; set 'format'"),
    ],
)
def test_a_bad_file_is_one_sentence(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=message):
        list(files(tmp_path / name).documents(0))


def test_a_parquet_file_without_the_text_column_names_the_columns_found(tmp_path):
    write_parquet(tmp_path / "a.parquet", ["x"])
    with pytest.raises(SourceError, match=r"expected the field body, found the fields n, text"):
        list(files(tmp_path / "a.parquet", text_field="body").documents(0))


def test_only_the_columns_that_are_read_are_decoded(tmp_path, monkeypatch):
    write_parquet(tmp_path / "a.parquet", TEXTS)
    asked = []
    original = pq.ParquetFile.iter_batches
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda self, *a, **k: asked.append(k["columns"]) or original(self, *a, **k))
    list(files(tmp_path / "a.parquet").documents(0))
    list(files(tmp_path / "a.parquet", filters=[{"field": "n", "minimum": 1}]).documents(0))
    assert {tuple(columns) for columns in asked} == {("text",), ("n", "text")}


def test_a_parquet_file_may_hold_nested_records(tmp_path):
    pq.write_table(pa.table({"meta": [{"lang": "en", "body": "x"}, {"lang": "de", "body": "y"}]}), tmp_path / "a.parquet")
    source = files(tmp_path / "a.parquet", text_field="meta.body", filters=[{"field": "meta.lang", "equals": "en"}])
    assert [d.text for d in source.documents(0)] == ["x"]


def test_text_files_need_no_column_whatever_the_entry_calls_it(tmp_path):
    (tmp_path / "a.txt").write_text("x")
    assert [d.text for d in files(tmp_path / "a.txt", text_field=("title", "body")).documents(0)] == ["x"]


def test_a_file_whose_name_reads_as_a_pattern_is_meant_itself_where_there_is_one(tmp_path):
    write_jsonl(tmp_path / "x1.jsonl", ["the pattern's"])
    assert [d.text for d in files(tmp_path / "x[12].jsonl").documents(0)] == ["the pattern's"]
    write_jsonl(tmp_path / "x[12].jsonl", ["its own"])
    assert [d.text for d in files(tmp_path / "x[12].jsonl").documents(0)] == ["its own"]


def test_a_window_beyond_the_last_record_says_how_many_there_are(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", ["x", " "])
    for skip in (2, 10):
        with pytest.raises(SourceError, match=rf"a\.jsonl: expected more than the {skip} records that window\.skip passes over, found 2; lower it"):
            list(files(tmp_path / "a.jsonl", window={"skip": skip}).documents(0))
    with pytest.raises(SourceError, match=r"expected documents with text, found none \(left out: 1 empty\)"):
        list(files(tmp_path / "a.jsonl", window={"skip": 1}).documents(0))


def test_a_pipe_and_a_link_to_nothing_are_told_apart_from_a_folder(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "nothing")
    with pytest.raises(SourceError, match=r"pipe\.jsonl: expected at least one file, found a pipe or a device"):
        files(tmp_path / "pipe.jsonl").data_version()
    with pytest.raises(SourceError, match=r"link\.jsonl: expected at least one file, found a link to nothing; mend the link"):
        files(tmp_path / "link.jsonl").data_version()


def test_a_glob_without_a_match_and_a_folder_are_errors_already_when_observed(tmp_path):
    with pytest.raises(SourceError, match=r"nothing.*expected at least one file, found none"):
        files(tmp_path / "nothing*").data_version()
    with pytest.raises(SourceError, match="expected at least one file, found only a folder"):
        files(tmp_path).data_version()

"""Compressed files read like plain ones, line by line, and a damaged one is an error and never a shorter text."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.corpora.sources import compressed
from sae_pipeline.corpora.sources.local_files import LocalFiles
from sae_pipeline.corpora.sources.records import RecordReader
from sae_pipeline.errors import SourceError
from sae_pipeline.study.text_sections import Files


def zstd(data: bytes) -> bytes:
    return pa.compress(data, codec="zstd", asbytes=True)


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress, ".zst": zstd}
CONTENT = {
    "a.jsonl": "".join(json.dumps({"text": f"line {i} é"}) + "\n" for i in range(50)).encode(),
    "a.csv": b"text\n" + b"".join(b"row %d\n" % i for i in range(50)),
    "a.txt": "one\ntwo é\n".encode(),
}


def read(path: Path, **settings: str) -> list[tuple[str, str]]:
    source = Files(kind="files", paths=(str(path),), **settings)
    return [(d.text, d.key.removeprefix(str(path))) for d in LocalFiles(source, RecordReader(source, None)).documents(0)]


@pytest.mark.parametrize("suffix", sorted(COMPRESSED))
@pytest.mark.parametrize("name", sorted(CONTENT))
def test_a_compressed_file_holds_the_same_documents_at_the_same_lines(tmp_path, name, suffix):
    (tmp_path / name).write_bytes(CONTENT[name])
    (tmp_path / f"{name}{suffix}").write_bytes(COMPRESSED[suffix](CONTENT[name]))
    assert read(tmp_path / f"{name}{suffix}") == read(tmp_path / name)


@pytest.mark.parametrize("suffix", sorted(COMPRESSED))
def test_a_file_compressed_in_several_parts_is_read_to_its_end(tmp_path, suffix):
    (tmp_path / f"a{suffix}").write_bytes(b"".join(COMPRESSED[suffix](part) for part in (b"one\n", b"two\n", b"three")))
    assert list(compressed.lines(tmp_path / f"a{suffix}")) == [b"one\n", b"two\n", b"three"]


@pytest.mark.parametrize("suffix", sorted(COMPRESSED))
@pytest.mark.parametrize("damage", ["cut short", "other bytes"])
@pytest.mark.parametrize("malformed", ["refuse", "skip"])
def test_a_damaged_file_is_an_error_whatever_is_said_about_malformed_records(tmp_path, suffix, damage, malformed):
    whole = COMPRESSED[suffix](CONTENT["a.jsonl"] * 20)
    (tmp_path / f"a.jsonl{suffix}").write_bytes(whole[: len(whole) // 2] if damage == "cut short" else b"this is no such file")
    with pytest.raises(SourceError, match=rf"a\.jsonl{suffix}: expected a complete {suffix} file, found a damaged one"):
        read(tmp_path / f"a.jsonl{suffix}", malformed=malformed)


def test_parquet_is_compressed_inside_and_not_again(tmp_path):
    (tmp_path / "a.parquet.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(SourceError, match=r"expected a plain parquet file.*unpack it"):
        read(tmp_path / "a.parquet.gz")


def test_the_ending_before_the_compression_tells_the_format(tmp_path):
    (tmp_path / "a.doc.gz").write_bytes(gzip.compress(b"x"))
    with pytest.raises(SourceError, match=r"found '\.doc'; set 'format'"):
        read(tmp_path / "a.doc.gz")
    assert [text for text, _ in read(tmp_path / "a.doc.gz", format="txt")] == ["x"]


def test_a_file_that_may_not_be_read_says_so(tmp_path):
    with pytest.raises(SourceError, match="expected a file that can be read, found: No such file"):
        list(compressed.lines(tmp_path / "gone.txt"))


@given(data=st.lists(st.sampled_from([b"", b"a", b"bcd", b"x" * 7, b"y" * 8, b"z" * 30]), max_size=8).map(b"\n".join))
def test_lines_are_those_of_the_file_and_long_ones_are_passed_over_whole(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("lines") / "a.txt"
    path.write_bytes(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compressed, "LONGEST_LINE", 8)
        patch.setattr(compressed, "PIECE", 3)
        expected = [line if len(line) <= 8 and (len(line) < 8 or line.endswith(b"\n")) else None for line in io.BytesIO(data)]
        assert list(compressed.lines(path)) == expected

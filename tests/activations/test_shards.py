"""Shards are read as one table whatever their number, and their blocks without special tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from stored_rows import D_MODEL, DOCUMENT, LENGTH, ROWS, USABLE, write

from sae_pipeline.activations import shards as module
from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.errors import StorageError


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> ActivationShards:
    """Fourteen contexts in shards of 5, 5 and 4, and blocks of 2, 2, 1, 2, 2, 1, 2 and 2."""
    return ActivationShards(write(tmp_path_factory.mktemp("shards"), 5), batch_size=2)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_reading_gives_the_rows_of_the_whole_table(shards: ActivationShards, data: st.DataObject) -> None:
    """Any range, across the borders of shards."""
    start, stop = sorted((data.draw(st.integers(0, len(ROWS))), data.draw(st.integers(0, len(ROWS)))))
    assert torch.equal(shards.read(start, stop), ROWS[start:stop])


@pytest.mark.parametrize("rows", [1, 7, 16, 1000])
def test_chunks_cover_the_table_once_and_in_order(shards: ActivationShards, rows: int) -> None:
    """Whatever their size."""
    chunks = list(shards.chunks(rows))
    assert [n for where, _ in chunks for n in range(where.start, where.stop)] == list(range(len(ROWS)))
    assert torch.equal(torch.cat([x for _, x in chunks]), ROWS)
    assert max(len(x) for _, x in chunks) <= rows


def test_the_columns_are_those_of_the_corpus(shards: ActivationShards) -> None:
    """Beside the numbers that describe the table."""
    assert (shards.rows, shards.d_model, shards.context_length, shards.dtype) == (56, D_MODEL, LENGTH, torch.float32)
    assert torch.equal(shards.document, DOCUMENT)
    assert torch.equal(shards.usable, USABLE)


@pytest.mark.parametrize(("dtype", "buffers_per_read"), [(torch.float32, 1024), (torch.bfloat16, 2), (torch.float16, 1)])
def test_a_block_is_its_usable_rows_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, buffers_per_read: int) -> None:
    """For any pattern of special tokens, and however many reads that takes."""
    monkeypatch.setattr(module, "BUFFERS_PER_READ", buffers_per_read)
    context = USABLE // LENGTH
    for batch_size in (1, 2, 3, 99):
        shards = ActivationShards(write(tmp_path, 5, ROWS.to(dtype)), batch_size)
        counted = shards.usable_per_block.tolist()
        for block, (first, stop) in enumerate(shards.cut.blocks):
            inside = USABLE[(context >= first) & (context < stop)]
            out = torch.full((counted[block], D_MODEL), torch.nan, dtype=dtype)
            shards.read_block(block, out)
            assert torch.equal(out, ROWS.to(dtype)[inside])


def test_stored_bfloat16_is_read_as_float32(tmp_path: Path) -> None:
    """The rounding is that of storage alone."""
    shards = ActivationShards(write(tmp_path, 10, ROWS.bfloat16()))
    for read in (shards.read(0, 56), next(iter(shards.chunks(56)))[1]):
        assert read.dtype == torch.float32
        assert torch.equal(read, ROWS.bfloat16().float())


@pytest.mark.parametrize(("start", "stop", "found"), [(50, 57, "50 to 56"), (-1, 3, "-1 to 2")])
def test_rows_out_of_range_are_errors(shards: ActivationShards, start: int, stop: int, found: str) -> None:
    """Negative numbers do not count from the end."""
    with pytest.raises(IndexError, match=f"expected rows from 0 to 55, found {found}"):
        shards.read(start, stop)


def test_files_that_are_no_shards_are_errors(tmp_path: Path) -> None:
    """Each names the file; nothing is read as numbers that it does not hold."""
    with pytest.raises(StorageError, match="expected at least one shard"):
        ActivationShards([])
    whole = write(tmp_path, 14)[0]
    damaged = {
        "truncated": whole.read_bytes()[:-50],
        "empty": b"",
        "text": b"this is a text of more than eight bytes",
        "endless": b"\xff" * 64,
        "list": (2).to_bytes(8, "little") + b"[]",
    }
    for name, content in damaged.items():
        (tmp_path / name).write_bytes(content)
    save_file({"tokens": torch.zeros(2)}, tmp_path / "other")
    save_file(load_file(whole), tmp_path / "no metadata")
    for name in (*damaged, "other", "no metadata", "absent"):
        with pytest.raises(StorageError, match=f"{name}: expected a shard of activations"):
            ActivationShards([tmp_path / name])


def test_shards_of_two_tables_are_not_read_as_one(tmp_path: Path) -> None:
    """Rows are found by their number, so the files must have the lengths that the first implies."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
    first, _, last = write(tmp_path / "one", 5)
    with pytest.raises(StorageError, match="expected a shard like the first"):
        ActivationShards([last, first])
    with pytest.raises(StorageError, match="expected a shard like the first"):
        ActivationShards([first, *write(tmp_path / "two", 5, ROWS.half())])


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path: Path) -> None:
    """Not a batch of old bytes."""
    paths = write(tmp_path, 14)
    shards = ActivationShards(paths)
    paths[0].write_bytes(paths[0].read_bytes()[:600])
    with pytest.raises(StorageError, match="it ends too early"):
        shards.read(0, 56)
    paths[0].unlink()
    with pytest.raises(StorageError, match="No such file"):
        shards.read(0, 56)

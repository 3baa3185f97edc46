"""Hugging Face data sets in a local hub-shaped folder, and what needs no network."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from loopback_hub import COMMIT

from sae_pipeline.corpora.sources import open_source
from sae_pipeline.corpora.sources.hub import HubDataset
from sae_pipeline.corpora.sources.row_stream import RowStream
from sae_pipeline.errors import SourceError
from sae_pipeline.store import Store
from sae_pipeline.study.text_sections import HuggingFace

README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
  - split: test
    path: data/test-*
---
# Notes
"""
TRAIN = [f"document {i}" for i in range(20)]


def write_hub_folder(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    pq.write_table(pa.table({"text": [*TRAIN, TRAIN[1], None, " "], "n": list(range(23))}), folder / "data" / "train-00000-of-00001.parquet")
    pq.write_table(pa.table({"text": ["one", "two", "three"], "n": [1, 2, 3]}), folder / "data" / "test-00000-of-00001.parquet")
    (folder / "README.md").write_text(README)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_hub_folder(tmp_path_factory.mktemp("hub") / "notes")


def local(folder: Path, **changes: Any) -> HubDataset:
    source = HuggingFace(kind="huggingface", dataset=str(folder), shuffle_buffer=5).model_copy(update=changes)
    opened = open_source(source, Store(folder / "unused"))
    assert isinstance(opened, HubDataset)
    return opened


# ------------------------------------------------------------------------------------------------ a local folder


def test_a_hub_shaped_folder_is_read_split_by_split_without_blanks_and_duplicates(folder):
    source = local(folder)
    assert sorted(d.text for d in source.documents(0)) == sorted(TRAIN)
    assert source.dropped == {"duplicate": 1, "empty": 2}
    assert sorted(d.text for d in local(folder, split="test").documents(0)) == ["one", "three", "two"]


def test_the_seed_changes_the_order(folder):
    orders = [[d.text for d in local(folder).documents(seed)] for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_folder_is_known_by_its_content_and_not_by_its_place(folder, tmp_path):
    copy = write_hub_folder(tmp_path / "elsewhere")
    assert local(copy).data_version() == local(folder).data_version()
    pq.write_table(pa.table({"text": ["changed"], "n": [1]}), copy / "data" / "test-00000-of-00001.parquet")
    assert local(copy).data_version() != local(folder).data_version()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"split": "validation"}, r"split validation: .*Available splits: \['train', 'test'\]; correct"),
        ({"config": "french"}, r"config french, .*Available: \['default'\]; correct"),
        ({"text_field": "body"}, "row 0: expected the field body, found the fields text, n"),
        ({"text_field": "n"}, "row 0: expected text in the field 'n', found int"),
    ],
)
def test_what_a_folder_does_not_have_is_one_sentence(folder, changes, message):
    with pytest.raises(SourceError, match=message):
        list(local(folder, **changes).documents(0))


def test_a_break_just_after_a_state_was_taken_loses_no_row(folder):
    source = local(folder).source
    stream = RowStream(source)
    rows = iter(stream)
    first = [next(rows)["n"] for _ in range(5)]

    def broken() -> Iterator[Any]:
        raise ConnectionError("closed")
        yield

    stream._rest = broken()
    state = stream.state()
    assert stream.state() == state
    with pytest.raises(ConnectionError, match="closed"):
        next(rows)
    assert first + [row["n"] for row in RowStream(source, state=state)] == list(range(23))


def test_an_empty_folder_is_one_sentence(tmp_path):
    with pytest.raises(SourceError, match="expected a data set that can be streamed, found: The directory at"):
        list(local(tmp_path).documents(0))


def test_a_full_commit_needs_no_network():
    train, test = (
        open_source(HuggingFace(kind="huggingface", dataset="lab/notes", split=split, revision=COMMIT), Store(Path("unused")))
        for split in ("train", "test")
    )
    assert isinstance(train, HubDataset)
    assert train.commit() == COMMIT
    assert train.data_version() == test.data_version()


def test_sources_are_importable_without_torch_and_without_the_libraries_they_read_with():
    script = (
        "import sys, sae_pipeline.corpora.sources, sae_pipeline.corpora.sources.hub, sae_pipeline.corpora.sources.installed, "
        "sae_pipeline.corpora.sources.local_files, sae_pipeline.corpora.mixing, sae_pipeline.corpora.tokenization\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'huggingface_hub', 'pyarrow'} & set(sys.modules)))"
    )
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment).stdout.strip() == "[]"

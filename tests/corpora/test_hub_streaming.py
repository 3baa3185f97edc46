"""Streaming from a hub on the loopback: pinned, whole under every trouble, kept, and gone on with after a kill."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_reader import PART_RECORDS, HubReader
from loopback_hub import COMMIT, OLD_COMMIT, RETRY_AFTER, Hub, data_files, loopback_hub

from sae_pipeline.corpora.sources import open_source
from sae_pipeline.store import Store
from sae_pipeline.study.text_sections import HuggingFace

README = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: data/train-*
---
# Notes
"""
FILES = 6
ROWS = 100
"""Rows of each file; parquet in row groups of 25."""


def texts(first: int, n: int) -> list[str]:
    return [f"document {i}, {'word ' * (i % 40)}end" for i in range(first, first + n)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, dict[str, Path]]:
    """notes: two commits; tables: six parquet files; lines: six jsonl.gz files with the same rows."""
    root = tmp_path_factory.mktemp("hub")
    for name in ("old", "new", "tables", "lines"):
        (root / name / "data").mkdir(parents=True)
        (root / name / "README.md").write_text(README)
    for name in ("old", "new"):
        pq.write_table(pa.table({"text": [f"{name} {i}" for i in range(30)]}), root / name / "data/train-0.parquet")
    for n in range(FILES):
        rows = texts(n * ROWS, ROWS)
        columns = {"text": rows, "at": list(range(ROWS)), "raw": [row.encode() for row in rows]}
        pq.write_table(pa.table(columns), root / "tables/data" / f"train-{n}.parquet", row_group_size=25)
        lines = "".join(json.dumps({"text": row, "at": i, "url": "x" * 100}) + "\n" for i, row in enumerate(rows))
        (root / "lines/data" / f"train-{n}.jsonl.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    return {
        "lab/notes": {OLD_COMMIT: root / "old", COMMIT: root / "new"},
        "lab/tables": {COMMIT: root / "tables"},
        "lab/lines": {COMMIT: root / "lines"},
    }


@pytest.fixture(scope="module")
def hub(folders) -> Iterator[Hub]:
    with loopback_hub(folders) as hub:
        yield hub


@pytest.fixture(scope="module")
def reader(hub, tmp_path_factory) -> Iterator[HubReader]:
    reader = HubReader(hub.endpoint, tmp_path_factory.mktemp("home"))
    yield reader
    assert reader.close() == 0


@pytest.fixture(scope="module")
def undisturbed(folders) -> list[str]:
    """The documents in order, as a folder with the same files gives them: without a hub, a spool or any retry."""
    source = open_source(HuggingFace(kind="huggingface", dataset=str(folders["lab/tables"][COMMIT]), shuffle_buffer=5), Store(Path("unused")))
    documents = [document.text for document in source.documents(0)]
    assert sorted(documents) == sorted(texts(0, FILES * ROWS))
    return documents


# ------------------------------------------------------------------------------------------------ the pinned commit


def test_rows_come_from_exactly_the_commit_that_was_asked_for(hub, reader, tmp_path):
    for revision, commit, word in [(None, COMMIT, "new"), ("main", COMMIT, "new"), (OLD_COMMIT, OLD_COMMIT, "old")]:
        with hub.trouble() as seen:
            answer = reader.ask("lab/notes", tmp_path, revision)
        assert answer["commit"] == commit
        assert {text.split()[0] for text in answer["documents"]} == {word}
        assert all(f"/resolve/{commit}/" in request for request in seen if "/resolve/" in request)


def test_a_commit_that_moves_on_after_the_first_part_changes_nothing(hub, reader, tmp_path, undisturbed, folders):
    part = reader.ask("lab/tables", tmp_path, take=60)
    hub.datasets["lab/tables"]["f" * 40] = folders["lab/notes"][OLD_COMMIT]
    try:
        whole, moved = reader.ask("lab/tables", tmp_path, part["commit"]), reader.ask("lab/tables", tmp_path)
    finally:
        del hub.datasets["lab/tables"]["f" * 40]
    assert whole["documents"] == undisturbed
    assert moved["version"] != whole["version"]
    assert {text.split()[0] for text in moved["documents"]} == {"old"}


def test_a_copy_of_another_commit_that_the_library_keeps_is_never_read(hub, reader, tmp_path):
    reader.ask("lab/notes", tmp_path / "first", OLD_COMMIT, copy=True, take=1)
    with hub.trouble(files=lambda n: "drop", other=lambda n: "drop"):
        answer = reader.ask("lab/notes", tmp_path / "second", COMMIT, cold=True)
    assert "broken attempts in a row" in answer["error"]


# ------------------------------------------------------------------------------------------------ trouble


@pytest.mark.parametrize("dataset", ["lab/tables", "lab/lines"])
@pytest.mark.parametrize(
    "faults",
    [
        lambda n: "drop" if n % 3 == 0 else None,
        lambda n: "truncate" if n % 2 == 1 else None,
        lambda n: "429" if n in (0, 4) else None,
        lambda n: "503" if n % 11 >= 4 else None,
        lambda n: ("drop", "truncate", None, "500", None, None)[n % 6],
    ],
    ids=["dropped connections", "truncated files", "too many requests", "outages that outlast the client", "all of them"],
)
@pytest.mark.faults
def test_trouble_with_files_loses_and_doubles_no_document(dataset, faults, hub, reader, tmp_path, undisturbed):
    with hub.trouble(files=faults):
        answer = reader.ask(dataset, tmp_path, COMMIT)
    assert answer.get("documents") == undisturbed, answer
    assert not answer["dropped"]


@pytest.mark.parametrize("fault", ["drop", "truncate", "429", "503"])
@pytest.mark.faults
def test_trouble_before_the_first_row_passes_too(fault, hub, reader, tmp_path, undisturbed):
    with hub.trouble(other=lambda n: fault if n in (0, 2, 5, 9, 14) else None) as seen:
        answer = reader.ask("lab/tables", tmp_path, cold=True)
    assert answer.get("documents") == undisturbed, (answer, seen)


@pytest.mark.faults
def test_a_hub_that_asks_to_wait_is_waited_for(hub, reader, tmp_path):
    with hub.trouble(other=lambda n: "429" if n == 0 else None):
        answer = reader.ask("lab/notes", tmp_path)
    assert answer["pauses"] == [RETRY_AFTER]


@pytest.mark.parametrize("status", ["401", "403", "404"])
def test_a_refusal_is_not_asked_again(status, hub, reader, tmp_path):
    with hub.trouble(other=lambda n: status) as seen:
        answer = reader.ask("lab/notes", tmp_path)
    assert answer["error"].startswith("data set lab/notes, split train: expected a data set on the Hugging Face hub, found: ")
    assert (len(seen), answer["pauses"]) == (1, [])


def test_a_refusal_in_the_middle_of_the_rows_is_not_asked_again(hub, reader, tmp_path):
    with hub.trouble(files=lambda n: None if n < 3 else "403") as seen:
        answer = reader.ask("lab/tables", tmp_path, COMMIT)
    assert "expected a data set that can be streamed" in answer["error"]
    assert "log in with `hf auth login`" in answer["error"]
    assert (len(data_files(seen)), answer["pauses"]) == (4, [])


def test_names_the_hub_does_not_know_are_one_sentence_each(reader, tmp_path):
    assert "Revision Not Found" in reader.ask("lab/notes", tmp_path, "no-such-branch")["error"]
    assert "Repository Not Found" in reader.ask("lab/none", tmp_path)["error"]
    assert "correct 'dataset', 'config'" in reader.ask("lab/notes", tmp_path, COMMIT, fields={"config": "french"})["error"]


@pytest.mark.faults
def test_a_hub_that_never_recovers_is_given_up_and_the_next_run_goes_on_from_there(hub, reader, tmp_path, undisturbed):
    with hub.trouble(files=lambda n: "truncate" if n > 3 else None):
        message = reader.ask("lab/tables", tmp_path, COMMIT)["error"]
    kept = re.search(r"expected rows after the (\d+) that are kept, found 6 broken attempts in a row \(.*\); run again: .* from there", message)
    assert kept is not None, message
    assert int(kept[1]) >= 2 * PART_RECORDS
    with hub.trouble() as seen:
        answer = reader.ask("lab/tables", tmp_path, COMMIT)
    assert answer["documents"] == undisturbed
    assert data_files(seen).count("train-0.parquet") <= 1  # its schema


# ------------------------------------------------------------------------------------------------ what is kept


def test_what_was_streamed_is_not_asked_for_again(hub, reader, tmp_path, undisturbed):
    reader.ask("lab/tables", tmp_path, COMMIT)
    with hub.trouble() as seen:
        assert reader.ask("lab/tables", tmp_path, COMMIT)["documents"] == undisturbed
    assert seen == []


def test_the_next_mix_takes_over_the_open_stream(hub, reader, tmp_path, undisturbed):
    with hub.trouble() as seen:
        reader.ask("lab/lines", tmp_path, COMMIT, take=60)
        first = len(seen)
        assert reader.ask("lab/lines", tmp_path, COMMIT, continued=True)["documents"] == undisturbed
    assert all("/data/" in request for request in seen[first:])
    assert data_files(seen[first:]) == [f"train-{n}.jsonl.gz" for n in range(1, FILES)]


def test_a_process_that_ends_with_an_open_stream_ends_quietly(hub, tmp_path):
    for dataset in ("lab/tables", "lab/lines"):
        reader = HubReader(hub.endpoint, tmp_path)
        reader.ask(dataset, tmp_path, COMMIT, take=60)
        assert reader.close() == 0
        complaints = (tmp_path / "errors.txt").read_text()
        assert "Traceback" not in complaints
        assert "Exception" not in complaints


def test_only_as_much_is_fetched_as_is_read(hub, reader, tmp_path):
    with hub.trouble() as seen:
        reader.ask("lab/lines", tmp_path, COMMIT, take=20)
    assert set(data_files(seen)) == {"train-0.jsonl.gz"}
    assert len(list(tmp_path.glob("spool/*/part-*.parquet"))) == 1


def test_columns_that_nothing_reads_are_not_kept(reader, tmp_path):
    for dataset in ("lab/tables", "lab/lines"):
        reader.ask(dataset, tmp_path / dataset, COMMIT, take=1)
        [part] = (tmp_path / dataset).glob("spool/*/part-00000.parquet")
        assert set(json.loads(pq.read_table(part)["record"][0].as_py())) == {"text"}


def test_bytes_are_no_text_on_the_hub_either(reader, tmp_path):
    answer = reader.ask("lab/tables", tmp_path, COMMIT, fields={"text_field": "raw"})
    assert "row 0: expected text in the field 'raw'" in answer["error"]


def test_of_a_damaged_part_only_its_file_is_fetched_again(hub, reader, tmp_path, undisturbed):
    reader.ask("lab/lines", tmp_path, COMMIT)
    [part] = tmp_path.glob("spool/*/part-00008.parquet")
    written = part.read_bytes()
    part.write_bytes(written[:-40] + b"?" * 40)
    with hub.trouble() as seen:
        assert reader.ask("lab/lines", tmp_path, COMMIT)["documents"] == undisturbed
    assert {int(name[6]) for name in data_files(seen)} == {0, 3}  # rows 320 to 359; of the first file the types of its columns
    assert part.read_bytes() == written


# ------------------------------------------------------------------------------------------------ several processes


@pytest.mark.parametrize(("dataset", "name"), [("lab/tables", "train-{}.parquet"), ("lab/lines", "train-{}.jsonl.gz")])
@pytest.mark.faults
def test_killed_in_the_midst_of_a_download_it_goes_on_after_the_last_part(dataset, name, hub, reader, tmp_path, undisturbed):
    doomed = HubReader(hub.endpoint, tmp_path)

    def kill(request: int) -> str | None:
        if data_files(hub.seen)[-1] == name.format(FILES - 1):
            os.kill(doomed.process.pid, signal.SIGKILL)
            return "drop"
        return None

    with hub.trouble(files=kill):
        doomed.send(dataset, tmp_path, COMMIT)
        assert doomed.process.wait(timeout=60) == -signal.SIGKILL
    doomed.errors.close()
    with hub.trouble() as seen:
        assert reader.ask(dataset, tmp_path, COMMIT)["documents"] == undisturbed
    # 480 of 600 rows were kept; of the first file the types of its columns are read
    assert {int(file[6]) for file in data_files(seen)} == {0, 4, 5}


@pytest.mark.parametrize(("dataset", "name"), [("lab/tables", "train-{}.parquet"), ("lab/lines", "train-{}.jsonl.gz")])
@pytest.mark.faults
def test_a_part_that_ends_with_a_file_is_followed_by_the_next_file(dataset, name, hub, reader, tmp_path, undisturbed):
    reader.ask(dataset, tmp_path, COMMIT, take=5 * PART_RECORDS - 10)  # five parts are two files
    assert len(list(tmp_path.glob("spool/*/part-*.parquet"))) == 5
    with hub.trouble() as seen:
        assert reader.ask(dataset, tmp_path, COMMIT)["documents"] == undisturbed
    assert {int(file[6]) for file in data_files(seen)} == {0, 2, 3, 4, 5}


@pytest.mark.faults
def test_two_processes_that_read_at_once_share_one_download(hub, reader, tmp_path, undisturbed):
    other = HubReader(hub.endpoint, tmp_path)
    with hub.trouble() as seen:
        for one in (reader, other):
            one.send("lab/lines", tmp_path / "store", COMMIT)
        answers: list[dict[str, Any]] = [one.answer() for one in (reader, other)]
    assert other.close() == 0
    assert [answer["documents"] for answer in answers] == [undisturbed] * 2
    # fifteen parts: at worst the two take turns, and a stream is opened anew for each
    assert len(data_files(seen)) <= 15 * 4


@pytest.mark.parametrize(("revision", "environment"), [(None, {}), (COMMIT, {}), (None, {"HF_HUB_OFFLINE": "1"}), (COMMIT, {"HF_HUB_OFFLINE": "1"})])
def test_without_a_network_the_message_comes_at_once_and_says_what_to_do(revision, environment, tmp_path):
    reader = HubReader("http://127.0.0.1:9", tmp_path, **environment)
    started = time.monotonic()
    answer = reader.ask("lab/notes", tmp_path, revision)
    assert time.monotonic() - started < 15
    assert "connect to the network (or unset HF_HUB_OFFLINE), or use a local folder" in answer["error"]
    assert answer["pauses"] == []
    assert reader.close() == 0

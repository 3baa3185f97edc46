"""The store: published in one step, found by fingerprint, never read when damaged."""

from __future__ import annotations

import multiprocessing
import shutil
import threading
import time
from pathlib import Path

import pytest

from sae_pipeline.errors import DamagedArtifact, StorageError
from sae_pipeline.store import Artifact, Draft, Store, digest, exclusive, write_atomically
from sae_pipeline.store.damage import quarantine
from sae_pipeline.store.locks import remove_idle


def publish(store: Store, fingerprint: str = "f1", text: str = "hello", **options: bool) -> Artifact:
    with store.draft("corpus", fingerprint, {"study": {"a": 1}}, **options) as draft:
        assert isinstance(draft, Draft)
        (draft.path / "data.txt").write_text(text)
        return draft.publish({"tokens": 5})


def test_a_published_artifact_is_found_with_its_summary_and_inputs(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.find("corpus", "f1") is None
    made = publish(store)
    found = store.find("corpus", "f1")
    assert found is not None
    assert (made.reused, found.reused) == (False, True)
    assert found.summary == {"tokens": 5}
    assert found.inputs == {"study": {"a": 1}}
    assert found.file("data.txt").read_text() == "hello"
    assert not list(tmp_path.glob(".partial/corpus/f1"))


def test_equal_bytes_have_equal_content_whatever_they_were_made_from(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert publish(store, "f1").content == publish(store, "f2").content != publish(store, "f3", "other").content


def test_a_second_draft_of_the_same_is_the_artifact(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    with store.draft("corpus", "f1", {}) as draft:
        assert isinstance(draft, Artifact)


@pytest.mark.parametrize("damage", ["truncate", "remove", "manifest"])
def test_an_artifact_of_the_wrong_size_is_quarantined_and_not_found(tmp_path: Path, damage: str) -> None:
    store = Store(tmp_path)
    made = publish(store)
    if damage == "truncate":
        (made.path / "data.txt").write_text("hell")
    elif damage == "remove":
        (made.path / "data.txt").unlink()
    else:
        (made.path / "manifest.json").write_text("{")
    assert store.find("corpus", "f1") is None
    assert len(list((tmp_path / ".quarantine").iterdir())) == 1
    assert publish(store).file("data.txt").read_text() == "hello"


def test_a_flipped_byte_is_never_read(tmp_path: Path) -> None:
    store = Store(tmp_path)
    made = publish(store)
    (made.path / "data.txt").write_text("hullo")
    found = store.find("corpus", "f1")
    assert found is not None
    with pytest.raises(DamagedArtifact, match=r"checksum differs.*quarantine.*computed again"):
        found.file("data.txt")
    assert store.find("corpus", "f1") is None


def test_every_reader_of_a_damaged_artifact_is_told_the_same(tmp_path: Path) -> None:
    store = Store(tmp_path)
    publish(store)
    readers = [store.find("corpus", "f1") for _ in range(2)]
    (store.folder("corpus", "f1") / "data.txt").write_text("hullo")
    for reader in readers:
        assert reader is not None
        with pytest.raises(DamagedArtifact, match=r"the corpus artifact f1 was moved to quarantine and is computed again"):
            reader.file("data.txt")
    [kept] = (tmp_path / ".quarantine").iterdir()
    assert (kept / "data.txt").read_text() == "hullo"


def test_what_went_to_quarantine_at_the_same_time_is_no_error_and_a_disk_that_is_gone_is(tmp_path: Path) -> None:
    quarantine(publish(Store(tmp_path / "store")).folder)
    quarantine(tmp_path / "store" / "corpus" / "f1")
    assert len(list((tmp_path / "store" / ".quarantine").iterdir())) == 1
    with pytest.raises(StorageError, match="expected the folder that this run works in, found it gone"):
        quarantine(tmp_path / "away" / "corpus" / "f1")


def test_a_draft_that_fails_leaves_nothing_unless_it_can_be_resumed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for resumable, left in ((False, False), (True, True)):
        with pytest.raises(ValueError, match="halfway"), store.draft("corpus", "f1", {}, resumable=resumable) as draft:
            (draft.path / "part.txt").write_text("part")
            raise ValueError("halfway")
        assert (tmp_path / ".partial/corpus/f1/part.txt").exists() == left
        assert store.find("corpus", "f1") is None


def test_opening_what_was_never_computed_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="sae-pipeline run"):
        Store(tmp_path).open("saes", "none")


def test_a_full_disk_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="disk full; free space"), Store(tmp_path).draft("corpus", "f1", {}) as draft:
        (draft.path / "full").symlink_to("/dev/full")
        with (draft.path / "full").open("w") as file:
            file.write("x" * 100_000)


def _build_slowly(root: Path, log: Path) -> None:
    with Store(root).draft("corpus", "f1", {}) as draft:
        if isinstance(draft, Draft):
            with log.open("a") as file:
                file.write("built\n")
            time.sleep(0.5)
            (draft.path / "data.txt").write_text("hello")
            draft.publish({})


def test_two_processes_build_the_same_artifact_once(tmp_path: Path) -> None:
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_build_slowly, args=(tmp_path / "store", tmp_path / "log")) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_digest_ignores_the_order_of_keys_and_sees_every_value() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": (1, 2), "a": 1})
    assert len({digest(v) for v in ({"a": 1}, {"a": 1.5}, {"a": "1"}, {"b": 1}, {"a": None}, [], [[]])}) == 7


def test_dot_files_belong_to_the_stage_and_are_never_published(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(RuntimeError), store.draft("saes", "f1", {}, resumable=True) as draft:
        assert isinstance(draft, Draft)
        (draft.path / ".journal.json").write_text("half")
        (draft.path / "part").mkdir()
        (draft.path / "part" / ".weights.123").write_text("left by a killed process")
        raise RuntimeError("killed")
    with store.draft("saes", "f1", {}, resumable=True) as draft:
        assert isinstance(draft, Draft)
        assert (draft.path / ".journal.json").read_text() == "half"
        (draft.path / "weights").write_text("w")
        made = draft.publish({})
    assert list(made.manifest["files"]) == ["weights"]
    assert sorted(path.name for path in made.path.iterdir()) == ["manifest.json", "part", "weights"]


def test_a_manifest_left_before_the_rename_is_not_taken_for_a_file(tmp_path: Path) -> None:
    store = Store(tmp_path)
    left = tmp_path / ".partial/saes/f1"
    left.mkdir(parents=True)
    (left / "weights").write_text("w")
    (left / "manifest.json").write_text("{}")
    with store.draft("saes", "f1", {}, resumable=True) as draft:
        assert isinstance(draft, Draft)
        made = draft.publish({})
    assert list(made.manifest["files"]) == ["weights"]
    assert store.find("saes", "f1") is not None


@pytest.mark.parametrize("damaged", [False, True])
def test_what_arrived_in_its_place_meanwhile_is_taken_unless_it_is_damaged(tmp_path: Path, damaged: bool) -> None:
    other, store = publish(Store(tmp_path / "other"), text="theirs"), Store(tmp_path / "store")
    with store.draft("corpus", "f1", {}, resumable=True) as draft:
        assert isinstance(draft, Draft)
        (draft.path / "data.txt").write_text("mine")
        shutil.copytree(other.folder, store.folder("corpus", "f1"))
        if damaged:
            (store.folder("corpus", "f1") / "data.txt").unlink()
        taken = draft.publish({})
    assert taken.reused is not damaged
    assert taken.file("data.txt").read_text() == ("mine" if damaged else "theirs")
    assert not list(store.root.glob(".partial/corpus/*"))


def test_several_who_write_the_same_file_at_once_each_write_it_whole(tmp_path: Path) -> None:
    failures: list[BaseException] = []

    def write(byte: bytes) -> None:
        try:
            for _ in range(50):
                write_atomically(tmp_path / "file", byte * 1_000)
        except OSError as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(byte,)) for byte in (b"a", b"b", b"c")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert (tmp_path / "file").read_bytes() in {byte * 1_000 for byte in (b"a", b"b", b"c")}
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_file_that_cannot_be_written_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomically(tmp_path / "folder", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_a_lock_file_goes_only_when_nobody_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    remove_idle(lock)
    with exclusive(lock):
        remove_idle(lock)
        assert lock.exists()
    remove_idle(lock)
    assert not lock.exists()


def test_no_lock_file_stays_behind(tmp_path: Path) -> None:
    publish(Store(tmp_path))
    assert not list(tmp_path.rglob("*.lock"))

"""The disk budget: kept or refused in one sentence, and room is made only of copies that the shared store holds and nobody uses."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest
from small_study import SmallStudy

from sae_pipeline.errors import BadInput, StorageError
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.estimate import check_budget
from sae_pipeline.store import Artifact, Home, Store, budget, exclusive
from sae_pipeline.store.budget import IDLE_SECONDS, discard, disk_budget, room, stored_bytes, use_again
from sae_pipeline.store.shared import SharedStore
from sae_pipeline.study import load_study

MEGABYTE = 10**6


@pytest.mark.parametrize(("text", "size"), [("200GB", 2e11), ("1.5 TB", 1.5e12), ("500GiB", 500 * 2**30), ("1000", 1000), ("", None)])
def test_a_size_is_read_with_its_unit(text: str, size: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_DISK_BUDGET", text)
    assert disk_budget() == size


@pytest.mark.parametrize("text", ["much", "-3GB", "3 bananas"])
def test_what_is_no_size_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_DISK_BUDGET", text)
    with pytest.raises(BadInput, match=r"SAE_DISK_BUDGET: expected a size such as 200GB.*found"):
        disk_budget()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A home's store of at most 3.5 MB, sharing a folder."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv("SAE_DISK_BUDGET", "3.5MB")
    return Store(tmp_path / "home" / "store", SharedStore((tmp_path / "shared").as_uri(), 1.0))


def publish(store: Store, fingerprint: str) -> Path:
    """An artifact of one megabyte; its folder."""
    with store.draft("toy", fingerprint, {}) as draft:
        (draft.path / "data.bin").write_bytes(bytes(MEGABYTE))
        return draft.publish({}).folder


def last_used(folder: Path, hours_ago: float) -> None:
    then = time.time() - 3_600 * hours_ago
    os.utime(folder, (then, then))


def test_without_a_shared_store_what_would_go_over_is_refused_and_nothing_is_removed(store: Store) -> None:
    alone = Store(store.root)
    folders = [publish(alone, name) for name in "abc"]
    for folder in folders:
        last_used(folder, 48)
    with pytest.raises(StorageError, match=r"SAE_DISK_BUDGET=3\.5MB, found that 0\.004 GB would be held"):
        publish(alone, "d")
    assert all(folder.exists() for folder in folders)
    assert alone.find("toy", "d") is None


def test_copies_go_first_the_one_used_longest_ago(store: Store) -> None:
    a, b, c = (publish(store, name) for name in "abc")
    for folder, hours in ((a, 30), (b, 40), (c, 20)):
        last_used(folder, hours)
    publish(store, "d")
    assert [folder.exists() for folder in (a, b, c)] == [True, False, True]
    found = store.find("toy", "b")
    assert found is not None
    assert found.file("data.bin").stat().st_size == MEGABYTE  # fetched again, in the place of the next
    assert [folder.exists() for folder in (a, b, c)] == [False, True, True]
    assert stored_bytes(store.root) <= 3.5 * MEGABYTE


def test_what_was_used_lately_stays(store: Store) -> None:
    folders = [publish(store, name) for name in "abc"]
    for folder in folders:
        last_used(folder, 48)
    found = store.find("toy", "a")
    assert found is not None
    found.file("data.bin")
    last_used(folders[1], 0.9 * IDLE_SECONDS / 3_600)
    publish(store, "d")
    assert [folder.exists() for folder in folders] == [True, True, False]


def test_what_was_used_since_a_living_launcher_began_stays(store: Store) -> None:
    folders = [publish(store, name) for name in "abc"]
    for folder in folders:
        last_used(folder, 48)
    lock = Home(store.root.parent).locks / "launcher-other.lock"
    with exclusive(lock):
        last_used(lock, 50)
        with pytest.raises(StorageError, match="SAE_DISK_BUDGET"):
            publish(store, "d")
        last_used(lock, 47)
        publish(store, "d")
    assert sum(folder.exists() for folder in folders) == 2


@pytest.mark.parametrize("loss", ["the whole artifact", "a file", "the same artifact"])
def test_the_only_copy_never_goes(store: Store, loss: str) -> None:
    folders = [publish(store, name) for name in "abc"]
    assert store.shared is not None
    for folder in folders:
        last_used(folder, 48)
        found = store.shared.ask("toy", folder.name)
        assert found is not None
        if loss == "the whole artifact":
            store.shared.condemn(found)
        elif loss == "a file":
            store.shared.remote.remove(found.keys.values())
        else:
            other = found.content().replace(found.manifest["content"].encode(), b"0" * 24)
            store.shared.remote.write(found.manifest_key, other)
    store.shared.refresh()
    with pytest.raises(StorageError, match="SAE_DISK_BUDGET"):
        publish(store, "d")
    assert all(folder.exists() for folder in folders)


@pytest.mark.parametrize("sharing", ["alone", "with a store that is away"])
def test_work_that_is_refused_goes_on_from_where_it_was_once_there_is_room(store: Store, sharing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    used = store if sharing == "with a store that is away" else Store(store.root)
    there, away = store.root.parents[1] / "shared", store.root.parents[1] / "away"
    for name in "abc":
        last_used(publish(store, name), 48)
    with used.draft("toy", "d", {}, resumable=True) as draft, pytest.raises(StorageError, match="SAE_DISK_BUDGET"):
        (draft.path / ".progress.json").write_text("all done")
        (draft.path / "data.bin").write_bytes(bytes(MEGABYTE))
        if used is store:
            there.rename(away)
        draft.publish({})
    if used is store:
        away.rename(there)  # or its lease would be asked for, at every beat, until the process ends
    monkeypatch.setenv("SAE_DISK_BUDGET", "5MB")
    with Store(store.root).draft("toy", "d", {}, resumable=True) as draft:
        assert (draft.path / ".progress.json").read_text() == "all done"
        assert list(draft.publish({}).manifest["files"]) == ["data.bin"]


def test_files_that_publishing_removes_need_no_room(store: Store) -> None:
    with store.draft("toy", "a", {}) as draft:
        (draft.path / ".part").write_bytes(bytes(4 * MEGABYTE))
        (draft.path / "data.bin").write_bytes(bytes(MEGABYTE))
        assert isinstance(draft.publish({}), Artifact)


def test_two_that_make_room_at_once_do_not_stumble_over_each_other(store: Store) -> None:
    for name in "abc":
        last_used(publish(store, name), 48)
    together = threading.Barrier(2)
    published: list[Path] = []

    def work(fingerprint: str) -> None:
        with Store(store.root, store.shared).draft("toy", fingerprint, {}) as draft:
            (draft.path / "data.bin").write_bytes(bytes(MEGABYTE))
            together.wait()
            published.append(draft.publish({}).folder)

    threads = [threading.Thread(target=work, args=(name,)) for name in "de"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(folder.name for folder in published if folder.exists()) == ["d", "e"]
    assert [name for name in "abc" if store.folder("toy", name).exists()] == ["c"]


def test_a_copy_that_another_process_removed_is_no_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = [publish(store, name) for name in "abc"]
    for folder in folders:
        last_used(folder, 48)
    is_a_copy = budget._is_a_copy

    def slowly(shared: SharedStore, folder: Path) -> bool:
        found = is_a_copy(shared, folder)
        discard(folder)
        discard(folder)
        return found

    monkeypatch.setattr(budget, "_is_a_copy", slowly)
    monkeypatch.setenv("SAE_DISK_BUDGET", "9MB")
    publish(store, "d")
    assert all(folder.exists() for folder in folders)
    monkeypatch.setenv("SAE_DISK_BUDGET", "1.5MB")
    with pytest.raises(StorageError, match="SAE_DISK_BUDGET"):
        publish(store, "e")
    assert not any(folder.exists() for folder in folders)


def test_what_a_process_has_read_stays_for_as_long_as_it_lives(store: Store) -> None:
    folders = [publish(store, name) for name in "abc"]
    read = store.find("toy", "a")
    assert read is not None
    read.file("data.bin")
    for folder in folders:
        last_used(folder, 48)
    use_again()  # as a thread of the process does every quarter of an hour
    publish(store, "d")
    assert [folder.exists() for folder in folders] == [True, False, True]


def test_room_counts_what_would_go(store: Store) -> None:
    folder = publish(store, "a")
    used = stored_bytes(store.root)
    assert room(store.root, store.shared) == 3.5 * MEGABYTE - used
    last_used(folder, 48)
    assert room(store.root, store.shared) == 3.5 * MEGABYTE - used + stored_bytes(folder)


def test_a_study_that_cannot_fit_is_refused_before_it_starts(small_study: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = StudyContext.open(load_study(small_study.write(lambda data: data["subject"].update(model="bundled"))), Home(tmp_path / "home"))
    check_budget(ctx)
    monkeypatch.setenv("SAE_DISK_BUDGET", "1GB")
    check_budget(ctx)
    monkeypatch.setenv("SAE_DISK_BUDGET", "100KB")
    with pytest.raises(
        StorageError, match=r"SAE_DISK_BUDGET=100KB: expected room for the study 'toy', found 0\.0001 GB left .* are needed; raise it"
    ):
        check_budget(ctx)

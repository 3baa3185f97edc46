"""A store that several machines share, on an S3 server and in a folder: published whole, once, and never read torn or damaged."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_server import S3Server
from shared_machines import FILES, LONG_PATIENCE, fill, publish, remote_key

from sae_pipeline.errors import DamagedArtifact
from sae_pipeline.store import Artifact, Draft, Store, leases
from sae_pipeline.store.shared import SharedStore


class TestOneArtifactAndTwoMachines:
    def test_what_one_machine_published_another_finds_and_reads_byte_for_byte(self, machine: Callable[[str], Store]) -> None:
        made = publish(machine("a"))
        found = machine("b").find("toy", "f1")
        assert found is not None
        assert (made.reused, found.reused) == (False, True)
        assert (found.content, found.summary, found.inputs) == (made.content, {"files": 3}, {"of": "f1"})
        assert {name: found.file(name).read_bytes() for name in FILES} == FILES
        assert sorted(p.name for p in found.path.rglob("*") if p.is_file()) == ["data.txt", "empty", "large.bin", "manifest.json"]

    def test_its_files_are_fetched_only_when_they_are_asked_for(self, machine: Callable[[str], Store]) -> None:
        publish(machine("a"))
        b = machine("b")
        found = b.find("toy", "f1")
        assert found is not None
        with b.draft("toy", "f1", {}) as draft:
            assert isinstance(draft, Artifact)
        assert not found.folder.exists()
        assert found.path.is_dir()
        assert not list(b.root.glob(".partial/*/*"))

    def test_what_is_not_there_is_not_found(self, machine: Callable[[str], Store]) -> None:
        assert machine("a").find("toy", "f1") is None
        assert machine("a").find_now("toy", "f1") is None

    def test_machines_that_start_together_make_each_artifact_once(self, machine: Callable[..., Store]) -> None:
        made: list[str] = []

        def work(name: str) -> None:
            store = machine(name, LONG_PATIENCE)
            for number in range(4):
                with store.draft("toy", f"f{number}", {}) as draft:
                    if isinstance(draft, Draft):
                        made.append(f"f{number}")
                        time.sleep(0.1)
                        fill(draft, {"data.txt": b"made"})

        threads = [threading.Thread(target=work, args=(name,)) for name in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(made) == ["f0", "f1", "f2", "f3"]
        shared = machine("d").shared
        assert shared is not None
        assert len(shared.listing()) == 4
        assert not shared.remote.listing("leases")

    def test_of_two_that_publish_the_same_the_first_wins_and_the_second_takes_it(self, machine: Callable[[str], Store]) -> None:
        a, b = machine("a"), machine("b")
        with b.draft("toy", "f1", {}) as slow:
            assert isinstance(slow, Draft)
            assert b.shared is not None
            b.shared.leases.remove(b.shared.leases._held)  # given up by the others
            publish(a, files={"data.txt": b"first"})
            taken = fill(slow, {"data.txt": b"second"})
        assert taken.reused
        assert taken.file("data.txt").read_bytes() == b"first"
        found = b.find("toy", "f1")
        assert found is not None
        assert found.file("data.txt").read_bytes() == b"first"
        assert len(b.shared.remote.listing("files")) == 1


class TestWhatIsBroken:
    def test_an_upload_that_was_broken_off_is_invisible(self, machine: Callable[[str], Store], tmp_path: Path) -> None:
        a, b = machine("a"), machine("b")
        (tmp_path / "half").write_bytes(b"half")
        assert a.shared is not None
        a.shared.remote.upload({"files/toy/f1.broken/data.txt": tmp_path / "half"})
        assert (b.find("toy", "f1"), b.find_now("toy", "f1")) == (None, None)
        publish(a)
        found = b.find_now("toy", "f1")
        assert found is not None
        assert found.file("data.txt").read_bytes() == b"hello"

    @pytest.mark.parametrize("damage", ["changed", "truncated", "removed"])
    def test_a_damaged_file_is_told_and_its_artifact_is_made_again(self, machine: Callable[[str], Store], damage: str) -> None:
        a, b = machine("a"), machine("b")
        publish(a)
        assert a.shared is not None
        key = remote_key(a, "data.txt")
        if damage == "removed":
            a.shared.remote.remove([key])
        else:
            a.shared.remote.write(key, b"hullo" if damage == "changed" else b"hell")
        found = b.find("toy", "f1")
        assert found is not None
        with pytest.raises(DamagedArtifact, match=r"toy artifact f1 as it was published, found .*taken out of the shared store.*computed again"):
            found.file("data.txt")
        assert not found.folder.exists()
        assert (b.find("toy", "f1"), b.find_now("toy", "f1")) == (None, None)
        assert publish(b).file("data.txt").read_bytes() == b"hello"
        again = machine("c").find("toy", "f1")
        assert again is not None
        assert again.file("data.txt").read_bytes() == b"hello"

    def test_an_artifact_that_was_replaced_since_it_was_found_is_not_mixed(self, machine: Callable[[str], Store]) -> None:
        a, b = machine("a"), machine("b")
        publish(a, files={"data.txt": b"first"})
        found = b.find("toy", "f1")
        assert found is not None
        assert a.shared is not None
        published = a.shared.ask("toy", "f1")
        assert published is not None
        a.shared.condemn(published)
        publish(machine("c"), files={"data.txt": b"other"})
        with pytest.raises(DamagedArtifact, match="replaced since"):
            found.file("data.txt")
        now = b.find_now("toy", "f1")
        assert now is not None
        assert now.file("data.txt").read_bytes() == b"other"

    def test_a_manifest_that_cannot_be_read_counts_as_none(self, machine: Callable[[str], Store]) -> None:
        a, b = machine("a"), machine("b")
        publish(a)
        assert a.shared is not None
        a.shared.remote.write("manifests/toy/f1.json", b"{")
        assert b.find("toy", "f1") is None
        assert b.find_now("toy", "f1") is None

    @pytest.mark.parametrize("content", ["[]", '{"version": 1}', '{"version": VERSION, "upload": null, "manifest": []}', "a folder"])
    def test_a_remembered_manifest_that_cannot_be_read_is_asked_for_again(self, machine: Callable[..., Store], content: str) -> None:
        publish(machine("a"))
        b = machine("b")
        assert b.find("toy", "f1") is not None
        remembered = b.remembered / "toy" / "f1.json"
        version = json.dumps(json.loads(remembered.read_text())["version"])
        remembered.unlink()
        if content == "a folder":
            remembered.mkdir()
        else:
            remembered.write_text(content.replace("VERSION", version))
        found = machine("b").find("toy", "f1")
        assert found is not None
        assert found.file("data.txt").read_bytes() == b"hello"

    def test_a_changed_byte_at_home_is_fetched_anew(self, machine: Callable[[str], Store]) -> None:
        a = machine("a")
        made = publish(a)
        made.file("data.txt")
        time.sleep(0.01)
        (made.folder / "data.txt").write_text("hullo")
        with pytest.raises(DamagedArtifact):
            made.file("data.txt")
        found = a.find("toy", "f1")
        assert found is not None
        assert found.file("data.txt").read_bytes() == b"hello"


def test_presence_of_many_artifacts_costs_one_listing_and_each_manifest_once(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.point(monkeypatch)
    url = f"s3://{s3.bucket}/many"
    a = Store(tmp_path / "a", SharedStore(url))
    for number in range(40):
        publish(a, f"f{number}", {"data.txt": b"x"})

    def asked(store: Store, fingerprints: int) -> tuple[int, int]:
        """(listings, all requests) of looking for so many artifacts."""
        before = len(s3.requests())
        for number in range(fingerprints):
            store.find("toy", f"f{number}")
        new = s3.requests()[before:]
        return sum("list-type" in request for request in new), len(new)

    first = Store(tmp_path / "b", SharedStore(url))
    assert asked(first, 1_000) == (1, 1 + 2 * 40)  # s3fs asks for a file's size before its bytes
    assert asked(first, 1_000) == (0, 0)
    assert asked(Store(tmp_path / "b", SharedStore(url)), 1_000) == (1, 1)
    assert asked(a, 40) == (0, 0)


def test_the_probe_making_fetching_and_waiting_cost_what_the_page_says(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    s3.point(monkeypatch)
    monkeypatch.setattr(leases, "BEATS_PER_PATIENCE", 0.01)  # no heartbeat falls into what is counted
    url = f"s3://{s3.bucket}/counted"
    a, b, waiting = (Store(tmp_path / name, SharedStore(url, patience)) for name, patience in (("a", 60), ("b", 60), ("c", 1)))
    assert a.shared is not None
    assert waiting.shared is not None

    def asked(question: Callable[..., object], *arguments: object) -> list[str]:
        before = len(s3.requests())
        question(*arguments)
        return s3.requests()[before:]

    assert len(asked(a.shared.check)) == 6
    for count in (1, 4):
        name = f"f{count}"
        assert len(asked(publish, a, name, {f"{number}": b"x" for number in range(count)})) == 14 + count
        found = b.find_now("toy", name)
        assert found is not None
        assert len(asked(b.bring, found)) == 2 + count
        assert not asked(b.bring, found)
    a.shared.remote.create("leases/toy/waited.1", b"nobody")

    def wait() -> None:
        with waiting.shared.leases.hold("toy", "waited"):
            pass

    requests = asked(wait)
    looks = sum(request.startswith("HEAD") and request.endswith("heartbeats/nobody") for request in requests)
    assert looks > 1
    assert len(requests) == 5 * looks + 5


def test_nothing_of_the_address_enters_a_manifest(machine: Callable[[str], Store], url: str) -> None:
    made = publish(machine("a"))
    assert url not in json.dumps(made.manifest)
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", "nothing") not in (made.folder / "manifest.json").read_text()

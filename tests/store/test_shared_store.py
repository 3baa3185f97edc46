"""A store that several machines share, on an S3 server and in a folder: published whole, once, and never read torn or damaged."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from s3_server import S3Server

from sae_pipeline.errors import BadInput, DamagedArtifact, SharedStoreError, StorageError
from sae_pipeline.store import Artifact, Draft, Store, leases
from sae_pipeline.store.leases import Leases
from sae_pipeline.store.remote import Remote, without_secrets
from sae_pipeline.store.shared import SharedStore

PATIENCE = 1.5
LONG_PATIENCE = 8.0
"""Seconds where a living holder must not be given up, however slow the machine."""
FILES = {"data.txt": b"hello", "empty": b"", "deep/er/large.bin": bytes(range(256)) * 12_000}

# A machine of its own: takes the draft, says so, waits for a line, fills it and says what it came to.
OTHER_MACHINE = """
import sys
from pathlib import Path
from sae_pipeline.store import Artifact, Store
from sae_pipeline.store.shared import SharedStore
with Store(Path(sys.argv[1]), SharedStore(sys.argv[2], float(sys.argv[3]))).draft("toy", "f1", {}) as draft:
    print("taken", flush=True)
    sys.stdin.readline()
    (draft.path / "data.txt").write_text("late")
    print(draft.publish({}).file("data.txt").read_text(), flush=True)
"""


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    server = S3Server(tmp_path_factory.mktemp("s3") / "log")
    server.start()
    yield server
    server.stop()


@pytest.fixture(params=["folder", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of an empty store."""
    if request.param == "folder":
        (tmp_path / "shared").mkdir()
        return (tmp_path / "shared").as_uri()
    server: S3Server = request.getfixturevalue("s3")
    server.point(monkeypatch)
    return f"s3://{server.bucket}/{tmp_path.name}"


@pytest.fixture
def machine(url: str, tmp_path: Path) -> Callable[..., Store]:
    """A machine's store by the machine's name; twice the same name is a second process on one home."""
    return lambda name, patience=PATIENCE: Store(tmp_path / name, SharedStore(url, patience))


def publish(store: Store, fingerprint: str = "f1", files: dict[str, bytes] = FILES) -> Artifact:
    with store.draft("toy", fingerprint, {"of": fingerprint}) as draft:
        assert isinstance(draft, Draft)
        return fill(draft, files)


def fill(draft: Draft, files: dict[str, bytes] = FILES) -> Artifact:
    for name, content in files.items():
        (draft.path / name).parent.mkdir(parents=True, exist_ok=True)
        (draft.path / name).write_bytes(content)
    return draft.publish({"files": len(files)})


def remote_key(store: Store, name: str, fingerprint: str = "f1") -> str:
    assert store.shared is not None
    found = store.shared.ask("toy", fingerprint)
    assert found is not None
    return found.keys[name]


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


class TestAMachineThatStops:
    def start(self, tmp_path: Path, url: str, patience: float = PATIENCE) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", OTHER_MACHINE, str(tmp_path / "other"), url, str(patience)]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        return process

    def test_work_of_a_killed_machine_is_taken_over(self, machine: Callable[[str], Store], tmp_path: Path, url: str) -> None:
        process = self.start(tmp_path, url)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        publish(machine("a"), files={"data.txt": b"mine"})
        shared = machine("a").shared
        assert shared is not None
        assert not shared.remote.listing("leases")

    @pytest.mark.slow
    def test_a_machine_that_lives_is_waited_for_however_long_it_takes(self, machine: Callable[..., Store], tmp_path: Path, url: str) -> None:
        process = self.start(tmp_path, url, LONG_PATIENCE)
        threading.Timer(1.5 * LONG_PATIENCE, lambda: process.stdin.write("go\n") and process.stdin.flush()).start()  # type: ignore[union-attr]
        with machine("a", LONG_PATIENCE).draft("toy", "f1", {}) as draft:
            assert isinstance(draft, Artifact)
            assert draft.file("data.txt").read_text() == "late"
        assert process.communicate()[0] == "late\n"

    def test_a_machine_that_was_given_up_and_comes_back_does_no_harm(self, machine: Callable[[str], Store], tmp_path: Path, url: str) -> None:
        process = self.start(tmp_path, url)
        process.send_signal(signal.SIGSTOP)
        publish(machine("a"), files={"data.txt": b"mine"})
        process.send_signal(signal.SIGCONT)
        assert process.communicate("go\n")[0] == "mine\n"
        assert process.returncode == 0
        found = machine("b").find("toy", "f1")
        assert found is not None
        assert found.file("data.txt").read_bytes() == b"mine"


class TestLeases:
    @pytest.fixture
    def machine(self, tmp_path: Path) -> Callable[..., Leases]:
        """The leases of a new machine."""
        (tmp_path / "shared").mkdir()
        return lambda patience=LONG_PATIENCE: Leases(Remote((tmp_path / "shared").as_uri(), patience), patience)

    def test_one_that_comes_back_leaves_what_another_holds_by_then(self, machine: Callable[..., Leases], tmp_path: Path) -> None:
        late, other = machine(), machine()
        lease = tmp_path / "shared" / "leases" / "toy" / "f1.1"
        with ExitStack() as held:
            with late.hold("toy", "f1"):
                other.remove(late._held)  # given up: taken over, finished, removed, and taken anew
                held.enter_context(other.hold("toy", "f1"))
                content = lease.read_bytes()
            assert lease.read_bytes() == content
        assert not lease.exists()

    def test_without_waiting_it_is_left_to_the_living_and_taken_from_the_dead(self, machine: Callable[..., Leases], tmp_path: Path) -> None:
        folder = tmp_path / "shared" / "leases" / "toy"
        with machine().hold("toy", "f1"), machine().hold("toy", "f1", wait=False):
            assert [path.name for path in folder.iterdir()] == ["f1.1"]
        (folder / "f2.1").write_text("nobody")
        with machine(0.5).hold("toy", "f2", wait=False):
            assert sorted(path.name for path in folder.iterdir()) == ["f2.1", "f2.2"]
        assert not list(folder.iterdir())


class TestAMachineThatCannotTakeWhatComes:
    """Nothing is wrong with the store: it is told as what it is, at once, and the shared copy stays."""

    @pytest.mark.parametrize(
        ("url", "fault", "told"),
        [
            ("folder", "full", "the disk full"),
            ("s3", "full", "the disk full"),
            ("folder", "refused", "a folder that can be written"),
            ("s3", "refused", "a folder that can be written"),
            ("folder", "removed", "a folder that can be written"),
            ("s3", "files", "ulimit"),
        ],
        indirect=["url"],
    )
    def test_its_fault_is_no_fault_of_the_stores(self, machine: Callable[..., Store], fault: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
        publish(machine("a"))
        b = machine("b", 60)
        found = b.find("toy", "f1")
        assert found is not None
        assert b.shared is not None
        files = b.shared.remote._fs
        get, asked = files.get, 0

        def hindered(keys: list[str], targets: list[str]) -> None:
            nonlocal asked
            asked += 1
            if fault == "full":
                for target in targets:
                    Path(target).symlink_to("/dev/full")
            elif fault == "removed":
                shutil.rmtree(b.root / ".partial" / "toy" / "f1.fetch")
            else:
                number = errno.EMFILE if fault == "files" else errno.EACCES
                raise OSError(number, os.strerror(number), targets[0])
            get(keys, targets)

        with monkeypatch.context() as patched:
            patched.setattr(files, "get", hindered)
            with pytest.raises(StorageError, match=told) as failure:
                found.file("data.txt")
        assert not isinstance(failure.value, (SharedStoreError, DamagedArtifact))
        assert (asked, b.shared.remote._gone) == (1, False)
        assert not list(b.root.glob(".partial/toy/*"))
        assert {name: found.file(name).read_bytes() for name in FILES} == FILES


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


class TestAStoreThatCannotBeUsed:
    @pytest.mark.slow
    def test_while_the_server_is_gone_finished_work_is_kept_and_it_is_uploaded_later(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = S3Server(tmp_path / "log")
        server.point(monkeypatch)
        server.start()
        try:
            a = Store(tmp_path / "a", SharedStore(f"s3://{server.bucket}/sae", PATIENCE))
            with a.draft("toy", "f1", {}) as draft:
                assert isinstance(draft, Draft)
                server.stop()
                made = fill(draft)
            assert made.file("data.txt").read_bytes() == b"hello"
            with pytest.raises(
                SharedStoreError, match=r"expected to read and write s3://lab/sae, found: EndpointConnectionError.*finished work is kept"
            ):
                a.find_now("toy", "f2")
            assert a.find_now("toy", "f1") is not None
            server.start()
            a.share(made)
            found = Store(tmp_path / "b", SharedStore(f"s3://{server.bucket}/sae", PATIENCE)).find("toy", "f1")
            assert found is not None
            assert found.file("data.txt").read_bytes() == b"hello"
        finally:
            server.stop()

    def test_a_server_that_comes_back_in_time_is_waited_for(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = S3Server(tmp_path / "log")
        server.point(monkeypatch)
        starting = threading.Thread(target=server.start)
        a = Store(tmp_path / "a", SharedStore(f"s3://{server.bucket}/sae", patience=60))
        starting.start()
        try:
            assert a.find_now("toy", "f1") is None
        finally:
            starting.join()
            server.stop()

    def test_a_server_that_ignores_exclusive_creation_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        server = S3Server(tmp_path / "log", ignores_conditions=True)
        server.point(monkeypatch)
        server.start()
        try:
            with pytest.raises(SharedStoreError, match=r"`If-None-Match: \*`.*s3://lab/sae lets both.*not shared"):
                SharedStore(f"s3://{server.bucket}/sae").check()
        finally:
            server.stop()

    def test_a_folder_that_is_not_mounted_is_refused_and_not_made(self, tmp_path: Path) -> None:
        with pytest.raises(SharedStoreError, match="no such folder"):
            SharedStore(str(tmp_path / "away")).check()
        assert not (tmp_path / "away").exists()

    def test_a_bucket_that_does_not_exist_is_told(self, s3: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
        s3.point(monkeypatch)
        with pytest.raises(SharedStoreError, match=r"s3://nowhere/sae, found: FileNotFoundError: The specified bucket does not exist"):
            SharedStore("s3://nowhere/sae").check()

    def test_an_address_that_nothing_can_open_is_bad_input(self) -> None:
        with pytest.raises(BadInput, match="SAE_STORE: expected a URL that fsspec can open"):
            SharedStore("carrier-pigeon://loft")

    @pytest.mark.parametrize("address", ["shared", "./shared", "file://shared", "file:shared"])
    def test_a_folder_that_depends_on_where_a_process_starts_is_refused(self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        (tmp_path / "shared").mkdir()
        with pytest.raises(BadInput, match=r"SAE_STORE: expected a folder from the root on, found .*shared.*write file:///.*/shared if"):
            SharedStore(address)
        SharedStore(str(tmp_path / "shared")).check()

    @pytest.mark.parametrize("address", ["s3://key:hidden@lab/sae", "simplecache::s3://key:hidden@lab/sae", "https://:hidden@lab/sae"])
    def test_an_address_with_a_password_is_refused(self, address: str) -> None:
        with pytest.raises(BadInput, match=r"SAE_STORE: expected an address without a password.*AWS_ACCESS_KEY_ID") as refused:
            SharedStore(address)
        assert "hidden" not in str(refused.value)

    def test_its_own_time_is_told_and_nothing_is_left_behind(self, url: str) -> None:
        shared = SharedStore(url)
        assert abs(shared.check() - time.time()) < 60
        assert not shared.remote.listing("")


def test_no_message_shows_what_is_secret_in_an_address(tmp_path: Path) -> None:
    assert without_secrets("https://key:pass@host/bucket?token=abc") == "https://host/bucket"
    assert without_secrets('cannot reach "s3://me:p%40ss@lab/x?sig=1": refused') == 'cannot reach "s3://lab/x": refused'
    with pytest.raises(BadInput) as refused:
        SharedStore("carrier-pigeon://loft?token=hidden")
    assert "hidden" not in str(refused.value)


def test_nothing_of_the_address_enters_a_manifest(machine: Callable[[str], Store], url: str) -> None:
    made = publish(machine("a"))
    assert url not in json.dumps(made.manifest)
    assert os.environ.get("AWS_SECRET_ACCESS_KEY", "nothing") not in (made.folder / "manifest.json").read_text()

"""A shared store that cannot be used, and a machine that cannot take what it holds: each told in one sentence, without what is secret."""

from __future__ import annotations

import errno
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from s3_server import S3Server
from shared_machines import FILES, PATIENCE, fill, publish

from sae_pipeline.errors import BadInput, DamagedArtifact, SharedStoreError, StorageError
from sae_pipeline.safety.text import PASSWORD, without_secrets
from sae_pipeline.store import Draft, Store
from sae_pipeline.store.remote import Remote
from sae_pipeline.store.shared import SharedStore


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

    @pytest.mark.parametrize(
        "address",
        [
            *("s3://key:hidden@lab/sae", "simplecache::s3://key:hidden@lab/sae", "https://:hidden@lab/sae", "sftp://me@lab:hidden@lab/sae"),
            *("s3://me:hid/hidden@lab/x", "s3://me:hidden?/hidden@lab/x", "https://:hidden/hidden@lab/sae"),
        ],
    )
    def test_an_address_with_a_password_is_refused(self, address: str) -> None:
        with pytest.raises(BadInput, match=r"SAE_STORE: expected an address without a password.*AWS_ACCESS_KEY_ID") as refused:
            SharedStore(address)
        assert "hidden" not in str(refused.value)

    @pytest.mark.parametrize("address", ["s3://lab/a:b@c", "file:///mnt/a:b@c"])
    def test_a_folder_with_such_signs_in_its_name_is_none(self, address: str) -> None:
        assert PASSWORD.search(address) is None

    def test_its_own_time_is_told_and_nothing_is_left_behind(self, url: str) -> None:
        shared = SharedStore(url)
        assert abs(shared.check() - time.time()) < 60
        assert not shared.remote.listing("")


def test_removing_what_is_gone_already_is_no_error_and_the_others_go(monkeypatch: pytest.MonkeyPatch) -> None:
    from fsspec import AbstractFileSystem
    from fsspec.implementations.memory import MemoryFileSystem

    monkeypatch.setattr(MemoryFileSystem, "store", {})
    monkeypatch.setattr(MemoryFileSystem, "rm", AbstractFileSystem.rm)  # which stops at the first that is gone
    remote = Remote("memory://store", patience=0)
    for key in ("a", "b"):
        remote.write(key, b"x")
    remote.remove(["a", "gone", "b"])
    assert not remote.listing("")
    remote.remove(["a"])


def test_no_message_shows_what_is_secret_in_an_address(tmp_path: Path) -> None:
    assert without_secrets("https://key:pass@host/bucket?token=abc") == "https://host/bucket"
    assert without_secrets('cannot reach "s3://me:p%40ss@lab/x?sig=1": refused') == 'cannot reach "s3://lab/x": refused'
    with pytest.raises(BadInput) as refused:
        SharedStore("carrier-pigeon://loft?token=hidden")
    assert "hidden" not in str(refused.value)

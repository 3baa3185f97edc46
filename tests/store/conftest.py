"""Machines that share a store, in a folder and on an S3 server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from s3_server import S3Server
from shared_machines import PATIENCE
from small_study import SmallStudy

from sae_pipeline.stages import subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Store
from sae_pipeline.store.shared import SharedStore
from sae_pipeline.study import load_study


@pytest.fixture(scope="session")
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


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the shared store, which the environment names; the home is ``a``."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv("SAE_STORE", (tmp_path / "shared").as_uri())
    monkeypatch.setenv("SAE_LEASE_SECONDS", "1")
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "a"))
    return tmp_path / "shared"


@pytest.fixture
def ctx(folder: Path, small_study: SmallStudy) -> StudyContext:
    """The study with its subject prepared and shared, and beside it an artifact that it does not reach."""
    ctx = StudyContext.open(load_study(small_study.write()))
    subject.prepare(ctx)
    with ctx.store.draft("toy", "other", {}) as draft:
        (draft.path / "data.bin").write_bytes(b"x" * 1_000)
        draft.publish({})
    return ctx

"""Cleaning up beside what a study streams from a hub, and beside what other processes are doing."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sae_pipeline.compute import Compute
from sae_pipeline.stages import cleaning, reachable, sources
from sae_pipeline.stages.cleaning import reclaim
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, Home, exclusive
from sae_pipeline.study import Study

COMMIT = "c0ffee" + "0" * 34


def test_a_spool_stays_as_long_as_a_named_study_reads_it(tmp_path: Path, small_study_data: dict[str, Any]) -> None:
    streamed = small_study_data["sources"] | {"notes": {"kind": "huggingface", "dataset": "lab/notes", "revision": COMMIT}}
    home = Home(tmp_path)
    with_notes, without = (
        StudyContext(Study.model_validate(small_study_data | {"sources": declared}), home, Compute("cpu", None, home.locks))
        for declared in (streamed, small_study_data["sources"])
    )
    [spool] = sources.spools(with_notes)
    spool.mkdir(parents=True)
    (spool / "part-00000.parquet").write_bytes(b"text")
    assert reclaim([with_notes, without]) == []
    assert spool.exists()
    [gone] = reclaim([without])
    assert (gone.stage, gone.bytes) == ("spool", 4)
    assert not spool.exists()


@pytest.fixture
def ctx(tmp_path: Path, small_study_data: dict[str, Any]) -> StudyContext:
    """The small study, of which nothing has been computed."""
    home = Home(tmp_path / "home")
    return StudyContext(Study.model_validate(small_study_data), home, Compute("cpu", None, home.locks))


def before_it_goes(monkeypatch: pytest.MonkeyPatch, act: Callable[[Path], object]) -> None:
    """Have another process act after cleaning up saw that nobody holds a folder, and before it holds that itself."""
    genuine = cleaning.stored_bytes

    def measured(folder: Path) -> int:
        size = genuine(folder)
        act(folder)
        return size

    monkeypatch.setattr(cleaning, "stored_bytes", measured)


def test_a_draft_that_another_process_takes_up_and_publishes_stays(ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = ctx.store.root / ".partial" / "toy" / ("0" * 24)
    draft.mkdir(parents=True)
    holds = threading.Event()

    def other() -> None:
        with exclusive(draft.with_suffix(".lock"), keep=False):
            holds.set()
            time.sleep(0.5)  # cleaning up waits for the lock by then
            os.renames(draft, ctx.store.folder("toy", draft.name))

    thread = threading.Thread(target=other)
    before_it_goes(monkeypatch, lambda _: (thread.start(), holds.wait()))
    assert reclaim([ctx]) == []
    thread.join()
    assert ctx.store.folder("toy", draft.name).is_dir()
    assert not list(ctx.store.root.rglob("*.lock"))


def test_a_draft_that_another_process_carried_on_stays(ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    draft = ctx.store.root / ".partial" / "toy" / ("0" * 24)
    draft.mkdir(parents=True)
    before_it_goes(monkeypatch, lambda folder: (folder / "checkpoint").write_bytes(b"further"))
    assert reclaim([ctx]) == []
    assert (draft / "checkpoint").exists()
    monkeypatch.undo()
    assert [item.bytes for item in reclaim([ctx])] == [7]
    assert not draft.exists()
    assert not list(ctx.store.root.rglob("*.lock"))


def test_what_is_published_while_it_looks_stays(ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could have known that the study would come to need it."""
    genuine = reachable.asked_for

    def asked_for(ctx: StudyContext) -> dict[reachable.Address, bool]:
        asked = genuine(ctx)
        with ctx.store.draft("toy", "0" * 24, {}) as draft:
            assert not isinstance(draft, Artifact)
            draft.publish({})
        return asked

    monkeypatch.setattr(reachable, "asked_for", asked_for)
    assert reclaim([ctx]) == []
    monkeypatch.undo()
    assert [item.stage for item in reclaim([ctx])] == ["toy"]


def test_a_published_artifact_goes_in_one_step(ctx: StudyContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who read half of it would take it for damaged."""
    with ctx.store.draft("toy", "0" * 24, {}) as draft:
        assert not isinstance(draft, Artifact)
        (draft.path / "data.bin").write_bytes(b"x")
        made = draft.publish({})
    remove, seen = shutil.rmtree, []

    def watched(path: Path, *arguments: Any, **options: Any) -> None:
        seen.append(made.folder.exists())
        remove(path, *arguments, **options)

    monkeypatch.setattr(shutil, "rmtree", watched)
    assert [item.stage for item in reclaim([ctx])] == ["toy"]
    assert seen == [False]
    assert [path for path in ctx.store.root.rglob("*") if path.is_file()] == []

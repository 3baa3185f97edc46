"""Forgetting old runs: those of this home only, where several homes share one event log, and last of all that cleaning up does."""

from __future__ import annotations

import json
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from small_study import SmallStudy
from sqlalchemy.exc import OperationalError
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.errors import BadInput, StorageError
from sae_pipeline.launcher import forgetting
from sae_pipeline.launcher.forgetting import forget_runs
from sae_pipeline.launcher.instance import HOME_TAG, LAUNCHER_TAG, dead_runs, living, open_instance
from sae_pipeline.store import Home


def add_run(instance: dg.DagsterInstance, tags: dict[str, str], status: dg.DagsterRunStatus = dg.DagsterRunStatus.SUCCESS) -> str:
    run = dg.DagsterRun(job_name="toy", status=status, tags=tags)
    instance.add_run(run)
    return run.run_id


def test_in_a_homes_own_files_runs_without_a_name_are_its_own_and_those_of_another_home_stay(tmp_path: Path) -> None:
    home = Home(tmp_path)
    instance = open_instance(home)
    with living(instance, home) as tags:
        of_this, without_a_name = add_run(instance, tags), add_run(instance, {})
    of_another = add_run(instance, tags | {HOME_TAG: "another home"})
    assert forget_runs(instance, home, dry_run=True) == 0, "they are new"
    assert forget_runs(instance, home, older_than=timedelta(), dry_run=True) == 2
    assert forget_runs(instance, home, older_than=timedelta()) == 2
    assert [run.run_id for run in instance.get_runs()] == [of_another]
    assert not instance.has_run(of_this)
    assert not instance.has_run(without_a_name)


def test_on_an_event_log_that_homes_may_share_runs_without_a_name_stay(tmp_path: Path) -> None:
    """The UI, schedules and backfills name no home; an event log in memory stands for a server."""
    home = Home(tmp_path)
    open_instance(home)  # gives the home its name
    with dg.DagsterInstance.ephemeral() as server, living(server, home) as tags:
        of_this, of_some_ui = add_run(server, tags), add_run(server, {"dagster/schedule_name": "nightly"})
        dead = {LAUNCHER_TAG: "gone"}
        add_run(server, dead, dg.DagsterRunStatus.STARTED)
        dead_here = add_run(server, dead | {HOME_TAG: tags[HOME_TAG]}, dg.DagsterRunStatus.STARTED)
        assert [run.run_id for run in dead_runs(server, home)] == [dead_here]
        assert forget_runs(server, home, older_than=timedelta()) == 1
        assert not server.has_run(of_this)
        assert server.has_run(of_some_ui)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with an artifact that no study needs."""
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("SAE_STORE", raising=False)
    home = Home(tmp_path / "home")
    with home.store.draft("toy", "other", {}) as draft:
        (draft.path / "data.bin").write_bytes(bytes(1_000))
        draft.publish({})
    return home


@pytest.mark.parametrize("fails", ["reading", "opening"])
def test_a_failing_event_log_is_one_sentence_after_the_disk_has_been_freed(
    home: Home, small_study: SmallStudy, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise OperationalError("INSERT", {}, sqlite3.OperationalError("database or disk is full"))

    if fails == "reading":
        monkeypatch.setattr(forgetting, "_latest", full)
    else:
        monkeypatch.setattr(dg.DagsterInstance, "from_ref", full)
    result = CliRunner().invoke(app, ["gc", small_study.write()])
    assert isinstance(result.exception, StorageError), result.exception
    assert "expected an event log that can be read and written, found: database or disk is full" in str(result.exception)
    assert "in 1 folders" in result.stdout
    assert not home.store.folder("toy", "other").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--shared"], "--shared: expected SAE_STORE to name the store"),
        (["--recent"], "--recent: expected --shared beside it, found it alone; add --shared"),
    ],
)
def test_options_that_cannot_be_followed_are_refused_before_anything_goes(
    home: Home, small_study: SmallStudy, options: list[str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = open_instance(home)
    old = add_run(instance, {})
    monkeypatch.setitem(forget_runs.__kwdefaults__, "older_than", timedelta())
    result = CliRunner().invoke(app, ["gc", small_study.write(), *options])
    assert isinstance(result.exception, BadInput), result.output
    assert words in str(result.exception)
    assert instance.has_run(old)
    assert home.store.folder("toy", "other").exists()
    result = CliRunner().invoke(app, ["gc", small_study.write(), "--json"])
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    assert (answer["runs"], [item["fingerprint"] for item in answer["removed"]]) == (1, ["other"])
    assert not instance.has_run(old)

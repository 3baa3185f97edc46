"""Dagster's event log on a real PostgreSQL server: the same runs, nothing twice, no password anywhere, and one sentence when the server is gone."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from executor_runs import finish, run, start, weights
from postgres_server import PASSWORD, Postgres
from small_study import SmallStudy

from sae_pipeline.errors import BadInput
from sae_pipeline.launcher.doctor import examine
from sae_pipeline.launcher.instance import dead_runs, open_instance, unfinished
from sae_pipeline.store import Home

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    running = Postgres()
    yield running
    running.remove()


@pytest.fixture
def study(small_study: SmallStudy) -> str:
    """One SAE on one mix."""
    return small_study.write(tiny)


def tiny(data: dict[str, Any]) -> None:
    """One SAE on one mix, and one evaluation set."""
    data["mixes"] = {"MORE": data["mixes"]["MORE"]}
    data["held_out"].pop("recipes")
    data["activations"]["layers"] = [1]
    data["saes"] |= {"expansions": [2], "arms": [{"architecture": "topk", "k": 4}]}


def files_with(text: str, folder: Path) -> list[Path]:
    """Files under the folder that hold the text."""
    return [path for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_a_study_runs_once_and_no_file_holds_the_password(study: str, tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    answer, said = finish(start(study, home, SAE_POSTGRES_URL=server.url))
    assert answer["failed"] == 0, said
    assert answer["computed"] > 0
    assert len(weights(home)) == 1
    again, more = finish(start(study, home, SAE_POSTGRES_URL=server.url))
    assert (again["launched"], again["computed"], again["failed"]) == (0, 0, 0)
    assert not list((home / "dagster").rglob("*.db"))
    assert files_with(PASSWORD, home) == []
    assert PASSWORD not in said + more
    monkeypatch.setenv("SAE_POSTGRES_URL", server.url)
    found = [diagnosis for diagnosis in examine(Home(home)) if diagnosis.check in ("event log", "runs")]
    assert found
    assert all(diagnosis.healthy for diagnosis in found), found
    assert PASSWORD not in "".join(diagnosis.found for diagnosis in found)


def test_a_killed_run_is_ended_by_the_next_of_its_home_and_of_no_other(
    study: str, tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SAE_POSTGRES_URL", server.url)
    home, other = Home(tmp_path / "home"), Home(tmp_path / "other")
    instance = open_instance(home)
    process = start(study, home.root, SAE_POSTGRES_URL=server.url)
    deadline = time.monotonic() + 240
    while not unfinished(instance):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert dead_runs(open_instance(other), other) == []
    assert len(dead_runs(instance, home)) == 1
    assert run(study, home.root, SAE_POSTGRES_URL=server.url)["computed"] > 0
    assert unfinished(instance) == []


def test_a_server_that_stops_under_way_is_one_sentence_and_the_next_run_goes_on(study: str, tmp_path: Path, server: Postgres) -> None:
    home = tmp_path / "home"
    process = start(study, home, SAE_POSTGRES_URL=server.url)
    deadline = time.monotonic() + 240
    while not list((home / "store").glob("corpus/*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    server.stop()
    try:
        _, said = finish(process, code=1)
    finally:
        server.start()
    sentences = [line for line in said.splitlines() if "expected" in line]
    assert len(sentences) == 1
    assert sentences[0].startswith("the PostgreSQL server of SAE_POSTGRES_URL: expected an event log that can be read and written, found: ")
    assert PASSWORD not in said
    assert run(study, home, SAE_POSTGRES_URL=server.url)["computed"] > 0
    assert run(study, home, SAE_POSTGRES_URL=server.url)["launched"] == 0


def test_two_launchers_at_once_compute_everything_once(study: str, tmp_path: Path, server: Postgres) -> None:
    home = tmp_path / "home"
    both = [start(study, home, SAE_POSTGRES_URL=server.url) for _ in range(2)]
    answers = [finish(process) for process in both]
    assert all(answer["failed"] == 0 for answer, _ in answers), answers
    alone = run(study, tmp_path / "alone", SAE_POSTGRES_URL=server.url)
    assert sum(answer["computed"] for answer, _ in answers) == alone["computed"]
    assert weights(home) == weights(tmp_path / "alone")


def test_a_home_and_the_environment_that_disagree_are_one_sentence(tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SAE_POSTGRES_URL", raising=False)
    in_files, in_postgres = Home(tmp_path / "files"), Home(tmp_path / "postgres")
    open_instance(in_files)
    monkeypatch.setenv("SAE_POSTGRES_URL", server.url)
    with pytest.raises(
        BadInput, match=r"SAE_POSTGRES_URL is set, but .*files/dagster/dagster\.yaml keeps this home's event log in files: unset it, or move"
    ):
        open_instance(in_files)
    open_instance(in_postgres)
    for wrong in ("mysql://me:Sesame@host/db", "postgresql://me:Sesame@host:port/db"):
        monkeypatch.setenv("SAE_POSTGRES_URL", wrong)
        with pytest.raises(BadInput, match="SAE_POSTGRES_URL: expected an address") as refused:
            open_instance(in_postgres)
        assert "Sesame" not in str(refused.value)
    monkeypatch.delenv("SAE_POSTGRES_URL")
    with pytest.raises(BadInput, match=r"dagster\.yaml: expected SAE_POSTGRES_URL to name the PostgreSQL server .* found it unset; set it"):
        open_instance(in_postgres)

"""The sensor that looks whether outside text changed: files that grew, and a branch of the hub that moved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from small_study import SmallStudy, toy_documents

from assets import study_definitions
from sae_pipeline.corpora.sources import hub
from sae_pipeline.launcher import open_instance
from sae_pipeline.store import Home
from sae_pipeline.study import load_study

Tick = Callable[[], list[str]]


@pytest.fixture
def branch(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """``branch["at"]`` is the commit that the hub names when it is asked for a branch."""
    at = {"at": "a" * 40}
    monkeypatch.setattr(hub.HubDataset, "_asked_commit", lambda source: at["at"])
    return at


@pytest.fixture
def watched(small_study: SmallStudy, tmp_path: Path) -> Path:
    """A study file that has its letters from a file and its stories from the hub, and watches both; the file of letters."""
    letters = tmp_path / "letters.jsonl"
    letters.write_text("".join(json.dumps({"text": text}) + "\n" for text in toy_documents("letters", 20)))

    def outside(data: dict[str, Any]) -> None:
        data["sources"] = {
            "stories": {"kind": "huggingface", "dataset": "someone/stories"},
            "recipes": {"kind": "files", "paths": [str(letters)]},
        }
        data["schedules"] = {"watch_minutes": 1}

    small_study.write(outside)
    return letters


@pytest.fixture
def tick(small_study: SmallStudy, watched: Path, branch: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tick:
    """One tick, as the daemon makes it: the sources whose text it says has changed."""
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "home"))
    definitions = study_definitions(load_study(str(small_study.path)))
    instance = open_instance(Home(tmp_path / "home"))
    sensor = definitions.resolve_sensor_def("watch_sources")

    def evaluate() -> list[str]:
        with dg.build_sensor_context(instance=instance, definitions=definitions, resources=definitions.resources) as context:
            told = sensor.evaluate_tick(context).asset_events
        for event in told:
            instance.report_runless_asset_event(event)
        return [event.asset_key.path[-1] for event in told]

    return evaluate


def test_every_source_is_told_once_and_then_only_what_changed(tick: Tick, watched: Path, branch: dict[str, str]) -> None:
    assert sorted(tick()) == ["recipes", "stories"]
    assert tick() == []
    branch["at"] = "b" * 40
    assert tick() == ["stories"]
    with watched.open("a") as file:
        file.write(json.dumps({"text": "dear friend, one more"}) + "\n")
    assert tick() == ["recipes"]
    assert tick() == []

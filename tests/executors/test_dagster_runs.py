"""A run that Dagster itself launches, as the UI, a schedule or a backfill does, with the executor that the environment asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from executor_runs import run
from small_study import SmallStudy

from sae_pipeline.launcher import open_instance
from sae_pipeline.store import Home

pytestmark = pytest.mark.slow


def one_mix(data: dict[str, Any]) -> None:
    """One mix at one layer."""
    data["mixes"] = {"MORE": data["mixes"]["MORE"]}
    data["activations"]["layers"] = [1]


def contents(home: Home) -> dict[tuple[str, str], str]:
    """Content of every artifact by stage and fingerprint."""
    return {(artifact.stage, artifact.fingerprint): artifact.content for artifact in home.store.artifacts()}


def test_steps_are_processes_of_their_own_and_the_command_line_reuses_what_they_made(small_study: SmallStudy, tmp_path: Path) -> None:
    study, home = small_study.write(one_mix), Home(tmp_path / "home")
    instance = open_instance(home)
    around = {name: value for name, value in os.environ.items() if not name.startswith("SAE_")}
    around |= {"DAGSTER_HOME": str(home.dagster), "SAE_HOME": str(home.root), "SAE_STUDY": study, "SAE_EXECUTOR": "multiprocess", "SAE_WORKERS": "2"}
    chosen = 'key:"toy/subject_model" or key:"toy/MORE/corpus"'
    command = ["-m", "dagster", "asset", "materialize", "--select", chosen, "-m", "sae_pipeline.definitions", "-a", "defs"]
    done = subprocess.run([sys.executable, "-W", "ignore", *command], env=around, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (launched,) = instance.get_runs()
    starts = instance.all_logs(launched.run_id, of_type=dg.DagsterEventType.STEP_START)
    processes = {entry.dagster_event.pid for entry in starts if entry.dagster_event}
    assert len(processes) == 2
    made = contents(home)
    assert {stage for stage, _ in made} >= {"subject", "corpus"}
    answer = run(study, home.root)
    assert not {"toy/subject_model", "toy/MORE/corpus"} & answer["computed_by_asset"].keys()
    assert made.items() <= contents(home).items()

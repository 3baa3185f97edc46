"""Many runs in a row in one process: no growth in memory, open files, threads or leftover files, and a known growth of Dagster's event log."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import soak_runs
from small_study import SmallStudy

pytestmark = [pytest.mark.faults, pytest.mark.release, pytest.mark.timeout(3_600)]

RUNS = 40
SETTLED = RUNS // 4
"""Runs until caches are full: modules, compiled kernels, the subject model, the allocator's own arenas."""
MIB_PER_RUN = 1.0
"""Growth of memory that is still called none. Two soaks showed 0.41 and 0.43, ten MiB in all; a leaked subject model or warehouse is more a run."""
POOL_THREADS = 2
"""Native threads that a library may start late for good; one a run would be thirty."""
LOGGED_BYTES, LOGGED_FILES = 300_000, 5
"""Most that Dagster writes about a run of one asset: the shard of its event log, and what the step printed."""


@pytest.fixture(scope="module")
def answered(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> dict[str, Any]:
    """What the process held after every run, and when old runs were forgotten."""
    folder = tmp_path_factory.mktemp("soak")
    (folder / "tmp").mkdir()
    study = SmallStudy(folder / "toy.yaml", small_study_data)

    def small(data: dict[str, Any]) -> None:
        data["mixes"] = {"MORE": data["mixes"]["MORE"]}
        data["held_out"] = {"stories": data["held_out"]["stories"]}
        data["activations"]["layers"] = [0]
        data["saes"] |= {"expansions": [2], "arms": [{"architecture": "topk", "k": 4, "seeds": [0]}]}

    command = [sys.executable, soak_runs.__file__, study.write(small), str(folder / "home"), str(RUNS)]
    environment = os.environ | {"TMPDIR": str(folder / "tmp"), "PYTHONWARNINGS": "ignore", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    runs = found["runs"]
    print(f"\nafter run {SETTLED + 1}: {runs[SETTLED]}\nafter run {RUNS}: {runs[-1]}\nmemory {slope(runs):+.3f} MiB a run\n{found['forgotten']}")
    for name in ("anonymous_mib", "open_files", "threads"):
        print(f"{name}: {' '.join(f'{row[name]:.0f}' for row in runs)}")
    return found


@pytest.fixture(scope="module")
def soaked(answered: dict[str, Any]) -> list[dict[str, Any]]:
    """What the process held after every run."""
    runs: list[dict[str, Any]] = answered["runs"]
    return runs


def slope(soaked: list[dict[str, Any]]) -> float:
    """Growth of memory per run once settled (MiB), by least squares over all of those runs."""
    memory = [row["anonymous_mib"] for row in soaked[SETTLED:]]
    return float(np.polyfit(np.arange(len(memory)), memory, 1)[0])


def test_every_run_did_its_work(soaked: list[dict[str, Any]]) -> None:
    assert [row["computed"] > 0 for row in soaked] == [number % 4 != 3 for number in range(RUNS)]


def test_memory_does_not_grow(soaked: list[dict[str, Any]]) -> None:
    assert slope(soaked) < MIB_PER_RUN


def test_open_files_and_threads_do_not_grow(soaked: list[dict[str, Any]]) -> None:
    for held, more in (("open_files", 0), ("threads", POOL_THREADS), ("python_threads", 0)):
        assert max(row[held] for row in soaked[SETTLED:]) <= soaked[SETTLED][held] + more


def test_nothing_is_left_over(soaked: list[dict[str, Any]]) -> None:
    assert soaked[-1]["left_over"] == soaked[SETTLED]["left_over"]


def test_the_event_log_grows_by_what_is_documented(soaked: list[dict[str, Any]]) -> None:
    launched = sum(row["launched"] for row in soaked[SETTLED + 1 :])
    for what, bound in (("logged_bytes", LOGGED_BYTES), ("logged_files", LOGGED_FILES)):
        assert (soaked[-1][what] - soaked[SETTLED][what]) / launched <= bound


def test_old_runs_can_be_forgotten_and_nothing_becomes_stale(answered: dict[str, Any]) -> None:
    launched, forgotten = sum(row["launched"] for row in answered["runs"]), answered["forgotten"]
    assert 0 < forgotten["forgotten"] < launched
    assert forgotten["launched_again"] == 0
    assert forgotten["logged_files"] < answered["runs"][-1]["logged_files"] / 2

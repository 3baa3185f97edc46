"""Workers that die, a launcher that is stopped or killed, and steps that ask Ray for a GPU."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from executor_runs import finish, run, start, weights
from small_study import SmallStudy

from assets import study_definitions
from sae_pipeline.launcher.instance import GPU_POOL, open_instance, unfinished
from sae_pipeline.store import Home
from sae_pipeline.study import load_study

pytestmark = pytest.mark.slow

TWO_PROCESSES = {"SAE_EXECUTOR": "multiprocess", "SAE_WORKERS": "2"}


def longer(data: dict[str, Any]) -> None:
    """Two mixes whose SAEs take long enough to be found training."""
    data["held_out"].pop("recipes")
    data["activations"]["layers"] = [1]
    data["corpus"] = data.get("corpus", {}) | {"repeat": True}
    data["saes"] |= {"expansions": [4], "checkpoint_every": 10}
    data["saes"]["defaults"] = {"tokens": 60_000, "batch_size": 64}
    data["saes"]["arms"] = [{"architecture": "batchtopk", "k": 4, "seeds": [0, 1]}]


def shorter(data: dict[str, Any]) -> None:
    """Two mixes of one SAE each."""
    longer(data)
    data["saes"]["defaults"] = {"tokens": 6_144, "batch_size": 256}


@pytest.fixture(scope="module")
def cluster() -> Iterator[dict[str, str]]:
    """Settings for a local Ray head of two CPUs and one GPU that is there by name only."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")  # whatever token somebody keeps in the home folder
        context = ray.init(num_cpus=2, num_gpus=1, include_dashboard=False, log_to_driver=False)
        yield {"SAE_EXECUTOR": "ray", "SAE_WORKERS": "2", "RAY_ADDRESS": context.address_info["gcs_address"], "RAY_AUTH_MODE": "disabled"}
        ray.shutdown()


def wait_for(process: subprocess.Popen[str], ready: Callable[[], Any]) -> Any:
    """The first true answer while the run is under way."""
    deadline = time.monotonic() + 240
    while not (answer := ready()):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return answer


def training(home: Path) -> bool:
    """Whether an SAE is half trained."""
    return bool(list((home / "store" / ".partial").glob("saes/*/checkpoint.safetensors")))


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The launcher's worker processes."""
    return [child for child in psutil.Process(process.pid).children() if "spawn_main" in " ".join(child.cmdline())]


def test_a_killed_process_costs_its_own_run_and_the_next_run_ends_with_the_same_bits(small_study: SmallStudy, tmp_path: Path) -> None:
    study, home = small_study.write(longer), tmp_path / "home"
    process = start(study, home, **TWO_PROCESSES)
    wait_for(process, lambda: training(home))
    for worker in workers_of(process):
        worker.kill()
    answer, said = finish(process, code=1)
    assert 1 <= answer["failed"] <= 2
    failures = [line for line in said.splitlines() if line.startswith("failed: ")]
    assert len(failures) == answer["failed"]
    assert all("expected the process of this run to finish it, found it killed by signal 9" in line for line in failures)
    assert unfinished(open_instance(Home(home))) == []
    assert run(study, home, **TWO_PROCESSES)["computed"] > 0
    run(study, tmp_path / "undisturbed")
    assert weights(home) == weights(tmp_path / "undisturbed")


def test_ctrl_c_stops_every_worker_and_keeps_finished_work(small_study: SmallStudy, tmp_path: Path) -> None:
    study, home = small_study.write(longer), tmp_path / "home"
    process = start(study, home, **TWO_PROCESSES)
    wait_for(process, lambda: training(home))
    there = workers_of(process)
    assert len(there) == 2
    os.killpg(process.pid, signal.SIGINT)
    _, said = finish(process, code=130)
    assert "stopped; finished work is kept and the next run goes on from it" in said
    assert not any(worker.is_running() for worker in there)
    assert unfinished(open_instance(Home(home))) == []


def test_workers_end_with_a_killed_launcher_and_the_next_goes_on(small_study: SmallStudy, tmp_path: Path) -> None:
    study, home = small_study.write(longer), tmp_path / "home"
    process = start(study, home, **TWO_PROCESSES)
    wait_for(process, lambda: training(home))
    there = workers_of(process)
    process.kill()
    process.communicate()
    gone, alive = psutil.wait_procs(there, timeout=30)
    assert len(gone) == 2, alive
    assert run(study, home, **TWO_PROCESSES)["computed"] > 0
    assert run(study, home, **TWO_PROCESSES)["launched"] == 0


def test_heavy_steps_ask_ray_for_a_gpu_and_never_share_it(small_study: SmallStudy, tmp_path: Path, cluster: dict[str, str]) -> None:
    study, home = small_study.write(shorter), tmp_path / "home"
    run(study, home, **cluster, SAE_GPUS_PER_STEP="1")
    heavy = {asset.key for asset in study_definitions(load_study(study)).assets or () if getattr(asset, "op", None) and asset.op.pool == GPU_POOL}
    records = open_instance(Home(home)).get_run_records()
    spans = sorted((r.start_time, r.end_time) for r in records if (r.dagster_run.asset_selection or set()) & heavy)
    assert len(spans) >= 8
    assert all(end <= start for (_, end), (start, _) in pairwise(spans))


def test_a_step_that_asks_for_more_gpus_than_there_are_is_one_sentence(small_study: SmallStudy, tmp_path: Path, cluster: dict[str, str]) -> None:
    asking = {name: value for name, value in cluster.items() if name != "SAE_WORKERS"} | {"SAE_GPUS_PER_STEP": "2"}
    answer, said = finish(start(small_study.write(shorter), tmp_path / "home", **asking), code=2)
    assert answer == {}
    assert "expected a cluster with 1 CPUs and 2 GPUs for one step, found 2 CPUs and 1 GPUs in all; add nodes" in said


def test_a_killed_ray_worker_is_one_sentence_and_the_next_run_goes_on(small_study: SmallStudy, tmp_path: Path, cluster: dict[str, str]) -> None:
    study, home = small_study.write(longer), tmp_path / "home"
    process = start(study, home, **cluster)
    wait_for(process, lambda: training(home))
    for worker in psutil.process_iter(["cmdline"]):
        if " ".join(worker.info["cmdline"] or ()).startswith("ray::toy/") and "/saes" in " ".join(worker.info["cmdline"]):
            worker.kill()
    answer, said = finish(process, code=1)
    assert 1 <= answer["failed"] <= 2
    assert "expected the Ray worker of this run to finish it, found it lost" in said
    assert unfinished(open_instance(Home(home))) == []
    assert run(study, home, **cluster)["computed"] > 0
    assert run(study, home, **cluster)["launched"] == 0

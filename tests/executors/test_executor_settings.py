"""What the environment says about executing steps: read once, refused in a sentence, and taken by Dagster's definitions."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import ray
from executor_runs import finish, start
from small_study import SmallStudy

from assets import study_definitions
from assets.executors import FOR_RAY
from sae_pipeline.compute import Compute
from sae_pipeline.errors import BadInput
from sae_pipeline.execution import Execution, Executor
from sae_pipeline.launcher.on_ray import OnRay
from sae_pipeline.launcher.runs import Call, Ending
from sae_pipeline.launcher.workers import Lost, Task, work
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home
from sae_pipeline.study import load_study

CALL = Call(("toy", "saes"), False, (None,), {})


@pytest.fixture(autouse=True)
def nothing_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SAE_EXECUTOR", "SAE_WORKERS", "SAE_GPUS_PER_STEP", "RAY_ADDRESS", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)


def test_without_settings_steps_run_one_after_the_other_in_this_process() -> None:
    assert Execution.from_environment() == Execution("in_process", 1, None)
    assert Execution.from_environment().threads is None


def test_processes_share_out_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(12)))
    monkeypatch.setenv("SAE_EXECUTOR", "multiprocess")
    assert (Execution.from_environment().workers, Execution.from_environment().threads) == (6, 2)
    monkeypatch.setenv("SAE_WORKERS", "5")
    assert (Execution.from_environment().workers, Execution.from_environment().threads) == (5, 2)


@pytest.mark.parametrize(
    ("name", "value"),
    [("SAE_EXECUTOR", "dask"), ("SAE_WORKERS", "0"), ("SAE_WORKERS", "two"), ("SAE_GPUS_PER_STEP", "1.5"), ("SAE_GPUS_PER_STEP", "-1"), ("SAE_GPUS_PER_STEP", "all")],
)  # fmt: skip
def test_a_setting_that_means_nothing_is_refused(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv("SAE_EXECUTOR", "ray")
    monkeypatch.setenv(name, value)
    with pytest.raises(BadInput, match=rf"^{name}: expected .*, found '{value}'; correct it or unset it$"):
        Execution.from_environment()


def test_the_number_of_workers_is_looked_at_whatever_the_executor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_WORKERS", "two")
    with pytest.raises(BadInput, match=r"^SAE_WORKERS: expected the number of steps to run at the same time, 1 or more, found 'two'"):
        Execution.from_environment()


@pytest.mark.parametrize(
    ("executor", "name", "readers"),
    [(None, "SAE_WORKERS", "multiprocess or ray"), ("in_process", "SAE_WORKERS", "multiprocess or ray"), (None, "SAE_GPUS_PER_STEP", "ray"), ("multiprocess", "SAE_GPUS_PER_STEP", "ray")],
)  # fmt: skip
def test_a_setting_that_the_executor_does_not_read_is_refused(monkeypatch: pytest.MonkeyPatch, executor: str | None, name: str, readers: str) -> None:
    if executor is not None:
        monkeypatch.setenv("SAE_EXECUTOR", executor)
    monkeypatch.setenv(name, "1")
    with pytest.raises(
        BadInput, match=rf"^{name}: expected SAE_EXECUTOR to be {readers}, found '{executor or 'in_process'}', which does not read it; "
    ):
        Execution.from_environment()
    monkeypatch.setenv("SAE_EXECUTOR", "ray")
    Execution.from_environment()


@pytest.mark.parametrize(("executor", "handed_over"), [("multiprocess", True), ("ray", False)])
def test_what_a_worker_is_handed_means_the_same_there(
    executor: Executor, handed_over: bool, small_study: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A node of a cluster keeps its own address of the event log, which holds a password; all other settings are the launcher's."""
    ctx = StudyContext.open(load_study(small_study.write()), Home(tmp_path / "home"))
    monkeypatch.setenv("SAE_EXECUTOR", executor)
    monkeypatch.setenv("SAE_STORE", "s3://lab/sae")
    monkeypatch.setenv("SAE_POSTGRES_URL", "postgresql://me:Sesame@launcher/log")
    task = Task.of(study_definitions, ctx, Execution.from_environment(), 3)
    assert ("Sesame" in str(task.settings)) == handed_over
    assert task.settings["SAE_STORE"] == "s3://lab/sae"

    monkeypatch.setattr("sae_pipeline.launcher.workers._opened", lambda task: (None, None))
    monkeypatch.setattr("sae_pipeline.launcher.workers.execute", lambda defs, instance, call: Ending())
    monkeypatch.setenv("SAE_POSTGRES_URL", "postgresql://me:Open@node/log")
    monkeypatch.setenv("SAE_DISK_BUDGET", "of an earlier launch")
    for name in task.settings:
        monkeypatch.setenv(name, "of an earlier launch")
    if not handed_over:
        monkeypatch.setenv("SAE_POSTGRES_URL", "postgresql://me:Open@node/log")
    assert work(task, CALL) == Ending()
    assert os.environ["SAE_POSTGRES_URL"] == f"postgresql://me:{'Sesame@launcher' if handed_over else 'Open@node'}/log"
    assert "SAE_DISK_BUDGET" not in os.environ
    assert Execution.from_environment() == Execution(executor, 3, None)


class LostSubmission:
    """`ray.remote` on a cluster that is gone: whatever is asked of it, submission fails."""

    def __init__(self, function: object) -> None: ...

    def options(self, **_: object) -> LostSubmission:
        return self

    def remote(self, *_: object) -> object:
        raise ray.exceptions.RpcError("the head is gone")


def on_ray(lost: Lost = id) -> OnRay:
    """What asks Ray for runs, without a cluster."""
    asking = object.__new__(OnRay)
    asking._light = asking._heavy = {}
    asking._task, asking._under_way, asking._lost = None, set(), lost
    return asking


def test_a_cluster_that_is_gone_when_a_run_is_handed_to_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "remote", LostSubmission)
    answer = on_ray().do(CALL)
    assert isinstance(answer, Ending)
    assert answer.lost
    assert "found it lost (RpcError: the head is gone" in str(answer.failure)


def test_what_fails_on_a_node_is_told_as_such_and_its_worker_is_not_called_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    class Submitted(LostSubmission):
        def remote(self, *_: object) -> object:
            return object()

    def get(task: object) -> object:
        raise ray.exceptions.RayTaskError("work", "Traceback …", ModuleNotFoundError("No module named 'umap'")).as_instanceof_cause()

    monkeypatch.setattr(ray, "remote", Submitted)
    monkeypatch.setattr(ray, "get", get)
    ended: list[Call] = []
    answer = on_ray(ended.append).do(CALL)
    assert isinstance(answer, Ending)
    assert not answer.lost
    assert ended == [CALL], "its place in the pool was not given back"
    assert str(answer.failure).startswith(
        "expected the node that Ray chose to do this run, found ModuleNotFoundError: No module named 'umap'; look at the node's log (`ray logs`) and at what is installed there"
    )


def test_the_command_line_says_so_in_one_sentence(small_study: SmallStudy, tmp_path: Path) -> None:
    answer, said = finish(start(small_study.write(), tmp_path / "home", SAE_EXECUTOR="dask"), code=2)
    assert answer == {}
    assert said == "SAE_EXECUTOR: expected in_process, multiprocess or ray, found 'dask'; correct it or unset it\n"


def test_a_ray_cluster_that_cannot_be_reached_is_one_sentence(small_study: SmallStudy, tmp_path: Path) -> None:
    ctx = StudyContext.open(load_study(small_study.write()), Home(tmp_path / "home"))
    with (
        pytest.MonkeyPatch.context() as patch,
        pytest.raises(BadInput, match=r"RAY_ADDRESS: expected the address of a Ray cluster.*found 'http://nowhere:8265'"),
    ):
        patch.setenv("RAY_ADDRESS", "http://nowhere:8265")
        OnRay(study_definitions, ctx, Execution("ray", None, None), lambda call: None)


@pytest.mark.parametrize(
    ("device", "offered", "given", "asked"),
    [("cpu", True, None, 0), ("cuda", False, None, 1), ("cuda:3", True, None, 1), ("auto", True, None, 1), ("auto", False, None, 0), ("mps", True, None, 0), ("cuda", True, 0.25, 0.25)],
)  # fmt: skip
def test_a_heavy_step_asks_for_a_gpu_where_the_study_and_the_cluster_have_one(device: str, offered: bool, given: float | None, asked: float) -> None:
    assert Execution("ray", None, given).gpus_for(device, offered=offered) == asked


def test_dagster_executes_as_the_environment_says(small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    study = load_study(small_study.write(lambda data: data.update(compute={"device": "cuda", "threads": 3})))
    assert study_definitions(study).executor.name == "in_process"  # type: ignore[union-attr]
    monkeypatch.setenv("SAE_EXECUTOR", "multiprocess")
    assert study_definitions(study).executor.name == "multiprocess"  # type: ignore[union-attr]
    monkeypatch.setenv("SAE_EXECUTOR", "ray")
    defined = study_definitions(study)
    assert defined.executor.name == "ray"  # type: ignore[union-attr]
    by_asset = {asset.key.path[-1]: asset.op for asset in defined.assets or () if hasattr(asset, "op")}
    assert json.loads(by_asset["saes"].tags[FOR_RAY]) == {"num_cpus": 3, "num_gpus": 1.0}
    assert all((FOR_RAY in op.tags) == (op.pool == "gpu") for op in by_asset.values())


def locks(home: Path, monkeypatch: pytest.MonkeyPatch, devices: list[str], visible: str | None) -> list[str]:
    """Names of the locks that two steps at once hold on such a machine."""
    monkeypatch.setattr("platform.node", lambda: "node7")
    monkeypatch.setattr(Compute, "devices", lambda self: devices)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    compute = Compute("auto", None, home / "locks")
    with compute.lease():
        return sorted(path.name for path in (home / "locks").iterdir())


def test_a_device_is_leased_by_machine_and_by_the_number_that_the_machine_gives_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert locks(tmp_path / "whole", monkeypatch, ["cuda:0", "cuda:1"], None) == ["device-node7-cuda-0.lock"]
    assert locks(tmp_path / "part", monkeypatch, ["cuda:0"], "5") == ["device-node7-cuda-5.lock"]
    assert locks(tmp_path / "named", monkeypatch, ["cuda:0"], "GPU-8f2a/1") == ["device-node7-cuda-GPU-8f2a-1.lock"]


def test_two_steps_hold_two_gpus_and_as_many_cpus_as_there_are_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Compute, "devices", lambda self: ["cuda:0", "cuda:1"])
    compute = Compute("auto", None, tmp_path / "locks")
    with compute.lease() as one, compute.lease() as other:
        assert {one, other} == {"cuda:0", "cuda:1"}
    monkeypatch.setattr(Compute, "devices", lambda self: ["cpu"])
    monkeypatch.setenv("SAE_EXECUTOR", "multiprocess")
    monkeypatch.setenv("SAE_WORKERS", "2")
    with compute.lease() as one, compute.lease() as other:
        assert one == other == "cpu"

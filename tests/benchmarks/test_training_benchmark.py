"""The training benchmarks run at tiny sizes with ours alone and print the objects that they promise."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from benchmark_runs import FOLDER, answered

if TYPE_CHECKING:
    import agreement


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """A quick run of one row and of several arms, ours alone."""
    folder = tmp_path_factory.mktemp("scratch")
    options = ["--quick", "--rounds", "1", "--seconds", "0.01", "--steps", "4", "--rows", "topk-512x4096-b1024", "--peers"]
    found, table = answered(FOLDER / "train.py", *options, "--scratch", str(folder / "work"), "--output", str(folder / "found.json"))
    return found, table, folder


def test_a_row_holds_every_promised_figure(trained: tuple[dict[str, Any], str, Path]) -> None:
    """Without a peer there is no ratio, and nothing stands in for it."""
    row = trained[0]["rows"]["topk-32x128-b64"]
    assert row["peers"] == {}
    assert row["ratio_to_best_peer"] is None
    assert set(row["fraction_of_limit"]) == {"float32", "bfloat16"}
    assert row["ours"]["tokens_per_second"] > 0
    assert row["ours"]["peak_mib"] > 0
    assert {"float32_gflops", "bfloat16_gflops", "copy_gb_per_second"} <= set(row["yardsticks"])
    assert "ours, plain torch" in row["ours_by_kernels"]
    assert set(row["ours_by_kernels"]["ours, plain torch"]) >= {"improvement_difference", "first_steps_difference"}
    assert row["losses_agree"]


def test_losses_are_compared_from_the_same_parameters(trained: tuple[dict[str, Any], str, Path]) -> None:
    """Before training the squared error is that of one state; afterwards it is lower."""
    row = trained[0]["rows"]["topk-32x128-b64"]
    ours, torch = row["ours"]["losses"], row["ours_by_kernels"]["ours, plain torch"]["losses"]
    assert [each["steps"] for each in ours] == [0, 2, 4]
    assert ours[0]["nmse"] == pytest.approx(torch[0]["nmse"], rel=1e-5)
    assert ours[2]["nmse"] < ours[0]["nmse"]
    assert ours[0]["l0"] <= 8
    first = row["ours"]["first_steps"]
    assert [each["steps"] for each in first] == [0, 2]
    assert first[0]["l0"] <= 4
    assert first[1]["nmse"] < first[0]["nmse"]


@pytest.fixture
def improving(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., agreement.Trajectory]:
    """Trajectories of our trainer on the compared problem, of an architecture at a learning rate."""
    import agreement
    from our_training import Ours
    from training_loop import training_actions
    from training_setup import problem_setup, told
    from training_tools import OURS

    arguments = argparse.Namespace(threads=1, device="cpu")

    def taken(architecture: str, rate: float) -> agreement.Trajectory:
        folder = tmp_path_factory.mktemp(architecture)
        setup = problem_setup(agreement.problem(architecture), arguments, folder, agreement.BATCHES) | told("ours", OURS["ours"])
        actions = training_actions(setup | {"lr": rate, "steers": False}, Ours)
        found = [actions["evaluate"]()]
        for steps in agreement.halves(architecture):
            actions["train"](steps=steps)
            found.append(actions["evaluate"]())
        return found

    return taken


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka", "relu", "jumprelu", "gated"])
def test_a_tool_that_stands_still_or_trains_at_a_third_of_the_rate_does_not_agree(
    improving: Callable[..., agreement.Trajectory], architecture: str
) -> None:
    """Whatever the architecture; the same training agrees with itself, and one from another state does not."""
    import agreement

    ours = improving(architecture, agreement.LEARNING_RATE)
    frozen = [{**each, "nmse": ours[0]["nmse"]} for each in ours]
    slow = improving(architecture, agreement.LEARNING_RATE / 3)
    assert slow[0]["nmse"] == ours[0]["nmse"]
    assert agreement.agree(ours, ours)
    assert not agreement.agree(ours, frozen)
    assert not agreement.agree(ours, slow)
    assert not agreement.agree(ours, [{**each, "nmse": each["nmse"] + 0.1} for each in ours])


def test_after_a_restart_batches_have_the_size_of_the_new_problem(tmp_path: Path) -> None:
    from training_loop import training_actions
    from training_rows import Row
    from training_setup import problem_setup

    seen: list[int] = []

    class Watching:
        def __init__(self, setup: dict[str, Any]) -> None:
            pass

        def step(self, x: Any) -> None:
            seen.append(len(x))

    arguments = argparse.Namespace(threads=1, device="cpu")
    small, large = (problem_setup(Row("topk", 8, 16, batch, 2), arguments, tmp_path / str(batch), 2) for batch in (32, 80))
    actions = training_actions(small, Watching)
    actions["train"](steps=2)
    actions["restart"](**large)
    found = actions["run"](seconds=0.0, least=3)
    assert set(seen[:2]) == {32}
    assert set(seen[2:]) == {80}
    assert found["tokens"] == 3 * 80


def test_agreement_is_judged_by_the_improvement() -> None:
    """From 1.0 ours removes 0.2 and 0.4, the other tool 0.2 and 0.3: a quarter less; where ours did not improve nothing agrees."""
    import agreement

    ours, theirs = ([{"nmse": value} for value in values] for values in ((1.0, 0.8, 0.6), (1.0, 0.8, 0.7)))
    assert agreement.improvement_difference(ours, theirs) == pytest.approx(0.25)
    assert agreement.start_difference(ours, theirs) == 0
    assert not agreement.agree(ours[:1] * 3, ours[:1] * 3)


@pytest.mark.parametrize("together", [True, False])
def test_opening_and_finishing_arms_are_not_in_the_time_of_their_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, together: bool) -> None:
    """On a clock that only arms move: 100 s to open, 100 s to finish, 1 s a step. Of 4 steps of 3 arms the inner two take 6 s."""
    import our_training
    from training_rows import Row
    from training_setup import problem_setup

    from sae_pipeline.saes import cohort
    from sae_pipeline.saes.run import Run

    clock = [0.0]

    def costing(seconds: float, work: Callable[..., Any]) -> Callable[..., Any]:
        def worked(*arguments: Any) -> Any:
            clock[0] += seconds
            return work(*arguments)

        return worked

    monkeypatch.setattr(our_training, "time", SimpleNamespace(perf_counter=lambda: clock[0]))
    monkeypatch.setattr(Run, "restore", costing(100, Run.restore))
    monkeypatch.setattr(cohort, "finish", costing(100, cohort.finish))
    monkeypatch.setattr(Run, "take_step", costing(1, Run.take_step))
    setup = problem_setup(Row("topk", 32, 128, 64, 4), argparse.Namespace(threads=1, device="cpu"), tmp_path, batches=16)
    found = our_training.arms_actions(setup)["arms"](count=3, steps=4, together=together)
    assert found == {"seconds": 6.0, "tokens": 3 * 2 * 64}


def test_several_arms_are_timed_together_and_apart(trained: tuple[dict[str, Any], str, Path]) -> None:
    """The same steps either way."""
    arms = trained[0]["arms"]
    assert arms["arms"] == 3
    assert 0 < arms["together_over_apart"] < 10


def test_the_table_comes_from_the_file_and_nothing_else_is_left(trained: tuple[dict[str, Any], str, Path]) -> None:
    """Rendering the file prints the same table; activations are gone."""
    _, table, folder = trained
    finished = subprocess.run(
        [sys.executable, str(FOLDER / "train.py"), "--render", str(folder / "found.json")], capture_output=True, text=True, check=True
    )
    assert finished.stdout.strip() == table.strip()
    assert "| topk-32x128-b64 | 4 |" in table
    assert not any((folder / "work").iterdir())


def test_a_gpu_row_is_marked_where_there_is_no_gpu(tmp_path: Path) -> None:
    """Not left out, and not measured on something else."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    found, table = answered(FOLDER / "train.py", "--device", "cuda", "--scratch", str(tmp_path))
    (row,) = found["rows"].values()
    assert row["not_measured"] == "this machine has no CUDA device"
    assert "not measured" in table


def test_memory_of_training_is_measured_for_two_caches(tmp_path: Path) -> None:
    """The second is four times the first; one epoch of each is trained on."""
    found, table = answered(
        FOLDER / "train_memory.py", "--d-in", "16", "--d-sae", "32", "--k", "2", "--batch", "64", "--tokens", "4096", "--scratch", str(tmp_path)
    )
    small, large = found["caches"]
    assert large["tokens"] == 4 * small["tokens"]
    assert large["steps"] == 4 * small["steps"] == 256
    assert large["cache_mib"] > 3.5 * small["cache_mib"]
    assert found["anonymous_ratio"] == pytest.approx(large["anonymous_mib"] / small["anonymous_mib"])
    assert f"**{found['peak_ratio']:.3f}**" in table

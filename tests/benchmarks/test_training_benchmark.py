"""The training benchmarks run at tiny sizes with ours alone, print the objects that they promise, and need few packages."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    import agreement

FOLDER = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER / "workers"))
    monkeypatch.syspath_prepend(str(FOLDER))


def run(program: str, *options: str) -> tuple[dict[str, Any], str]:
    """The object on the last line of a program's output, and the table above it."""
    finished = subprocess.run([sys.executable, str(FOLDER / program), *options, "--json"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    table, _, last = finished.stdout.strip().rpartition("\n")
    return json.loads(last), table


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """A quick run of one row and of several arms, ours alone."""
    folder = tmp_path_factory.mktemp("scratch")
    options = ["--quick", "--rounds", "1", "--seconds", "0.01", "--steps", "4", "--rows", "topk-512x4096-b1024", "--peers"]
    found, table = run("train.py", *options, "--scratch", str(folder / "work"), "--output", str(folder / "found.json"))
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
    found, table = run("train.py", "--device", "cuda", "--scratch", str(tmp_path))
    (row,) = found["rows"].values()
    assert row["not_measured"] == "this machine has no CUDA device"
    assert "not measured" in table


def test_memory_of_training_is_measured_for_two_caches(tmp_path: Path) -> None:
    """The second is four times the first; one epoch of each is trained on."""
    found, table = run(
        "train_memory.py", "--d-in", "16", "--d-sae", "32", "--k", "2", "--batch", "64", "--tokens", "4096", "--scratch", str(tmp_path)
    )
    small, large = found["caches"]
    assert large["tokens"] == 4 * small["tokens"]
    assert large["steps"] == 4 * small["steps"] == 256
    assert large["cache_mib"] > 3.5 * small["cache_mib"]
    assert found["anonymous_ratio"] == pytest.approx(large["anonymous_mib"] / small["anonymous_mib"])
    assert f"**{found['peak_ratio']:.3f}**" in table


def test_recovery_of_ours_alone(tmp_path: Path) -> None:
    """Figures per architecture and seed, without a difference where there is no peer."""
    options = ["--architectures", "topk", "--seeds", "2", "--steps", "30", "--rates", "2e-3", "--peers", "--scratch", str(tmp_path)]
    found, table = run("recovery.py", *options)
    topk = found["architectures"]["topk"]
    assert set(topk["tools"]) == {"ours"}
    assert len(topk["runs"]["ours"]) == 2
    assert 0 < topk["tools"]["ours"]["mean_max_cosine"] < 1
    assert "| topk | ours | 0.002 (2) |" in table


def test_recovery_is_complete_when_the_dictionary_is_the_planted_one() -> None:
    """Whatever the order and the lengths of its rows; a direction that is missing counts with its nearest."""
    from recovery import mean_max_cosine

    planted = np.eye(3)
    assert mean_max_cosine(np.array([[0, 0, 5.0], [2.0, 0, 0], [0, 1.0, 0], [1.0, 1.0, 0]]), planted) == pytest.approx(1)
    assert mean_max_cosine(np.array([[1.0, 0, 0], [0, 1.0, 1.0]]), planted) == pytest.approx((1 + 2 * math.sqrt(0.5)) / 3)


def test_intervals_are_those_of_student() -> None:
    """Differences 1, 2, 3: mean 2, standard deviation 1, half width 4.303 / sqrt(3)."""
    from recovery import interval

    found = interval([1.0, 2.0, 3.0])
    assert found["mean"] == 2
    assert found["high"] == pytest.approx(2 + 4.303 / math.sqrt(3))
    assert interval([1.0])["low"] is None


def test_a_strength_is_searched_between_too_dense_and_too_sparse() -> None:
    """L0 16 at strength 1 and 4 at strength 4, target 8: half way in logarithms is strength 2."""
    from fair_terms import next_strength

    assert next_strength([{"strength": 1.0, "l0": 16.0}, {"strength": 4.0, "l0": 4.0}], 8.0) == pytest.approx(2)
    assert next_strength([{"strength": 1.0, "l0": 16.0}], 8.0) > 1
    assert next_strength([{"strength": 1.0, "l0": 4.0}], 8.0) < 1


def test_a_strength_is_nudged_across_the_target_once_it_is_near() -> None:
    """An L0 of 8.2 is near 8: the next strength is a tenth larger, not two and a half times."""
    from fair_terms import next_strength

    assert next_strength([{"strength": 1.0, "l0": 8.2}], 8.0) == pytest.approx(1.1)
    assert next_strength([{"strength": 1.0, "l0": 7.8}], 8.0) == pytest.approx(1 / 1.1)


def test_figures_are_interpolated_at_the_target_l0() -> None:
    """L0 6 and 12 with target 6 * sqrt(2): half way in logarithms; the L0 shown is that of the nearest training."""
    from fair_terms import at_target

    runs = [
        {"l0": 6.0, "strength": 2.0, "explained_variance": 0.6, "mean_max_cosine": 0.9},
        {"l0": 12.0, "strength": 1.0, "explained_variance": 0.8, "mean_max_cosine": 0.7},
        {"l0": 40.0, "strength": 0.1, "explained_variance": 0.99, "mean_max_cosine": 0.1},
    ]
    target = 6 * math.sqrt(2)
    found = at_target(runs, target)
    assert found["explained_variance"] == pytest.approx(0.7)
    assert found["mean_max_cosine"] == pytest.approx(0.8)
    assert found["l0"] == 6
    assert found["l0_deviation"] == pytest.approx(1 - 1 / math.sqrt(2))
    assert at_target(runs[1:], target)["explained_variance"] == 0.8


@pytest.mark.parametrize(("l0", "matched"), [(8.39, True), (8.41, False)])
def test_an_l0_beyond_the_stated_tolerance_is_marked(l0: float, matched: bool) -> None:
    """5 % of 8 is 0.4."""
    from recovery import compared

    figures = {"explained_variance": 0.5, "mean_max_cosine": 0.5}
    found = compared({"ours": [figures | {"l0": 8.0}], "other": [figures | {"l0": l0}]})
    assert found["tools"]["other"]["l0_matched"] is matched


def test_rates_are_chosen_at_matched_l0_and_extended_beyond_their_edges() -> None:
    """The best of explained variances that peak at 8 is found from 1, 2, 4; a rise without end is said to be at the edge."""
    from fair_terms import chosen_rate

    def run(variance: float, deviation: float = 0.0) -> dict[str, float]:
        return {"explained_variance": variance, "l0_deviation": deviation}

    asked: list[float] = []

    def peaked(rate: float) -> dict[str, float]:
        asked.append(rate)
        return run(-abs(math.log(rate / 8)))

    assert chosen_rate((1.0, 2.0, 4.0), peaked) == (8.0, False)
    assert asked == [1, 2, 4, 8, 16]
    assert chosen_rate((1.0, 2.0, 4.0), lambda rate: run(rate)) == (16.0, True)
    assert chosen_rate((1.0, 2.0, 4.0), lambda rate: run(-rate)) == (0.25, True)
    assert chosen_rate((1.0, 2.0, 4.0), lambda rate: run(rate, deviation=0.2 if rate > 2 else 0.0))[0] == 2
    assert chosen_rate((1.0, 2.0, 4.0), lambda rate: run(math.nan if rate > 2 else rate))[0] == 2
    assert chosen_rate((1.0,), lambda rate: run(rate)) == (1.0, False)


def test_recovery_says_which_tools_were_not_measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A peer without an environment is in the object and under the table, with the reason."""
    import recovery
    from side_by_side import Peer
    from training_tools import Tool

    absent = Peer("nobody", ".venv-of-nobody", "NOBODY_PYTHON", "requirements-saelens.txt")
    monkeypatch.setattr(recovery, "TOOLS", {"nobody": Tool("saelens_training.py", absent)})
    arguments = argparse.Namespace(scratch=tmp_path, peers=["nobody"], architectures=[], steps=1, seeds=1)
    found = recovery.measure(arguments)
    assert ".venv-of-nobody" in found["missing"]["nobody"]
    assert "- nobody was not measured: no environment .venv-of-nobody" in recovery.rendered(found)


def test_planted_activations_have_the_stated_scale_and_sparsity() -> None:
    """Unit root mean square; without noise and offset a row is in the span of its few directions."""
    from training_rows import planted

    rows, directions = planted(2_000, 16, 32, 3, seed=0)
    assert np.sqrt(np.square(rows).mean()) == pytest.approx(1, abs=1e-4)
    assert np.linalg.norm(directions, axis=1) == pytest.approx(np.ones(32), abs=1e-5)
    again, _ = planted(2_000, 16, 32, 3, seed=0)
    assert np.array_equal(rows, again)
    other, _ = planted(2_000, 16, 32, 3, seed=1)
    assert not np.allclose(rows, other)


BLOCK = """
import importlib.metadata, re, sys
from importlib.machinery import BuiltinImporter, FrozenImporter, PathFinder

def closure(names):
    found, waiting = set(), list(names)
    while waiting:
        name = waiting.pop().lower().replace("-", "_")
        if name in found:
            continue
        found.add(name)
        try:
            needed = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        waiting += [re.match(r"[A-Za-z0-9_.-]+", each).group() for each in needed if "extra ==" not in each]
    return found

allowed = closure(["torch", "numpy", "safetensors"]) | set(sys.stdlib_module_names)
allowed |= {"sae_pipeline", "protocol", "training_loop", "our_training", "torchgen", "functorch", "jinja2", "mpmath"}

class Only:
    @staticmethod
    def find_spec(name, path=None, target=None):
        hidden = name.split(".")[0] not in allowed and not name.startswith("_")
        return None if hidden else PathFinder.find_spec(name, path, target)

sys.meta_path[:] = [BuiltinImporter, FrozenImporter, Only]
import our_training, json
for setup in json.loads(sys.argv[1]):
    about, actions = our_training.load(setup)
    actions["train"](steps=2)
    assert actions["evaluate"]()["steps"] == 2
assert "pydantic" not in sys.modules and "numba" not in sys.modules
"""


def test_our_trainer_needs_torch_numpy_and_safetensors_alone(tmp_path: Path) -> None:
    """Every other third-party package is hidden from it; every architecture takes two steps."""
    import train
    from training_rows import ROWS, write_activations

    architectures = sorted({row.architecture for row in ROWS})
    written = write_activations(tmp_path, 32, 256, 64, n_features=64, l0=4, seed=0)
    arguments = type("Arguments", (), {"threads": 1, "device": "cpu"})()
    setups = []
    for row in {row.architecture: row.tiny() for row in ROWS}.values():
        own = {"name": row.architecture, "writes_initial": True, "initial": str(tmp_path / f"{row.architecture}.npz")}
        setups.append(train.base_setup(row, arguments, tmp_path, written) | own)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(FOLDER.parent), str(FOLDER / "workers")]), "OMP_NUM_THREADS": "1"}
    finished = subprocess.run([sys.executable, "-c", BLOCK, json.dumps(setups)], capture_output=True, text=True, env=environment, check=False)
    assert finished.returncode == 0, finished.stderr
    for architecture in architectures:
        with np.load(tmp_path / f"{architecture}.npz") as initial:
            assert {"W_enc", "b_enc", "W_dec", "b_dec"} <= set(initial.files)
            assert initial["W_enc"].shape == (32, 128)


def test_documented_tables_are_replaced_in_place(tmp_path: Path) -> None:
    """Text around a table stays; running it twice changes nothing; a missing file is said to be missing."""
    from documented import filled

    found = {
        "date": "2026-01-01", "machine": {"cpu": "one"}, "arm": {"d_in": 2, "d_sae": 4, "sparsity": 1, "batch": 8, "shuffle_tokens": 16},
        "caches": [{"cache_mib": n, "tokens": n, "steps": n, "peak_mib": n, "anonymous_mib": n} for n in (1, 4)], "peak_ratio": 1.0, "anonymous_ratio": 1.0,
    }  # fmt: skip
    (tmp_path / "memory.json").write_text(json.dumps(found))
    place = "<!-- figures: python benchmarks/{} --render {} -->\nold\n<!-- end of figures -->"
    page = f"before\n{place.format('train_memory.py', 'memory.json')}\nbetween\n{place.format('recovery.py', 'recovery.json')}\nafter\n"
    once = filled(page, tmp_path)
    assert "old" not in once
    assert "TopK 2×4" in once
    assert "Not measured yet." in once
    assert once.startswith("before\n")
    assert "\nbetween\n" in once
    assert once.endswith("after\n")
    assert filled(once, tmp_path) == once

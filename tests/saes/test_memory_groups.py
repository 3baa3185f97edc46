"""Arms that do not fit in memory together are trained in groups, with the same bits; the estimate is near what is measured."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs_compared import assert_same_bits

from sae_pipeline.saes.architectures import ARCHITECTURES
from sae_pipeline.saes.chunks import CHUNK
from sae_pipeline.saes.memory import (
    ESTIMATE_FACTOR,
    free_bytes,
    group_bytes,
    memory_budget,
    memory_groups,
    state_bytes,
    step_bytes,
)

D_MODEL, D_SAE = 16, 24


def test_parameters_gradients_and_moments_are_counted_in_float32(make_arm):
    wide = state_bytes(make_arm("topk"), 768, 6144)
    assert wide == pytest.approx(4 * 4 * 2 * 768 * 6144, rel=0.01)


def test_a_plan_can_state_the_estimate_without_torch():
    found = subprocess.run([sys.executable, "-c", "import sys, sae_pipeline.saes.memory as m; print(m.CHUNK, 'torch' in sys.modules)"],
                           env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=True)  # fmt: skip
    assert found.stdout.split() == [str(CHUNK), "False"]


def test_the_estimate_counts_chunks_of_the_size_that_is_encoded(make_arm):
    """Beyond a chunk a larger batch adds its own tensors and entries only."""
    arm, d_model, d_sae = make_arm("relu", 8), 16, 4096
    one, two, four = (step_bytes(replace(arm, batch_size=CHUNK * factor), d_model, d_sae) for factor in (1, 2, 4))
    assert four - two == 2 * (two - one) == 2 * CHUNK * (20 * d_model + 64 * 8)


def test_accumulation_needs_less_for_the_batch(make_arm):
    arm = make_arm("topk", batch_size=2**16)
    assert step_bytes(replace(arm, accumulate=16), 64, 1024) < 0.15 * step_bytes(arm, 64, 1024)


@given(data=st.data())
def test_groups_hold_every_arm_once_and_fit(data, make_arm):
    count = data.draw(st.integers(1, 8))
    arms = {
        str(number): make_arm(
            data.draw(st.sampled_from(["topk", "relu"])),
            init_seed=number,
            batch_size=data.draw(st.sampled_from([32, 64])),
            data_seed=data.draw(st.integers(0, 1)),
        )
        for number in range(count)
    }
    budget, threads = data.draw(st.integers(1, 400_000)), data.draw(st.integers(1, 4))
    groups = memory_groups(arms, D_MODEL, D_SAE, budget, threads)
    assert sorted(label for group in groups for label in group.labels) == sorted(arms)
    for group in groups:
        members = [arms[label] for label in group.labels]
        assert len({(arm.data_seed, arm.batch_size) for arm in members}) == 1
        assert group.bytes == group_bytes(members, D_MODEL, D_SAE, threads)
        assert group.bytes <= budget or len(members) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_memory_for_two_makes_groups_of_two(make_arm, threads):
    arms = {str(seed): make_arm("topk", init_seed=seed) for seed in range(5)}
    budget = group_bytes([arms["0"], arms["1"]], D_MODEL, D_SAE, threads)
    assert [group.labels for group in memory_groups(arms, D_MODEL, D_SAE, budget, threads)] == [("0", "1"), ("2", "3"), ("4",)]
    assert len(memory_groups(arms, D_MODEL, D_SAE, 10**9, threads)) == 1


def test_longer_budgets_of_a_trunk_come_first(make_arm):
    trunk = make_arm("topk", trunk_tokens=64 * 20)
    arms = {"short": replace(trunk, tokens=64 * 20), "other": make_arm("relu"), "long": replace(trunk, tokens=64 * 50)}
    assert [group.labels for group in memory_groups(arms, D_MODEL, D_SAE, 1, threads=1)] == [("long",), ("short",), ("other",)]


def test_the_study_or_half_of_what_is_free_is_the_budget():
    assert memory_budget("cpu", 1.5) == 3 * 2**29
    assert 0 < memory_budget("cpu") < free_bytes("cpu") * 0.75


def test_groups_change_no_bits_and_keep_the_trunk(make_arm, train, stream, caplog):
    trunk = make_arm("topk", trunk_tokens=64 * 20, decay_share=0.3)
    arms = {name: make_arm(name, tokens=64 * (30 + 5 * i)) for i, name in enumerate(ARCHITECTURES)}
    arms |= {"other batch": make_arm("relu", batch_size=48), "short": replace(trunk, tokens=64 * 20), "long": replace(trunk, tokens=64 * 50)}
    _, together = train(arms, stream, memory_bytes=10**9)
    for budget in (1, group_bytes([arms["topk"], arms["relu"]], D_MODEL, D_SAE, threads=1)):
        caplog.clear()
        with caplog.at_level("INFO"):
            summaries, split = train(arms, stream, memory_bytes=budget)
        assert "groups, one after the other" in caplog.text
        assert summaries["short"]["trunk_steps"] == 14
        for label in arms:
            assert_same_bits(together[label], split[label])


MEASURE = """
import sys, torch
torch.set_num_threads(int(sys.argv[5]))
from pathlib import Path
from conftest import TensorStream, random_directions, sparse_sums
from sae_pipeline.saes.arm import WITH_K, Arm
from sae_pipeline.saes.memory import group_bytes
from sae_pipeline.saes.trainer import train_arms

name, folder, count, accumulate, threads = sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:])
selects = name in WITH_K
arms = {
    str(seed): Arm(
        architecture=name, k=32 if selects else None, target_l0=None if selects else 32.0, tokens=1024 * 4, init_seed=seed, data_seed=0,
        batch_size=1024, learning_rate=1e-3, warmup_share=0.0, decay_share=0.0, auxk_coefficient=1 / 32, dead_window_share=0.2,
        b_dec_init="mean", normalise=True, accumulate=accumulate,
    )
    for seed in range(count)
}
def peak():
    # Not getrusage: its figure begins with that of the process that started this one.
    return next(1024 * int(line.split()[1]) for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
class Stream(TensorStream):
    def sample(self, size):
        return self.x[: self.rows]
def train(d_sae, arms):
    stream = Stream(x)
    folders = {label: folder / f"{d_sae} {label}" for label in arms}
    for path in folders.values():
        path.mkdir()
    train_arms(folders, arms, stream=stream, d_model=128, d_sae=d_sae, checkpoint_every=3, label="toy", metadata={"hook_name": "h"}, memory_bytes=2**40)
x = sparse_sums(8192, random_directions(64, 128), l0=8, seed=1)
train(64, {"0": arms["0"]})  # what torch itself allocates once
before = peak()
train(8192, arms)
print(peak() - before, group_bytes(list(arms.values()), 128, 8192, threads))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak resident size is read from /proc")
@pytest.mark.parametrize(("name", "count", "accumulate", "threads"), [("topk", 3, 1, 1), ("topk", 3, 1, 2), ("jumprelu", 2, 4, 1)])
def test_the_estimate_is_near_the_measured_peak(name, count, accumulate, threads, tmp_path):
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    command = [sys.executable, "-c", MEASURE, name, str(tmp_path), str(count), str(accumulate), str(threads)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    measured, estimated = map(int, found.stdout.split()[-2:])
    assert measured / ESTIMATE_FACTOR < estimated < measured * ESTIMATE_FACTOR, (measured / 2**20, estimated / 2**20)

"""Token budgets that branch off one trunk: the bits of each are those that it has alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from runs_compared import Killed, assert_same_bits, interrupt, record

from sae_pipeline.saes.architectures import ARCHITECTURES
from sae_pipeline.saes.checkpoint import NAME as CHECKPOINT
from sae_pipeline.saes.run import Run

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


@pytest.fixture
def budgets(make_arm):
    """Arms of 20, 33 and 50 steps on one trunk, which branch at 14, 23 and 35."""

    def make(name: str, **changes):
        trunk = make_arm(name, trunk_tokens=64 * 20, decay_share=0.3, **changes)
        return {f"{steps} steps": replace(trunk, tokens=64 * steps) for steps in (20, 33, 50)}

    return make


@pytest.fixture
def steps_taken(monkeypatch) -> list[tuple[str, int]]:
    """(name, step) of every step that a run takes."""
    taken, original = [], Run.take_step

    def take_step(self, x, workspace):
        taken.append((self.name, self.step))
        return original(self, x, workspace)

    monkeypatch.setattr(Run, "take_step", take_step)
    return taken


@every_architecture
def test_a_budget_alone_has_the_bits_it_has_on_the_trunk(name, budgets, train, stream, steps_taken):
    arms = budgets(name)
    summaries, together = train(arms, stream)
    assert len(steps_taken) == 50 + (20 - 14) + (33 - 23)
    assert {label: found["trunk_steps"] for label, found in summaries.items()} == {"20 steps": 14, "33 steps": 23, "50 steps": 0}
    for label, arm in arms.items():
        alone_summary, alone = train({label: arm}, stream)
        assert alone_summary[label]["trunk_steps"] == 0
        assert_same_bits(alone[label], together[label])


def test_what_the_trunk_saves_is_said(budgets, train, stream, caplog):
    with caplog.at_level("INFO"):
        train(budgets("topk"), stream)
    assert "66 steps are taken instead of 103" in caplog.text


@pytest.mark.parametrize("at_step", [0, 5, 14, 15, 19, 23, 24, 36, 49])
def test_an_interrupted_trunk_goes_on_with_the_same_bits(at_step, budgets, train, stream, monkeypatch, tmp_path):
    arms = budgets("batchtopk")
    _, whole = train(arms, stream)
    folders = {label: tmp_path / label for label in arms}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, at_step)
        train(arms, stream, folders=folders, checkpoint_every=4)
    train(arms, stream, folders=folders)
    for label in arms:
        assert_same_bits(folders[label], whole[label])


def test_a_branch_that_has_begun_does_not_take_the_trunk_again(budgets, train, stream, monkeypatch, tmp_path, steps_taken):
    arms = budgets("topk")
    folders = {label: tmp_path / label for label in arms}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, 28, "33 steps")
        train(arms, stream, folders=folders)
    steps_taken.clear()
    train(arms, stream, folders=folders)
    assert ("33 steps", 23) in steps_taken
    assert ("33 steps", 22) not in steps_taken
    for label in arms:
        _, alone = train({label: arms[label]}, stream)
        assert_same_bits(alone[label], folders[label])


def test_a_damaged_branch_is_trained_from_the_start(budgets, train, stream, monkeypatch, tmp_path, caplog):
    arms = budgets("topk")
    folders = {label: tmp_path / label for label in arms}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, 16, "20 steps")
        train(arms, stream, folders=folders)
    damaged = folders["20 steps"] / CHECKPOINT
    damaged.write_bytes(damaged.read_bytes()[:-100] + bytes(100))
    train(arms, stream, folders=folders)
    assert "training starts over" in caplog.text
    _, alone = train({"20 steps": arms["20 steps"]}, stream)
    assert_same_bits(alone["20 steps"], folders["20 steps"])


def test_a_trunk_without_decay_gives_snapshots_of_one_run(budgets, train, stream):
    arms = {label: replace(arm, decay_share=0.0) for label, arm in budgets("topk").items()}
    _, together = train(arms, stream, monitor_every=7)
    assert [row["step"] for row in record(together["20 steps"])] == [7, 14, 20]
    for label, arm in arms.items():
        _, alone = train({label: arm}, stream, monitor_every=7)
        assert_same_bits(alone[label], together[label])

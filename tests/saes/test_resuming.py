"""Interrupted at many places and resumed, a run has the bits of an uninterrupted one; what a checkpoint says about the machine."""

from __future__ import annotations

import logging
import random
from dataclasses import replace

import pytest
import torch
from runs_compared import Killed, assert_same_bits, interrupt, weights

from sae_pipeline.errors import StudyError
from sae_pipeline.saes import run
from sae_pipeline.saes.architectures import ARCHITECTURES
from sae_pipeline.saes.environment import environment, in_words
from sae_pipeline.saes.kernels import choice, encoding

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

STEPS = 30


@pytest.fixture(scope="module")
def wide(toy):
    """4,000 activations of the least width that is preselected, made of 200 directions, 6 at a time."""
    return toy(4_000, choice.NARROWEST, 200, 6)[0]


def train_with_kills(train, arms, stream, folders, monkeypatch, seed: int) -> int:
    """Train, dying ten times at random steps; the number of times that it came to that."""
    died = 0
    for at_step in sorted(random.Random(seed).sample(range(STEPS), 10)):
        with monkeypatch.context() as patch:
            interrupt(patch, at_step)
            try:
                train(arms, stream, folders=folders, checkpoint_every=3, d_sae=20)
            except Killed:
                died += 1
    train(arms, stream, folders=folders, checkpoint_every=3, d_sae=20)
    return died


@every_architecture
def test_ten_kills_leave_no_trace(name, make_arm, train, stream, monkeypatch, tmp_path):
    """Alone, in company, with accumulation and on a trunk at once; each compared with the arm alone."""
    plain = make_arm(name, tokens=64 * STEPS)
    trunk = replace(plain, trunk_tokens=64 * 20, decay_share=0.3)
    arms = {
        "plain": plain,
        "accumulated": replace(plain, accumulate=4),
        "short budget": replace(trunk, tokens=64 * 20),
        "long budget": trunk,
    }
    folders = {label: tmp_path / label for label in arms}
    assert train_with_kills(train, arms, stream, folders, monkeypatch, seed=list(ARCHITECTURES).index(name)) == 10
    for label, arm in arms.items():
        _, alone = train({label: arm}, stream, d_sae=20)
        assert_same_bits(alone[label], folders[label])
    folder = {"plain": tmp_path / "killed alone"}
    train_with_kills(train, {"plain": plain}, stream, folder, monkeypatch, seed=100)
    assert_same_bits(folder["plain"], folders["plain"])


@every_architecture
def test_kills_company_and_a_trunk_leave_no_trace_where_rows_are_preselected(name, implementation, make_arm, train, wide, monkeypatch, tmp_path):
    """At a width that goes through bfloat16, with every implementation of the primitives."""
    preselected, original = [], encoding.rounded
    monkeypatch.setattr(encoding, "rounded", lambda *arguments: (preselected.append(1), original(*arguments))[1])
    plain = make_arm(name, 8, tokens=64 * STEPS)
    trunk = replace(plain, trunk_tokens=64 * 20, decay_share=0.3)
    arms = {"plain": plain, "short budget": replace(trunk, tokens=64 * 20), "long budget": trunk}
    folders = {label: tmp_path / label for label in arms}
    for at_step in (8, 17, 26):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interrupt(patch, at_step)
            train(arms, wide, folders=folders, checkpoint_every=3, d_sae=130)
    train(arms, wide, folders=folders, d_sae=130)
    for label, arm in arms.items():
        _, alone = train({label: arm}, wide, d_sae=130)
        assert_same_bits(alone[label], folders[label])
    assert len(preselected) > 2 * 4 * STEPS


@every_architecture
def test_each_seed_alone_decides_its_part(name, make_arm, train, toy):
    """Initial weights follow init_seed and nothing else; the data order comes with the stream."""
    first, _ = toy(2_000, 16, 32, 3)
    other_order = type(first)(first.x, seed=1)
    arm = make_arm(name, tokens=64 * 10)
    found = [
        weights(train({"a": replace(arm, init_seed=seed)}, order)[1]["a"])["W_dec"]
        for seed, order in ((0, first), (0, first), (1, first), (0, other_order))
    ]
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert not torch.equal(found[0], found[3])


def test_an_accumulated_gradient_is_that_of_the_whole_batch(make_arm, train, stream):
    """TopK chooses token by token, so parts change nothing but the order of sums."""
    arm = make_arm("topk", tokens=64 * 20, auxk_coefficient=0.0)
    _, whole = train({"a": arm}, stream)
    _, parts = train({"a": replace(arm, accumulate=8)}, stream)
    torch.testing.assert_close(weights(parts["a"])["W_dec"], weights(whole["a"])["W_dec"], atol=1e-4, rtol=1e-3)


def test_a_batch_that_does_not_divide_is_refused(make_arm, train, stream):
    with pytest.raises(StudyError, match="batch_size 64 and accumulate 5"):
        train({"a": make_arm("topk", accumulate=5)}, stream)


def test_another_machine_is_said_and_recorded(make_arm, train, stream, monkeypatch, tmp_path, caplog):
    arms, folders = {"a": make_arm("topk")}, {"a": tmp_path / "a"}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, 25)
        train(arms, stream, folders=folders)
    here = environment("cpu")
    monkeypatch.setattr(run, "environment", lambda device: here | {"device": "cpu of another kind"})
    with caplog.at_level(logging.WARNING):
        summaries, _ = train(arms, stream, folders=folders)
    assert f"from step 20 on {here['device']}" in caplog.text
    assert "found cpu of another kind" in caplog.text
    assert "the bits will differ" in caplog.text
    assert [(found["from_step"], found["device"]) for found in summaries["a"]["environments"]] == [(0, here["device"]), (20, "cpu of another kind")]


def test_what_decides_the_bits_on_equal_vector_instructions_is_recorded(monkeypatch):
    """Machines of one capability differ in bfloat16, and a release of Numba in how it orders sums."""
    here = environment("cpu")
    if choice.compiled_rows():
        import numba

        assert here["kernels"] == f"numba {numba.__version__}"
    assert here["bfloat16"] == choice.preselects(torch.zeros(1, 768))
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": not here["bfloat16"]})
    choice.bfloat16_is_fast.cache_clear()
    other = environment("cpu")
    choice.bfloat16_is_fast.cache_clear()
    assert other == here | {"bfloat16": not here["bfloat16"]}
    assert in_words(other) != in_words(here)


def test_the_same_machine_is_not_mentioned(make_arm, train, stream, monkeypatch, tmp_path, caplog):
    arms, folders = {"a": make_arm("topk")}, {"a": tmp_path / "a"}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, 25)
        train(arms, stream, folders=folders)
    with caplog.at_level(logging.WARNING):
        summaries, _ = train(arms, stream, folders=folders)
    assert "the bits will differ" not in caplog.text
    assert summaries["a"]["environments"] == [{"from_step": 0, **environment("cpu")}]
    assert environment("cpu")["torch"] == torch.__version__

"""An arm whose loss explodes is stopped; the others never notice."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from runs_compared import assert_same_bits, record

from sae_pipeline.errors import TrainingError
from sae_pipeline.saes.architectures import ARCHITECTURES
from sae_pipeline.saes.divergence import EXPLODED, DivergedArms
from sae_pipeline.saes.kernels import UnitRowAdam, encoding
from sae_pipeline.saes.run import Run


@pytest.fixture
def poisoned(monkeypatch):
    """Fill the parameters of the named arm with NaN before it takes a step."""

    def poison(name: str, at_step: int) -> None:
        original = Run.take_step

        def take_step(self, x, workspace):
            if self.name == name and self.step == at_step:
                self.sae.parameters.fill_(torch.nan)
            return original(self, x, workspace)

        monkeypatch.setattr(Run, "take_step", take_step)

    return poison


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_nan_in_one_arm_touches_no_bit_of_the_others(name, make_arm, train, stream, poisoned):
    short = {"tokens": 64 * 25}
    arms = {"bad": make_arm(name, **short), "same shape": make_arm(name, init_seed=1, **short), "accumulated": make_arm(name, accumulate=2, **short)}
    arms |= {other: make_arm(other, **short) for other in ARCHITECTURES}
    arms["bad too"] = make_arm(name, accumulate=2, init_seed=2, **short)
    alone = {label: train({label: arm}, stream)[1][label] for label, arm in arms.items() if "bad" not in label}
    poisoned("bad", 7)
    poisoned("bad too", 20)
    folders = {label: alone["same shape"].parent / f"beside {label}" for label in arms}
    with pytest.raises(DivergedArms) as failure:
        train(arms, stream, folders=folders)
    assert set(failure.value.summaries) == set(alone)
    for label, folder in alone.items():
        assert_same_bits(folder, folders[label])


@pytest.mark.parametrize("preselected", [False, True])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_nan_in_the_encoder_is_noticed_in_its_step_before_any_update(name, preselected, make_arm, train, stream, monkeypatch):
    """No selection may drop what is not a number, or a latent dies unseen and spoils the SAE at its end."""
    monkeypatch.setattr(encoding, "preselects", lambda rows: preselected)
    updates, original = [], UnitRowAdam.step
    monkeypatch.setattr(UnitRowAdam, "step", lambda self, rate: (updates.append(rate), original(self, rate)))
    original_step = Run.take_step

    def take_step(self, x, workspace):
        if self.step == 7:
            self.sae.W_enc[2, 3] = torch.nan
        return original_step(self, x, workspace)

    monkeypatch.setattr(Run, "take_step", take_step)
    with pytest.raises(DivergedArms, match="loss nan at step 8 of 60"):
        train({"a": make_arm(name)}, stream)
    assert len(updates) == 7


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_large_tilted_loss_of_a_massive_activation_is_no_divergence(name, make_arm, train, stream):
    """One token of the first batch has 10,000 times the others' energy: with a tilt its error is nearly the whole loss."""
    x = stream.x.clone()
    x[(x == stream.batch(0, 64)[5]).all(1)] *= 100.0
    summaries, folders = train({"a": make_arm(name, tilt=1.0)}, type(stream)(x))
    first = record(folders["a"])[0]
    assert first["loss"] > EXPLODED > 10 * first["mse"]
    assert summaries["a"]["steps"] == 60


def test_an_exploded_error_is_refused_where_the_loss_is_small(make_arm, train, toy):
    """A negative tilt all but ignores the tokens that are lost: half a batch of them costs log 2."""
    stream, _ = toy(2_000, 16, 32, 3)
    original = stream.batch
    factors = torch.tensor([1.0, 1e3]).repeat(32).unsqueeze(1)
    stream.batch = lambda start, size: original(start, size) * (factors if start == 64 * 7 else 1.0)
    with pytest.raises(DivergedArms, match=r"a has loss [\d.e+]+ at step 8 of 60") as failure:
        train({"a": make_arm("topk", tilt=-1.0)}, stream)
    assert failure.value.arms[0].loss > EXPLODED


def test_one_sentence_names_every_diverged_arm(make_arm, train, stream, poisoned):
    arms = {"bad": make_arm("topk"), "worse": make_arm("relu"), "good": make_arm("batchtopk")}
    poisoned("bad", 7)
    poisoned("worse", 3)
    with pytest.raises(TrainingError, match=r"toy: .* found 2 of 3 arms diverged: ") as failure:
        train(arms, stream)
    text = str(failure.value)
    assert "bad has loss nan at step 8 of 60 (learning_rate 0.003)" in text
    assert "worse has loss nan at step 4 of 60" in text
    assert "lower learning_rate (or an extra loss term's coefficient) or lengthen warmup_share in their entry of saes.arms" in text
    assert text.count(". ") == 0


def test_a_rate_that_is_too_high_is_given_up(make_arm, train, stream):
    with pytest.raises(TrainingError, match=r"a has loss .* of 60 \(learning_rate 1e\+06\)"):
        train({"a": make_arm("topk", learning_rate=1e6)}, stream)


def test_a_broken_stream_stops_every_arm(make_arm, train, toy):
    stream, _ = toy(2_000, 16, 32, 3)
    original = stream.batch
    stream.batch = lambda start, size: original(start, size) * (float("nan") if start == 64 * 7 else 1.0)
    with pytest.raises(DivergedArms, match="loss nan at step 8 of 60") as failure:
        train({"a": make_arm("topk"), "b": make_arm("relu")}, stream)
    assert [arm.step for arm in failure.value.arms] == [8, 8]
    assert max(start for start, _ in stream.reads) == 64 * 7  # nothing is read for arms that are gone


def test_a_last_update_that_is_not_finite_is_no_sae(make_arm, train, stream, monkeypatch, tmp_path):
    original = Run.take_step

    def take_step(self, x, workspace):
        found = original(self, x, workspace)
        if self.step == self.steps:
            self.sae.W_dec[3, 5] = torch.inf
        return found

    monkeypatch.setattr(Run, "take_step", take_step)
    with pytest.raises(DivergedArms, match="at step 60 of 60"):
        train({"a": make_arm("topk")}, stream, folders={"a": tmp_path / "a"})
    assert not (tmp_path / "a" / "training.json").exists()


def test_the_next_call_keeps_what_finished(make_arm, train, stream, poisoned, monkeypatch, tmp_path):
    arms = {"bad": make_arm("topk"), "good": make_arm("relu")}
    folders = {label: tmp_path / label for label in arms}
    with monkeypatch.context() as patch:
        original = Run.take_step
        patch.setattr(Run, "take_step", lambda self, x, workspace: original(self, x * torch.nan if self.name == "bad" else x, workspace))
        with pytest.raises(DivergedArms):
            train(arms, stream, folders=folders)
    written = (folders["good"] / "training.json").stat().st_mtime_ns
    summaries, _ = train(arms, stream, folders=folders)
    assert list(summaries) == ["bad", "good"]
    assert (folders["good"] / "training.json").stat().st_mtime_ns == written


def test_the_budgets_behind_a_diverged_trunk_diverge_with_it(make_arm, train, stream, poisoned):
    trunk = make_arm("topk", trunk_tokens=64 * 20, decay_share=0.3)
    arms = {str(steps): replace(trunk, tokens=64 * steps) for steps in (20, 33, 50)}  # branches at 14, 23 and 35
    poisoned("50", 18)
    with pytest.raises(DivergedArms) as failure:
        train(arms, stream)
    assert [(arm.name, arm.step, arm.steps) for arm in failure.value.arms] == [("33", 19, 33), ("50", 19, 50)]
    assert set(failure.value.summaries) == {"20"}


def test_the_others_are_recorded_to_their_end(make_arm, train, stream, poisoned, tmp_path):
    poisoned("bad", 5)
    folders = {label: tmp_path / label for label in ("bad", "good")}
    with pytest.raises(DivergedArms):
        train({"bad": make_arm("topk"), "good": make_arm("topk", init_seed=1)}, stream, folders=folders)
    assert record(folders["good"])[-1]["step"] == 60

"""Training runs on toy activations: what they reach, and that their bits depend on nothing they should not."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from runs_compared import Killed, assert_same_bits, interrupt, record, weights

from sae_pipeline.errors import StudyError
from sae_pipeline.progress import listening
from sae_pipeline.saes.architectures import ARCHITECTURES, Workspace
from sae_pipeline.saes.checkpoint import NAME as CHECKPOINT
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.initialisation import input_statistics
from sae_pipeline.saes.run import Run

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)


# ------------------------------------------------------------------ what training reaches


@every_architecture
def test_training_lowers_the_loss_and_keeps_unit_decoder_rows(name, make_arm, train, stream):
    summaries, folders = train({"a": make_arm(name, 4, tokens=64 * 200)}, stream)
    history = record(folders["a"])
    assert history[-1]["mse"] < 0.7 * history[0]["mse"]
    assert summaries["a"]["final_loss"] == history[-1]["mse"] == pytest.approx(1 - history[-1]["explained_variance"])
    torch.testing.assert_close(weights(folders["a"])["W_dec"].norm(dim=1), torch.ones(24), atol=1e-5, rtol=0)
    assert summaries["a"]["steps"] == 200
    assert summaries["a"]["tokens"] == 12_800
    assert not (folders["a"] / CHECKPOINT).exists()
    assert {f.name for f in folders["a"].iterdir()} == {"cfg.json", "sae_weights.safetensors", "training.json", "monitoring.jsonl"}


def test_topk_never_has_more_than_k_active_latents(make_arm, train, stream):
    summaries, folders = train({"a": make_arm("topk", 3)}, stream)
    active = (InferenceSAE.load(folders["a"]).encode(stream.x) > 0).sum(1)
    assert active.max() <= 3
    assert summaries["a"]["final_l0"] <= 3


def mean_l0(folder, x) -> float:
    return (InferenceSAE.load(folder).encode(x) > 0).sum(1).double().mean().item()


@pytest.mark.parametrize("sparsity", [3, 8])
@every_architecture
def test_inference_l0_meets_the_target_on_rows_outside_training_and_calibration(name, sparsity, make_arm, train, stream):
    summaries, folders = train({"a": make_arm(name, sparsity)}, stream)
    found = summaries["a"]["final_l0"]
    assert found == mean_l0(folders["a"], stream.held_out(1))
    assert summaries["a"]["l0_target_error"] == pytest.approx(found / sparsity - 1)
    assert found <= sparsity if name == "topk" else found == pytest.approx(sparsity, rel=0.02)


@pytest.mark.parametrize("name", [name for name in ARCHITECTURES if name != "topk"])
def test_thresholds_are_calibrated_on_the_first_half_of_what_is_held_out(name, make_arm, train, toy):
    """That half is unlike all other rows here, so that calibrating on any of them would miss the target on it."""
    stream, _ = toy(8_000, 16, 32, 3)
    stream.x[stream.rows :: 2] *= 1.5
    _, folders = train({"a": make_arm(name, 4)}, stream)
    assert mean_l0(folders["a"], stream.held_out(0)) == pytest.approx(4, rel=1e-3)
    assert mean_l0(folders["a"], stream.held_out(1)) != pytest.approx(4, rel=0.05)


def test_raw_units_are_read_from_the_stream_without_a_copy(make_arm, train, stream, monkeypatch):
    given, taken, original = [], [], Run.take_step

    class Watched(type(stream)):
        def batches(self, *arguments):
            for batch in super().batches(*arguments):
                given.append(batch.data_ptr())
                yield batch

    def take_step(self, x, workspace):
        taken.append(x.data_ptr())
        return original(self, x, workspace)

    monkeypatch.setattr(Run, "take_step", take_step)
    train({"a": make_arm("topk", normalise=False)}, Watched(stream.x))
    assert len(taken) == 60
    assert taken == given


@pytest.mark.parametrize("name", ["jumprelu", "relu", "gated"])
def test_steering_ends_at_the_target_before_calibration(name, make_arm, train, stream):
    _, folders = train({"a": make_arm(name, 5, tokens=256 * 500, batch_size=256)}, stream)
    last = record(folders["a"])[-20:]
    assert sum(row["l0"] for row in last) / len(last) == pytest.approx(5, rel=0.08)


def test_calibration_gives_l0_equal_to_k_on_activations_it_did_not_see(make_arm, toy):
    stream, _ = toy(40_000, 16, 32, 3)
    statistics = input_statistics(stream.x[:10_000], normalise=True)
    sae = ARCHITECTURES["batchtopk"](make_arm("batchtopk", 4), 16, 24, statistics, Workspace())
    sae.calibrate(statistics.sample)
    active = sae.export({}).encode(stream.x[10_000:]) > 0
    assert active.sum(1).double().mean().item() == pytest.approx(4, rel=0.02)


@every_architecture
def test_folding_the_normalisation_gives_the_same_function_in_raw_units(name, make_arm, stream):
    statistics = input_statistics(stream.x * 37, normalise=True)
    sae = ARCHITECTURES[name](make_arm(name, 4), 16, 24, statistics, Workspace())
    sae.calibrate(statistics.sample)
    raw, scale = sae.export({}), statistics.scale
    assert scale == pytest.approx((16 / (stream.x * 37).double().pow(2).sum(1).mean().item()) ** 0.5)
    in_units = {name: value * scale for name in ("threshold", "b_mag") if (value := getattr(raw, name)) is not None}
    normalised = replace(raw, W_enc=sae.W_enc, b_enc=sae.b_enc, W_dec=sae.W_dec, b_dec=sae.b_dec, **in_units)
    x = stream.x[:300] * 37
    f, f_normalised = raw.encode(x), normalised.encode(x * scale)
    torch.testing.assert_close(f * scale, f_normalised, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(raw.decode(f) * scale, normalised.decode(f_normalised), atol=1e-4, rtol=1e-4)


def test_auxk_revives_dead_latents(make_arm, train, toy):
    stream, _ = toy(20_000, 32, 256, 4)
    dead = []
    for coefficient in (0.0, 1 / 32):
        arm = make_arm("topk", 4, tokens=64 * 600, dead_window_share=0.05, auxk_coefficient=coefficient, b_dec_init="zero")
        summaries, _ = train({"a": arm}, stream, d_sae=256)
        dead.append(summaries["a"]["dead_share"])
    assert dead[1] < 0.6 * dead[0]


# ------------------------------------------------------------------ bits


@every_architecture
def test_same_seed_same_bits_and_another_seed_others(name, make_arm, train, stream):
    arms = {"a": make_arm(name), "b": make_arm(name, init_seed=1)}
    _, first = train(arms, stream)
    _, second = train(arms, stream)
    assert_same_bits(first["a"], second["a"])
    assert not torch.equal(weights(first["a"])["W_dec"], weights(first["b"])["W_dec"])


def test_an_arm_alone_has_the_bits_it_has_among_others(make_arm, train, stream):
    arms = {name: make_arm(name, tokens=64 * (30 + 10 * i)) for i, name in enumerate(ARCHITECTURES)}
    arms |= {"other batch": make_arm("topk", batch_size=48), "raw": make_arm("topk", normalise=False)}
    _, together = train(arms, stream)
    for name, arm in arms.items():
        _, alone = train({name: arm}, stream)
        assert_same_bits(alone[name], together[name])


def test_arms_of_one_batch_size_share_every_read(make_arm, train, toy):
    stream, _ = toy(2_000, 16, 32, 3)
    train({str(seed): make_arm("topk", init_seed=seed, tokens=64 * 20) for seed in range(3)}, stream)
    assert stream.reads == [(64 * step, 64) for step in range(20)]


@every_architecture
def test_a_killed_run_goes_on_with_the_bits_of_an_uninterrupted_one(name, make_arm, train, stream, monkeypatch, tmp_path):
    arms = {"a": make_arm(name), "late": make_arm(name, init_seed=1, tokens=64 * 45)}
    _, whole = train(arms, stream)
    folders = {label: tmp_path / label for label in arms}
    for at_step in (25, 37):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interrupt(patch, at_step)
            train(arms, stream, folders=folders)
    assert (folders["a"] / CHECKPOINT).exists()
    starts = []
    with listening(lambda track: starts.append(track.resumed_at)):
        train(arms, stream, folders=folders)
    assert starts[0] == 2 * 30 * 64  # both went on from step 30
    for label in arms:
        assert_same_bits(folders[label], whole[label])


def test_arms_left_at_different_steps_catch_up(make_arm, train, stream, monkeypatch, tmp_path):
    arms = {"a": make_arm("topk"), "b": make_arm("relu")}
    _, whole = train(arms, stream)
    folders = {label: tmp_path / label for label in arms}
    for label, at_step in (("a", 45), ("b", 15)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interrupt(patch, at_step)
            train({label: arms[label]}, stream, folders={label: folders[label]})
    train(arms, stream, folders=folders)
    for label in arms:
        assert_same_bits(folders[label], whole[label])


def test_steps_that_no_run_needs_are_not_read(make_arm, train, toy, monkeypatch, tmp_path):
    stream, _ = toy(2_000, 16, 32, 3)
    arms = {"long": make_arm("topk"), "short": make_arm("topk", tokens=64 * 20)}
    folders = {label: tmp_path / label for label in arms}
    for label, at_step in (("long", 45), ("short", 15)):
        with monkeypatch.context() as patch, pytest.raises(Killed):
            interrupt(patch, at_step)
            train({label: arms[label]}, stream, folders={label: folders[label]})
    stream.reads.clear()
    train(arms, stream, folders=folders)
    assert [start // 64 for start, _ in stream.reads] == [*range(10, 20), *range(40, 60)]


def cut_in_half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_one_bit(content: bytes) -> bytes:
    place = len(content) - 1_001
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


@pytest.mark.parametrize("damage", [cut_in_half, flip_one_bit, lambda _: b""])
def test_a_damaged_checkpoint_is_never_used(damage, make_arm, train, stream, monkeypatch, tmp_path, caplog):
    arms = {"a": make_arm("jumprelu")}
    _, whole = train(arms, stream)
    folders = {"a": tmp_path / "a"}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, 25)
        train(arms, stream, folders=folders)
    checkpoint = folders["a"] / CHECKPOINT
    checkpoint.write_bytes(damage(checkpoint.read_bytes()))
    with caplog.at_level(logging.WARNING):
        train(arms, stream, folders=folders)
    assert "training starts over" in caplog.text
    assert_same_bits(folders["a"], whole["a"])


def test_a_checkpoint_of_another_configuration_is_never_used(make_arm, train, stream, monkeypatch, tmp_path, caplog):
    folders = {"a": tmp_path / "a"}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, 25)
        train({"a": make_arm("topk", 3)}, stream, folders=folders)
    with caplog.at_level(logging.WARNING):
        train({"a": make_arm("topk", 4)}, stream, folders=folders)
    assert "another configuration" in caplog.text
    _, whole = train({"a": make_arm("topk", 4)}, stream)
    assert_same_bits(folders["a"], whole["a"])


def test_an_arm_that_finished_before_the_kill_is_not_trained_again(make_arm, train, stream, monkeypatch, tmp_path):
    arms = {"short": make_arm("topk", tokens=64 * 20), "long": make_arm("topk")}
    folders = {label: tmp_path / label for label in arms}
    with monkeypatch.context() as patch, pytest.raises(Killed):
        interrupt(patch, 35)
        train(arms, stream, folders=folders)
    written = (folders["short"] / "training.json").stat().st_mtime_ns
    summaries, _ = train(arms, stream, folders=folders)
    assert (folders["short"] / "training.json").stat().st_mtime_ns == written
    assert summaries["short"]["steps"] == 20
    assert list(summaries) == ["short", "long"]


# ------------------------------------------------------------------ refusals


@pytest.mark.parametrize(("name", "words"), [("topk", "k 600 > d_sae 24"), ("relu", "target_l0 600 > d_sae 24")])
def test_more_active_latents_than_there_are_is_refused(name, words, make_arm, train, stream):
    with pytest.raises(StudyError, match=words):
        train({"a": make_arm(name, 600)}, stream)

"""Warm start: before its first step an arm is the given SAE, and it is known by that SAE's weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_pipeline.errors import StudyError
from sae_pipeline.saes.architectures import ARCHITECTURES, Workspace
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.initialisation import input_statistics
from sae_pipeline.saes.warm_start import begin_with, content, given_sae

WIDTH, LATENTS = 12, 20


def random_sae(activation: str, seed: int = 3, norms: bool = True, common_threshold: bool = False) -> InferenceSAE:
    """An SAE with random weights of every kind that the activation has, whose decoder rows have norms of their own."""
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(LATENTS, WIDTH, generator=draw)
    if not norms:
        rows = rows / rows.norm(dim=1, keepdim=True)
    threshold = torch.full((LATENTS,), 0.7) if common_threshold else torch.rand(LATENTS, generator=draw)
    return InferenceSAE(
        W_enc=torch.randn(WIDTH, LATENTS, generator=draw),
        b_enc=torch.randn(LATENTS, generator=draw),
        W_dec=rows,
        b_dec=torch.randn(WIDTH, generator=draw),
        activation=activation,
        k=4 if activation == "topk" else None,
        threshold=threshold if activation == "jumprelu" else None,
        **({"r_mag": torch.randn(LATENTS, generator=draw), "b_mag": torch.randn(LATENTS, generator=draw)} if activation == "gated" else {}),
    )


@pytest.fixture
def inputs() -> Tensor:
    """Raw activations whose norm is far from what training normalises to."""
    return 5 * torch.randn(600, WIDTH, generator=torch.Generator().manual_seed(1)) + 2


def begun(arm, given: InferenceSAE, inputs: Tensor, d_sae: int = LATENTS):
    architecture = ARCHITECTURES[arm.architecture](arm, WIDTH, d_sae, input_statistics(inputs, normalise=arm.normalise), Workspace())
    begin_with(architecture, given, "toy")
    return architecture


EXACT = [
    ("relu", "relu"), ("relu", "jumprelu"), ("relu", "gated"),
    ("jumprelu", "jumprelu"), ("jumprelu", "gated"),
    ("gated", "gated"), ("gated", "jumprelu"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "architecture"), EXACT)
@pytest.mark.parametrize("normalise", [True, False])
def test_before_the_first_step_the_function_is_that_of_the_given_sae(make_arm, inputs, given, architecture, normalise):
    sae = random_sae(given)
    exported = begun(make_arm(architecture, normalise=normalise), sae, inputs).export({})
    assert torch.allclose(exported.decode(exported.encode(inputs)), sae.decode(sae.encode(inputs)), rtol=1e-6, atol=1e-4)
    # Latents come out in units of unit-norm decoder rows.
    assert torch.allclose(exported.encode(inputs), sae.encode(inputs) * sae.W_dec.norm(dim=1), rtol=1e-5, atol=1e-4)
    assert torch.allclose(exported.W_dec.norm(dim=1), torch.ones(LATENTS))


@pytest.mark.parametrize(("given", "architecture"), [("topk", "topk"), ("jumprelu", "batchtopk"), ("jumprelu", "matryoshka"), ("relu", "relu")])
def test_with_unit_rows_weights_are_the_given_ones_to_1e_6(make_arm, inputs, given, architecture):
    sae = random_sae(given, norms=False, common_threshold=True)
    exported = begun(make_arm(architecture), sae, inputs).export({})
    for name in ("W_enc", "b_enc", "W_dec", "b_dec"):
        assert torch.allclose(getattr(exported, name), getattr(sae, name), rtol=1e-6, atol=1e-6), name
    expected, found = sae.decode(sae.encode(inputs)), exported.decode(exported.encode(inputs))
    assert (found - expected).norm() <= 1e-6 * expected.norm()


@pytest.mark.parametrize("architecture", sorted(ARCHITECTURES))
def test_what_was_trained_here_goes_on_where_it_ended(make_arm, train, stream, tmp_path, architecture):
    _, folders = train({"given": make_arm(architecture)}, stream)
    given = given_sae(folders["given"])
    statistics = input_statistics(stream.sample(4_096), normalise=True)
    arm = ARCHITECTURES[architecture](make_arm(architecture, init_seed=9), 16, 24, statistics, Workspace())
    begin_with(arm, given, "toy")
    exported, x = arm.export({}), stream.x[:2_000]
    expected, found = given.decode(given.encode(x)), exported.decode(exported.encode(x))
    assert (found - expected).norm() <= 1e-6 * expected.norm()


def test_a_threshold_becomes_a_bias_of_relu_with_the_same_latents_active(make_arm, inputs):
    sae = random_sae("jumprelu", norms=False)
    found = begun(make_arm("relu"), sae, inputs).export({}).encode(inputs)
    expected = sae.encode(inputs)
    assert torch.equal(found > 1e-4, expected > sae.threshold + 1e-4)
    assert torch.allclose(found, (expected - sae.threshold).clamp_min(0), atol=1e-4)


@pytest.mark.parametrize("architecture", ["relu", "jumprelu", "gated"])
def test_topk_weights_start_a_steered_arm_at_its_target(make_arm, inputs, architecture):
    arm = begun(make_arm(architecture, 6), random_sae("topk", norms=False), inputs)
    active = (arm.export({}).encode(inputs) > 0).sum(1).double().mean().item()
    assert active == pytest.approx(6, rel=0.01)


def test_further_latents_begin_as_without_a_warm_start(make_arm, inputs):
    sae, make = random_sae("jumprelu"), make_arm("jumprelu")
    statistics = input_statistics(inputs, normalise=True)
    fresh = ARCHITECTURES["jumprelu"](make, WIDTH, LATENTS + 10, statistics, Workspace())
    arm = begun(make, sae, inputs, LATENTS + 10)
    for name in ("W_dec", "b_enc"):
        assert torch.equal(getattr(arm, name)[LATENTS:], getattr(fresh, name)[LATENTS:])
    assert torch.equal(arm.W_enc[:, LATENTS:], fresh.W_enc[:, LATENTS:])
    assert torch.equal(arm.latent["threshold"][LATENTS:], fresh.latent["threshold"][LATENTS:])
    latents = arm.export({}).encode(inputs)[:, :LATENTS]
    assert torch.allclose(latents, sae.encode(inputs) * sae.W_dec.norm(dim=1), rtol=1e-5, atol=1e-4)


def test_a_latent_without_a_decoder_row_changes_nothing_and_keeps_a_direction(make_arm, inputs):
    sae = random_sae("relu")
    sae.W_dec[3] = 0
    exported = begun(make_arm("relu"), sae, inputs).export({})
    assert torch.allclose(exported.W_dec.norm(dim=1), torch.ones(LATENTS))
    assert torch.allclose(exported.decode(exported.encode(inputs)), sae.decode(sae.encode(inputs)), rtol=1e-6, atol=1e-4)


def test_a_penalty_goes_on_with_its_coefficient(make_arm, inputs):
    given = replace(random_sae("relu"), metadata={"architecture": "relu", "sparsity_coefficient": 0.0321})
    assert begun(make_arm("relu"), given, inputs).controller.coefficient == pytest.approx(0.0321)
    assert begun(make_arm("jumprelu"), given, inputs).controller.coefficient != pytest.approx(0.0321)


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "gated"])
def test_an_interrupted_warm_start_goes_on_with_the_same_bits(make_arm, train, stream, tmp_path, architecture, monkeypatch):
    _, folders = train({"given": make_arm(architecture)}, stream)
    warm = {"warm_start": str(folders["given"]), "warm_start_content": content(given_sae(folders["given"])), "data_seed": 0}
    arm = make_arm(architecture, init_seed=5, **warm)
    _, whole = train({"arm": arm}, stream)
    folder = tmp_path / "arm"

    class Interrupted(Exception):
        pass

    class Stream(type(stream)):
        def batches(self, *args):
            for count, batch in enumerate(super().batches(*args)):
                if count == 33:
                    raise Interrupted
                yield batch

    with pytest.raises(Interrupted):
        train({"arm": arm}, Stream(stream.x, stream.seed), folders={"arm": folder})
    assert (folder / "checkpoint.safetensors").exists()
    train({"arm": arm}, stream, folders={"arm": folder})
    assert (folder / "sae_weights.safetensors").read_bytes() == (whole["arm"] / "sae_weights.safetensors").read_bytes()


def test_a_warm_start_is_ahead_of_random_weights_after_one_step(make_arm, train, stream):
    _, folders = train({"given": make_arm("topk", tokens=64 * 300)}, stream)
    one_step = {"tokens": 64, "warmup_share": 0.0, "learning_rate": 1e-5}
    arms = {"warm": make_arm("topk", warm_start=str(folders["given"]), **one_step), "cold": make_arm("topk", **one_step)}
    losses = {name: summary["final_loss"] for name, summary in train(arms, stream)[0].items()}
    assert losses["warm"] < 0.5 * losses["cold"]


def test_content_follows_the_weights_and_not_the_folder(tmp_path):
    sae = random_sae("jumprelu")
    for name, given in {"a": sae, "b": sae, "c": replace(sae, b_dec=sae.b_dec + 1e-6), "d": replace(sae, metadata={"note": "other"})}.items():
        (tmp_path / name).mkdir()
        given.save(tmp_path / name)
    a, b, c, d = (content(given_sae(tmp_path / name)) for name in "abcd")
    assert a == b == d != c


def test_an_sae_that_changed_since_the_study_was_read_is_refused(make_arm, train, stream, tmp_path):
    random_sae("relu").save(tmp_path)
    with pytest.raises(StudyError, match="found another one"):
        train({"arm": make_arm("relu", warm_start=str(tmp_path), warm_start_content="0" * 64)}, stream)


def test_widths_that_do_not_fit_are_refused(make_arm, inputs):
    sae = random_sae("topk")
    with pytest.raises(StudyError, match=r"toy: warm_start: expected an SAE of width 12 with at most 19 latents, found width 12 and 20 latents; "):
        begun(make_arm("topk"), sae, inputs, LATENTS - 1)
    wide = torch.randn(100, WIDTH + 1)
    with pytest.raises(StudyError, match="of width 13 with at most 20 latents, found width 12"):
        arm = ARCHITECTURES["topk"](make_arm("topk"), WIDTH + 1, LATENTS, input_statistics(wide, normalise=True), Workspace())
        begin_with(arm, sae, "toy")


@pytest.mark.parametrize("found", [0.0, -1.0, float("nan"), float("inf"), "high", None, True])
def test_a_coefficient_that_no_penalty_can_have_is_refused(found, tmp_path):
    replace(random_sae("relu"), metadata={"architecture": "relu", "sparsity_coefficient": found}).save(tmp_path)
    with pytest.raises(
        StudyError, match=r"^warm_start: expected sparsity_coefficient to be a finite number above 0, found .*; correct it, or remove it"
    ):
        given_sae(tmp_path)


def test_a_folder_without_an_sae_is_refused_in_a_sentence(tmp_path: Path):
    with pytest.raises(StudyError, match=r"^warm_start: expected the folder of an SAE, found none at .*nowhere; correct the path"):
        given_sae(tmp_path / "nowhere")
    (tmp_path / "cfg.json").write_text(json.dumps({}))
    with pytest.raises(StudyError, match=r"^warm_start: "):
        given_sae(tmp_path)

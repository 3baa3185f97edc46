"""What whole runs end with: the reference's loss, the planted dictionary, the target L0 on activations not calibrated on."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from sae_pipeline.saes import reference
from sae_pipeline.saes.architectures import ARCHITECTURES, Workspace
from sae_pipeline.saes.initialisation import input_statistics
from sae_pipeline.saes.kernels import UnitRowAdam

every_architecture = pytest.mark.parametrize("name", ARCHITECTURES)

STEPS, BATCH = 500, 64


def final_loss(name: str, make_arm, stream, *, by_reference: bool, **changes) -> float:
    """Loss on a large batch after 500 steps: the engine's in float32, or the dense formulas with torch's Adam in float64."""
    dtype = torch.float64 if by_reference else torch.float32
    statistics = input_statistics(stream.x[:8_000], normalise=True)
    sae = ARCHITECTURES[name](make_arm(name, 3, tokens=STEPS * BATCH, **changes), 16, 48, statistics, Workspace(), dtype=dtype)
    x = statistics.sample.to(dtype)
    slow = torch.optim.Adam([sae.parameters], eps=6.25e-10)
    fast = UnitRowAdam(sae.parameters, sae.gradients, sae.W_dec)
    for step in range(STEPS):
        batch = x[step % 125 * BATCH :][:BATCH]
        rate = 2e-3 * min(1, (step + 1) / 25, (STEPS - step) / 100)
        if by_reference:
            slow.param_groups[0]["lr"] = rate
            reference.take_step(sae, slow, batch)
        else:
            parts = sae.loss_and_gradients(batch)
            fast.step(rate)
            sae.adjust(parts)
    return reference.loss_and_gradients(sae, x[:2_000])["loss"]


@pytest.mark.parametrize("objectives", [{}, {"tilt": 1.0, "l1_coefficient": 0.01, "diversity_coefficient": 0.1}], ids=["plain", "objectives"])
@every_architecture
def test_500_steps_end_with_the_loss_of_the_reference(name, objectives, make_arm, stream):
    fast = final_loss(name, make_arm, stream, by_reference=False, **objectives)
    assert fast == pytest.approx(final_loss(name, make_arm, stream, by_reference=True, **objectives), rel=1e-3)


@every_architecture
def test_a_planted_dictionary_is_recovered(name, make_arm, train, toy):
    """40 directions in 32 dimensions, 2 at a time, by 96 latents in 800 steps of 128; the nested prefix has room for all."""
    stream, truth = toy(40_000, 32, 40, 2)
    arm = make_arm(name, 2, tokens=128 * 800, batch_size=128, learning_rate=6e-3, matryoshka_shares=(0.5, 1.0))
    summaries, folders = train({"a": arm}, stream, d_sae=96, monitor_every=100)
    learned = load_file(folders["a"] / "sae_weights.safetensors")["W_dec"]
    assert (truth @ learned.t()).max(dim=1).values.mean() > 0.95
    assert summaries["a"]["final_loss"] < 0.3


@every_architecture
def test_calibration_gives_the_target_l0_on_activations_it_did_not_see(name, make_arm, toy):
    stream, _ = toy(40_000, 16, 32, 3)
    statistics = input_statistics(stream.x[:8_000], normalise=True)
    sae = ARCHITECTURES[name](make_arm(name, 4), 16, 24, statistics, Workspace())
    draw = torch.Generator().manual_seed(5)
    for parameter in ("W_enc", "b_enc", *sae.latent_parameters):
        view = sae.views(sae.parameters)[parameter]
        view.add_(0.05 * torch.randn(view.shape, generator=draw))
    sae.calibrate(stream.x[8_000:24_000] * statistics.scale)
    l0 = (sae.export({}).encode(stream.x[24_000:]) > 0).sum(1).double().mean().item()
    assert l0 <= 4 if name == "topk" else l0 == pytest.approx(4, rel=0.02)

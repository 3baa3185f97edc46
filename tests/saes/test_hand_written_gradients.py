"""The hand-written training steps against autograd on the dense formulas of ``saes/reference.py``, in float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sae_pipeline.saes import reference
from sae_pipeline.saes.architectures import ARCHITECTURES, Workspace
from sae_pipeline.saes.architectures.jumprelu import BANDWIDTH
from sae_pipeline.saes.initialisation import input_statistics

D_MODEL, D_SAE, N = 12, 40, 96

OBJECTIVES = {
    "plain": {},
    "l1": {"l1_coefficient": 0.1},
    "diversity": {"diversity_coefficient": 0.3},
    "tilt": {"tilt": 2.0},
    "negative tilt": {"tilt": -1.5},
    "all": {"l1_coefficient": 0.1, "diversity_coefficient": 0.3, "tilt": 0.7},
}


def build(architecture: str, make_arm, seed: int = 3, sparsity: float = 5, *, n: int = N, d_model: int = D_MODEL, d_sae: int = D_SAE, **changes):
    """An SAE in float64 away from its initial symmetry, and a batch of ``n``."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(max(n, 96), d_model, generator=generator, dtype=torch.float64) * 2 + 0.5
    statistics = input_statistics(x, normalise=True)
    sae = ARCHITECTURES[architecture](make_arm(architecture, sparsity, **changes), d_model, d_sae, statistics, Workspace(), dtype=torch.float64)
    sae.parameters.add_(0.1 * torch.randn(sae.parameters.shape, generator=generator, dtype=torch.float64))
    sae.W_dec.div_(sae.W_dec.norm(dim=1, keepdim=True))
    if architecture == "jumprelu":
        sae.raise_thresholds(0.0)  # back above their bound
    return sae, statistics.sample[:n]


def assert_equal_to_autograd(architecture: str, make_arm, dead_latents: int, **settings) -> dict[str, float]:
    """Every loss part and every parameter's gradient; returns the parts."""
    sparse, x = build(architecture, make_arm, **settings)
    dense, _ = build(architecture, make_arm, **settings)
    for sae in (sparse, dense):
        sae.tokens_since_fired[:dead_latents] = sae.dead_window
    found, expected = sparse.loss_and_gradients(x), reference.loss_and_gradients(dense, x)
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    for name, gradient in dense.gradient.items():
        torch.testing.assert_close(sparse.gradient[name], gradient, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")
    assert torch.equal(sparse.tokens_since_fired, dense.tokens_since_fired)
    return found


@pytest.mark.parametrize("objectives", OBJECTIVES)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_loss_parts_and_gradients_equal_autograd(architecture, objectives, make_arm):
    parts = {dead: assert_equal_to_autograd(architecture, make_arm, dead, **OBJECTIVES[objectives]) for dead in (0, 3, 20)}
    for changed, part in (("l1_coefficient", "l1"), ("diversity_coefficient", "diversity"), ("tilt", "effective_sample_size")):
        assert (part in parts[0]) == (changed in OBJECTIVES[objectives])
    if "auxk" in parts[0]:
        assert parts[0]["auxk"] == 0 < parts[3]["auxk"]


@given(
    architecture=st.sampled_from(sorted(ARCHITECTURES)),
    objectives=st.sampled_from(sorted(OBJECTIVES)),
    n=st.integers(1, 7),
    d_model=st.integers(1, 9),
    d_sae=st.integers(1, 12),
    sparsity=st.integers(1, 12),
    dead=st.integers(0, 12),
    seed=st.integers(0, 100),
)
@example(architecture="topk", objectives="all", n=1, d_model=5, d_sae=3, sparsity=3, dead=1, seed=0)
@example(architecture="batchtopk", objectives="all", n=1, d_model=5, d_sae=8, sparsity=8, dead=8, seed=0)
@example(architecture="matryoshka", objectives="all", n=2, d_model=5, d_sae=2, sparsity=1, dead=0, seed=0)
@example(architecture="gated", objectives="all", n=1, d_model=9, d_sae=2, sparsity=2, dead=0, seed=0)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_gradients_equal_autograd_at_odd_sizes(make_arm, architecture, objectives, n, d_model, d_sae, sparsity, dead, seed):
    """One token, every latent active, fewer latents than dimensions."""
    shape = {"n": n, "d_model": d_model, "d_sae": d_sae, "sparsity": min(sparsity, d_sae), "seed": seed}
    assert_equal_to_autograd(architecture, make_arm, min(dead, d_sae), **shape, **OBJECTIVES[objectives])


def test_gradients_equal_autograd_when_nothing_is_active(make_arm):
    for architecture in ARCHITECTURES:
        for build_with in OBJECTIVES.values():
            sparse, x = build(architecture, make_arm, **build_with)
            dense, _ = build(architecture, make_arm, **build_with)
            for sae in (sparse, dense):
                sae.b_enc.fill_(-1e3)
            assert sparse.loss_and_gradients(x) == pytest.approx(reference.loss_and_gradients(dense, x), rel=1e-9)
            torch.testing.assert_close(sparse.gradients, dense.gradients, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "matryoshka"])
def test_auxk_reaches_encoder_and_decoder_of_dead_latents(architecture, make_arm):
    sae, x = build(architecture, make_arm)
    sae.b_enc[:8] = -3.0  # out of reach of the selection, so all their gradient is AuxK's; a few tokens still pass the ReLU
    sae.W_enc[:, :8] *= 2
    sae.tokens_since_fired[:8] = sae.dead_window
    assert sae.loss_and_gradients(x)["auxk"] > 0
    assert sae.gradient["W_dec"][:8].norm() > 0
    assert sae.gradient["W_enc"][:, :8].norm() > 0
    assert sae.gradient["b_enc"][:8].norm() > 0


def test_batches_larger_than_a_chunk_have_the_same_gradients(make_arm, monkeypatch):
    for architecture in ARCHITECTURES:
        whole, x = build(architecture, make_arm)
        whole.loss_and_gradients(x)
        with monkeypatch.context() as patch:
            for module in ("encoding",):
                patch.setattr(f"sae_pipeline.saes.kernels.{module}.CHUNK", 17)
            chunked, x = build(architecture, make_arm)
            chunked.loss_and_gradients(x)
        torch.testing.assert_close(chunked.gradients, whole.gradients, rtol=0, atol=1e-12)


def test_batchtopk_selects_the_same_with_and_without_its_running_floor(make_arm):
    sae, x = build("batchtopk", make_arm)
    fresh = sae.select(x - sae.b_dec)
    assert sae._floor > 0
    again = sae.select(x - sae.b_dec)
    sae._floor = 1e6  # too high: it must be noticed and dropped
    rescued = sae.select(x - sae.b_dec)
    for other in (again, rescued):
        assert all(torch.equal(a, b) for a, b in zip(fresh[:3], other[:3], strict=True))
    assert len(fresh.values) == 5 * N


def test_jumprelu_threshold_gradient_of_one_latent_by_hand(make_arm):
    """One latent, one token at threshold - bandwidth / 4: inactive but near, so only the estimators act."""
    sae, _ = build("jumprelu", make_arm)
    sae.parameters.zero_()
    bandwidth, t = BANDWIDTH * sae.statistics.rms, 1.0
    sae.threshold.fill_(100.0)
    sae.threshold[0] = t
    sae.W_enc[0, 0] = sae.W_dec[0, 0] = 1.0
    x = torch.zeros(1, D_MODEL, dtype=torch.float64)
    x[0, 0] = t - bandwidth / 4
    parts = sae.loss_and_gradients(x)
    # x_hat = 0, so dL/df = -2 x / V; dL/dt = -(t dL/df + coefficient) / bandwidth.
    expected = -(t * (-2 * x[0, 0].item() / sae.statistics.variance) + sae.controller.coefficient) / bandwidth
    assert parts["l0"] == 0
    assert sae.gradient["threshold"][0].item() == pytest.approx(expected, rel=1e-9)
    assert sae.gradient["threshold"][1:].abs().sum() == 0

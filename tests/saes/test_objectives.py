"""Terms of the loss against hand computation and independent tools: tilt, diversity, extra L1, nested prefixes, the gate."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp, softmax

from sae_pipeline.saes import objectives
from sae_pipeline.saes.architectures import ARCHITECTURES, Workspace
from sae_pipeline.saes.architectures.matryoshka import prefix_widths
from sae_pipeline.saes.initialisation import input_statistics
from sae_pipeline.saes.kernels import SparseCode
from sae_pipeline.saes.monitoring import MONITORING_FILE
from sae_pipeline.saes.objectives import DIVERSITY_TOKENS, add_diversity, effective_sample_size, tilted

losses_of_tokens = st.lists(st.floats(0, 50), min_size=1, max_size=30)


# ------------------------------------------------------------------ tilt


@given(losses=losses_of_tokens, t=st.floats(-20, 20).filter(lambda t: abs(t) > 1e-3))
@settings(max_examples=200, deadline=None)
def test_tilted_risk_and_weights_are_scipys(losses, t):
    risk, weights = tilted(torch.tensor(losses, dtype=torch.float64), t)
    array = np.array(losses)
    assert risk == pytest.approx(logsumexp(t * array, b=1 / len(array)) / t, rel=1e-9, abs=1e-9)
    np.testing.assert_allclose(weights.numpy(), softmax(t * array), rtol=1e-9, atol=1e-12)


@given(losses=losses_of_tokens)
@settings(max_examples=50, deadline=None)
def test_a_vanishing_tilt_is_the_mean(losses):
    values = torch.tensor(losses, dtype=torch.float64)
    risk, weights = tilted(values, 0.0)
    assert risk == pytest.approx(np.mean(losses))
    assert weights.tolist() == pytest.approx([1 / len(losses)] * len(losses))
    for t in (1e-7, -1e-7):
        # The next term is t / 2 times the variance.
        assert tilted(values, t)[0] == pytest.approx(risk, abs=1e-4)
        assert tilted(values, t)[1].tolist() == pytest.approx(weights.tolist(), rel=1e-4)


@given(losses=losses_of_tokens)
@settings(max_examples=50, deadline=None)
def test_tilted_risk_rises_with_the_tilt_from_the_least_to_the_greatest_loss(losses):
    values = torch.tensor(losses, dtype=torch.float64)
    risks = [tilted(values, t)[0] for t in (-1e6, -5.0, -1.0, 0.0, 1.0, 5.0, 1e6)]
    assert all(low <= high + 1e-9 for low, high in pairwise(risks))
    assert risks[0] == pytest.approx(min(losses), abs=1e-4)
    assert risks[-1] == pytest.approx(max(losses), abs=1e-4)


def test_losses_whose_exponential_overflows_have_a_finite_tilted_risk():
    risk, weights = tilted(torch.tensor([1e4, 0.0]), 10.0)
    assert risk == pytest.approx(1e4 - math.log(2) / 10)
    assert weights.tolist() == [1.0, 0.0]


def test_effective_sample_size_counts_the_tokens_that_matter():
    assert effective_sample_size(torch.full((8,), 1 / 8)) == pytest.approx(8)
    assert effective_sample_size(torch.tensor([1.0, 0.0, 0.0])) == 1
    assert effective_sample_size(torch.tensor([0.5, 0.25, 0.25])) == pytest.approx(1 / 0.375)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_positive_tilt_counts_more_than_the_mean_and_a_negative_less(name, make_arm, stream):
    statistics = input_statistics(stream.x[:400], normalise=True)
    parts = {}
    for t in (-2.0, 0.0, 2.0):
        sae = ARCHITECTURES[name](make_arm(name, tilt=t), 16, 24, statistics, Workspace())
        parts[t] = sae.loss_and_gradients(statistics.sample)
    assert parts[-2.0]["loss"] < parts[0.0]["loss"] < parts[2.0]["loss"]
    assert parts[-2.0]["mse"] == pytest.approx(parts[0.0]["mse"], rel=1e-5)
    assert 1 < parts[2.0]["effective_sample_size"] < 400


# ------------------------------------------------------------------ diversity


def code_of(active: list[list[int]]) -> SparseCode:
    """Latents of each token, all with the same value."""
    starts = torch.tensor([0, *np.cumsum([len(latents) for latents in active])])
    latents = torch.tensor([latent for token in active for latent in token], dtype=torch.int64)
    return SparseCode(starts, latents, torch.full((len(latents),), 2.0, dtype=torch.float64))


ROWS = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0], [0.8, 0.6]], dtype=torch.float64)


def test_diversity_of_three_rows_by_hand():
    """Cosines .6 (0, 1), 0 (0, 2), .8 (1, 2). Latents 0 and 1 meet on both tokens, 2 meets them on the second."""
    gradient = torch.ones_like(ROWS)
    value = add_diversity(code_of([[0, 1], [2, 0, 1]]), ROWS, gradient, 0.5)
    # 2 + 6 ordered pairs; both orders of a pair count.
    assert value == pytest.approx((2 * 0.36 + 2 * (0.36 + 0.0 + 0.64)) / 8)
    # Of row 0: 4 cos w_1 / 8 for either token; row 3 is never active.
    assert (gradient[0] - 1).tolist() == pytest.approx([0.5 * 4 * 2 * 0.6 * 0.6 / 8, 0.5 * 4 * 2 * 0.6 * 0.8 / 8])
    assert (gradient[3] - 1).tolist() == [0, 0]


def test_diversity_does_not_depend_on_how_tokens_are_grouped(monkeypatch):
    active = [[0, 1], [], [3, 2, 0, 1], [2], [1, 3]]
    gradients = []
    for elements in (2**20, 30, 1):
        monkeypatch.setattr(objectives, "GROUP_ELEMENTS", elements)
        gradients.append(torch.zeros_like(ROWS))
        value = add_diversity(code_of(active), ROWS, gradients[-1], 1.0)
        assert value == pytest.approx(add_diversity(code_of(active[::-1]), ROWS, torch.zeros_like(ROWS), 1.0))
        torch.testing.assert_close(gradients[-1], gradients[0], rtol=1e-12, atol=1e-15)


def test_diversity_reads_the_first_tokens_and_only_active_latents():
    first, rest = [[0, 1]] * DIVERSITY_TOKENS, [[2, 3]] * 50
    assert add_diversity(code_of(first + rest), ROWS, torch.zeros_like(ROWS), 1.0) == pytest.approx(0.36)
    code = code_of([[0, 1, 2]])
    code.values[2] = 0  # held, but not active
    assert add_diversity(code, ROWS, torch.zeros_like(ROWS), 1.0) == pytest.approx(0.36)


@pytest.mark.parametrize("active", [[[]], [[0], [1], []]])
def test_latents_that_are_never_active_together_have_no_diversity_term(active):
    gradient = torch.zeros_like(ROWS)
    assert add_diversity(code_of(active), ROWS, gradient, 1.0) == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", ["topk", "gated"])
def test_training_with_the_diversity_term_makes_co_active_rows_less_alike(name, make_arm, train, stream):
    arms = {str(c): make_arm(name, 4, tokens=64 * 150, diversity_coefficient=c) for c in (1e-9, 3.0)}
    _, folders = train(arms, stream)
    weak, strong = (json.loads((folders[label] / MONITORING_FILE).read_text().splitlines()[-1])["diversity"] for label in arms)
    assert strong < 0.7 * weak


# ------------------------------------------------------------------ by hand, one token


def one_token(name: str, make_arm, width: int, latents: int, sparsity: int, **changes):
    """An SAE whose parameters are all zero, on inputs with total variance ``9 * width``."""
    sample = torch.cat([torch.full((1, width), 3.0), torch.full((1, width), -3.0)]).double()
    arm = make_arm(name, sparsity, b_dec_init="zero", normalise=False, **changes)
    sae = ARCHITECTURES[name](arm, width, latents, input_statistics(sample, normalise=False), Workspace(), dtype=torch.float64)
    sae.parameters.zero_()
    return sae, 9.0 * width


def test_two_nested_prefixes_by_hand(make_arm):
    """x = (3, 2, 1), identity weights, latents 0 and 1 kept: the prefix of one latent misses (0, 2, 1), the whole (0, 0, 1)."""
    sae, variance = one_token("matryoshka", make_arm, 3, 3, 2, matryoshka_shares=(1 / 3, 1.0))
    assert sae.prefixes == (1, 3)
    sae.W_enc.copy_(torch.eye(3))
    sae.W_dec.copy_(torch.eye(3))
    parts = sae.loss_and_gradients(torch.tensor([[3.0, 2.0, 1.0]], dtype=torch.float64))
    assert parts["mse"] == pytest.approx(1 / variance)
    assert parts["loss"] == parts["prefix_mse"] == pytest.approx((5 + 1) / 2 / variance)
    # Latent 0 is pulled by both prefixes, latent 1 by the whole alone; (1/2) 2 f error / V.
    pulls = sae.gradient["W_dec"] * variance
    assert pulls[0].tolist() == pytest.approx([0, 3 * -2, 3 * (-1 - 1)])
    assert pulls[1].tolist() == pytest.approx([0, 0, 2 * -1])
    assert pulls[2].tolist() == [0, 0, 0]
    assert (sae.gradient["b_enc"] * variance).tolist() == [0, 0, 0]  # no active latent's direction has an error


def test_gated_sae_of_one_latent_by_hand(make_arm):
    """x = (3, 0): gate 3 - 1 = 2, magnitude 3 * 2 - 1 = 5; the SAE's error is (2, 0), its gate's (-1, 0)."""
    sae, variance = one_token("gated", make_arm, 2, 1, 1)
    sae.W_enc[0, 0] = sae.W_dec[0, 0] = 1.0
    sae.b_enc[0], sae.latent["r_mag"][0], sae.latent["b_mag"][0] = -1.0, math.log(2), -1.0
    parts = sae.loss_and_gradients(torch.tensor([[3.0, 0.0]], dtype=torch.float64))
    coefficient, spread = sae.controller.coefficient, variance**0.5
    assert (parts["mse"], parts["gate_mse"], parts["sparsity"]) == pytest.approx((4 / variance, 1 / variance, 2 / spread))
    assert parts["loss"] == pytest.approx(5 / variance + coefficient * 2 / spread)
    gate, magnitude = -2 / variance + coefficient / spread, 4 / variance
    found = {name: gradient.flatten()[0].item() for name, gradient in sae.gradient.items()}
    assert found == pytest.approx(
        {
            "b_enc": gate,
            "b_mag": magnitude,
            "r_mag": magnitude * 6,  # magnitude without its bias
            "W_enc": 3 * (gate + 2 * magnitude),
            "W_dec": 5 * magnitude,  # nothing from the gate
            "b_dec": magnitude - (gate + 2 * magnitude),
        }
    )


def test_extra_l1_by_hand(make_arm):
    """x = (3, 0) and one latent of value 3: 0.5 * 3 / sqrt(V), and 0.5 / sqrt(V) on the encoder's bias."""
    sae, variance = one_token("topk", make_arm, 2, 1, 1, l1_coefficient=0.5)
    sae.W_enc[0, 0] = sae.W_dec[0, 0] = 1.0
    parts = sae.loss_and_gradients(torch.tensor([[3.0, 0.0]], dtype=torch.float64))
    assert parts["mse"] == 0
    assert parts["l1"] == pytest.approx(3 / variance**0.5)
    assert parts["loss"] == pytest.approx(0.5 * parts["l1"])
    assert sae.gradient["b_enc"].item() == pytest.approx(0.5 / variance**0.5)


# ------------------------------------------------------------------ prefixes


@given(st.lists(st.floats(1e-4, 1), min_size=1, max_size=8), st.integers(1, 5_000))
def test_prefixes_rise_from_at_least_one_latent_to_all(shares, d_sae):
    widths = prefix_widths((*sorted(shares), 1.0), d_sae)
    assert widths[0] >= 1
    assert widths[-1] == d_sae
    assert all(a < b for a, b in pairwise(widths))


def test_prefixes_are_named_in_the_export(make_arm, stream):
    sae = ARCHITECTURES["matryoshka"](make_arm("matryoshka"), 16, 24, input_statistics(stream.x[:500], normalise=True), Workspace())
    assert sae.export({"hook_name": "h"}).metadata == {"hook_name": "h", "matryoshka_prefixes": [2, 3, 6, 12, 24]}
    assert sae.export({}).activation == "jumprelu"


def test_a_single_prefix_is_batchtopk(make_arm, stream):
    statistics = input_statistics(stream.x[:500], normalise=True)
    nested = ARCHITECTURES["matryoshka"](make_arm("matryoshka", matryoshka_shares=(1.0,)), 16, 24, statistics, Workspace(), dtype=torch.float64)
    plain = ARCHITECTURES["batchtopk"](make_arm("batchtopk"), 16, 24, statistics, Workspace(), dtype=torch.float64)
    x = statistics.sample[:100].double()
    assert nested.loss_and_gradients(x)["loss"] == pytest.approx(plain.loss_and_gradients(x)["loss"])
    torch.testing.assert_close(nested.gradients, plain.gradients, rtol=0, atol=1e-12)

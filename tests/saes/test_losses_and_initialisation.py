"""Loss values, input statistics and starting points against hand computation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_pipeline.errors import TrainingError
from sae_pipeline.saes.architectures import ARCHITECTURES, Workspace
from sae_pipeline.saes.calibration import threshold_keeping
from sae_pipeline.saes.initialisation import decoder_bias, geometric_median, input_statistics, unit_rows
from sae_pipeline.saes.sparsity import LARGEST, SparsityController


def two_points() -> torch.Tensor:
    """Mean (1, 2), mean square norm 10, variance 5."""
    return torch.tensor([[0.0, 0.0], [2.0, 4.0]])


def test_statistics_of_two_points():
    raw = input_statistics(two_points(), normalise=False)
    assert (raw.scale, raw.variance) == (1.0, 5.0)
    assert raw.mean.tolist() == [1.0, 2.0]
    scaled = input_statistics(two_points(), normalise=True)
    assert scaled.scale == pytest.approx((2 / 10) ** 0.5)
    assert scaled.variance == pytest.approx(5 * 2 / 10)
    assert scaled.sample.pow(2).sum(1).mean().item() == pytest.approx(2)  # d_model


def test_constant_activations_are_refused():
    with pytest.raises(TrainingError, match="vary"):
        input_statistics(torch.ones(10, 3), normalise=True)


def test_predicting_the_mean_has_a_normalised_error_of_one(make_arm):
    x = torch.randn(500, 6, generator=torch.Generator().manual_seed(0)) * 3 + 1
    statistics = input_statistics(x, normalise=True)
    for name, architecture in ARCHITECTURES.items():
        sae = architecture(make_arm(name), 6, 12, statistics, Workspace())
        sae.b_enc.fill_(-1e6)  # nothing fires: x_hat = b_dec = mean
        assert sae.loss_and_gradients(statistics.sample)["mse"] == pytest.approx(1.0, rel=1e-5)


def test_l1_of_one_latent_by_hand(make_arm):
    """x = (3, 0), one latent along it without bias: f = 3, x_hat = x, and the penalty is coefficient * 3 / sqrt(V)."""
    statistics = input_statistics(torch.tensor([[3.0, 0.0], [-3.0, 0.0]]), normalise=False)
    sae = ARCHITECTURES["relu"](make_arm("relu", 1, b_dec_init="zero", normalise=False), 2, 1, statistics, Workspace())
    sae.parameters.zero_()
    sae.W_enc[0, 0] = sae.W_dec[0, 0] = 1.0
    parts = sae.loss_and_gradients(torch.tensor([[3.0, 0.0]]))
    assert parts["mse"] == 0
    assert parts["sparsity"] == pytest.approx(3 / 9**0.5)
    assert parts["loss"] == pytest.approx(sae.controller.coefficient * 1.0)


def test_losses_do_not_depend_on_the_unit_of_the_activations(make_arm):
    x = torch.randn(300, 8, generator=torch.Generator().manual_seed(0))
    for name, architecture in ARCHITECTURES.items():
        losses = []
        for unit in (1.0, 64.0):
            statistics = input_statistics(x * unit, normalise=False)
            sae = architecture(make_arm(name, normalise=False), 8, 16, statistics, Workspace())
            losses.append(sae.loss_and_gradients(statistics.sample)["loss"])
        assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_decoder_bias_kinds():
    # Three corners and a far outlier: the geometric median of a triangle's corners plus one point is inside, near the corners.
    x = torch.tensor([[0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [100.0, 0.0]])
    statistics = input_statistics(x, normalise=False)
    assert decoder_bias("zero", statistics).tolist() == [0, 0]
    assert decoder_bias("mean", statistics).tolist() == [25, 0]
    assert decoder_bias("geometric_median", statistics).norm() < 0.1  # three of four points hold it


def test_geometric_median_of_collinear_points_is_their_median():
    assert geometric_median(torch.tensor([[0.0], [1.0], [7.0]]), steps=2_000)[0].item() == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_encoder_starts_as_the_transposed_unit_norm_decoder(name, make_arm, stream):
    statistics = input_statistics(stream.x[:500], normalise=True)
    sae = ARCHITECTURES[name](make_arm(name, init_seed=5), 16, 24, statistics, Workspace())
    assert torch.equal(sae.W_enc, sae.W_dec.t())
    assert torch.equal(sae.W_dec, unit_rows(24, 16, 5))
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(24))
    torch.testing.assert_close(sae.b_dec.double(), statistics.mean, atol=1e-6, rtol=1e-6)


def test_initialisation_leaves_the_global_generator_alone(make_arm, stream):
    state = torch.random.get_rng_state()
    ARCHITECTURES["topk"](make_arm("topk"), 16, 24, input_statistics(stream.x[:500], normalise=True), Workspace())
    assert torch.equal(torch.random.get_rng_state(), state)


@given(scores=st.lists(st.integers(-50, 50), min_size=1, max_size=60), count=st.integers(0, 70), block=st.integers(1, 20))
@settings(max_examples=150, deadline=None)
def test_threshold_keeps_the_count_whatever_the_blocks(scores, count, block):
    values = torch.tensor(scores, dtype=torch.float32)
    threshold = threshold_keeping(values.split(block), count)
    positive = sorted((s for s in scores if s > 0), reverse=True)
    assert threshold == (positive[count] if count < len(positive) else 0.0)


def test_controller_raises_coefficient_and_thresholds_when_too_many_latents_fire():
    controller = SparsityController(10, start=1.0, correction_gain=0.1)
    controller.observe(20)
    assert controller.coefficient > 1
    assert controller.correction(0.0) > 0
    lower = SparsityController(10, start=1.0, correction_gain=0.1)
    lower.observe(5)
    # Symmetric on the logarithms.
    assert lower.coefficient == pytest.approx(1 / controller.coefficient)
    assert lower.correction(0.0) == pytest.approx(-controller.correction(0.0))


def test_controller_goes_on_exactly_from_its_state():
    one = SparsityController(10, start=0.3, correction_gain=0.1)
    for l0 in (50, 30, 0, 12):
        one.observe(l0)
    two = SparsityController(10, start=1.0, correction_gain=0.1)
    two.load_state(one.state())
    one.observe(9)
    two.observe(9)
    assert (one.coefficient, one.correction(0.5)) == (two.coefficient, two.correction(0.5))


def test_the_correction_grows_as_the_rate_falls():
    """An eighth of the final gain at the start; halfway down half of it, at the end all of it."""
    controller = SparsityController(10, start=1.0, correction_gain=0.1 / 8)
    controller.observe(20)
    first, half, last = (controller.correction(fallen) for fallen in (0.0, 0.5, 1.0))
    assert half == pytest.approx(4 * first)
    assert last == pytest.approx(8 * first)


@pytest.mark.parametrize("l0", [0.0, 1e6])
def test_an_l0_that_never_answers_does_not_wind_the_coefficient_up_without_end(l0):
    """40,000 steps at four times the target would be a factor of 1e481."""
    controller = SparsityController(10, start=1.0, correction_gain=0.1)
    for _ in range(40_000):
        controller.observe(l0)
    assert controller.coefficient == pytest.approx(LARGEST if l0 else 1 / LARGEST)
    for _ in range(1_000):
        controller.observe(10 / 4 if l0 else 10 * 4)
    assert controller.coefficient == pytest.approx(LARGEST * 4**-20 if l0 else 4**20 / LARGEST)


def test_a_start_beyond_what_steering_reaches_is_cut():
    assert SparsityController(10, start=1e300, correction_gain=0.1).coefficient == pytest.approx(LARGEST)

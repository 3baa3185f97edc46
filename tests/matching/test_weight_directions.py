"""Unit directions of features and neurons, in the encoder and the decoder."""

from __future__ import annotations

import pytest
import torch
from planted import random_sae, sae_of

from sae_pipeline.matching.weights.directions import directions, prepare


def test_the_four_matrices_are_rows_of_features_and_of_neurons() -> None:
    """Three latents of two dimensions: features have two entries, neurons three, and each row is divided by its norm."""
    W_enc, W_dec = torch.tensor([[3.0, 0, 1], [4, 2, 1]]), torch.tensor([[1.0, 0], [0, 5], [3, 4]])
    sae = sae_of(W_dec, W_enc)
    root = 2**-0.5
    assert torch.allclose(directions(sae, "encoder", "feature"), torch.tensor([[0.6, 0.8], [0, 1], [root, root]]))
    assert torch.allclose(directions(sae, "decoder", "feature"), torch.tensor([[1.0, 0], [0, 1], [0.6, 0.8]]))
    assert torch.allclose(directions(sae, "encoder", "neuron"), W_enc / torch.tensor([[10**0.5], [21**0.5]]))
    assert torch.allclose(directions(sae, "decoder", "neuron"), torch.tensor([[1.0, 0, 3], [0, 5, 4]]) / torch.tensor([[10**0.5], [41**0.5]]))


def test_a_row_without_norm_stays_zero() -> None:
    """Its cosine with everything is 0 instead of a division by zero."""
    rows = directions(sae_of(torch.tensor([[0.0, 0], [0, 3]])), "decoder", "feature")
    assert rows.tolist() == [[0, 0], [0, 1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_directions_are_unit_float32_whatever_the_weights_are_stored_in(dtype: torch.dtype) -> None:
    """Squares of half-precision weights overflow, and their norms do not."""
    rows = directions(sae_of(random_sae(7, 5, 0).W_dec.mul(300).to(dtype)), "decoder", "feature")
    assert rows.dtype == torch.float32
    assert rows.norm(dim=1).tolist() == pytest.approx([1] * 7, abs=1e-6)


def test_a_prepared_sae_knows_its_widths_and_whether_it_has_thresholds() -> None:
    """Folding needs thresholds; which latents are alive is for the caller to say."""
    prepared = prepare(random_sae(7, 5, 0))
    assert (prepared.d_sae, prepared.d_model, prepared.folded, prepared.alive) == (7, 5, None, None)
    assert prepare(random_sae(7, 5, 0, thresholds=True)).folded is not None

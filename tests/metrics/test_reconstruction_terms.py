"""What a single token adds to the document sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metrics_toys import constant_sae, random_sae

from sae_pipeline.metrics.latents.firing_entries import firing_entries
from sae_pipeline.metrics.reconstruction import TERMS, add_per_document, reconstructions, squared_norms, token_terms


def test_terms_of_two_tokens_by_hand() -> None:
    """(3, 4) rebuilt as (3, 0), and (1, 0) rebuilt as zero: cosine 3/5, and 0 where the reconstruction has no direction."""
    x, x_hat = torch.tensor([[3.0, 4], [1, 0]]), torch.tensor([[3.0, 0], [0, 0]])
    latents, norms = torch.tensor([[1.5, 0, 2.0], [0, 0, 0]]), torch.tensor([2.0, 5.0, 0.5])
    first, second = (dict(zip(TERMS, row, strict=True)) for row in token_terms(x, x_hat, latents, norms).tolist())
    assert first == pytest.approx({"sse": 16, "cosine": 0.6, "l0": 2, "l1": 4, "sum_sq_hat": 9, "dot": 9})
    assert second == {"sse": 1, "cosine": 0, "l0": 0, "l1": 0, "sum_sq_hat": 0, "dot": 0}


def test_half_precision_is_widened_before_squaring() -> None:
    """A float16 norm of 512 squares to 262144, above float16's largest number."""
    assert squared_norms(torch.full((1, 4), 256.0, dtype=torch.float16)).tolist() == [262144.0]


def test_document_sums_are_float64() -> None:
    """2^24 + 1 + 1 is lost in float32 and kept here."""
    sums = torch.zeros(2, 1, dtype=torch.float64)
    add_per_document(sums, torch.tensor([1, 1, 1]), torch.tensor([[2.0**24], [1.0], [1.0]]))
    assert sums.tolist() == [[0.0], [2.0**24 + 2]]


@pytest.mark.parametrize(("activation", "share"), [("topk", 3 / 512), ("relu", 1 / 2)])
def test_a_reconstruction_is_the_product_of_latents_and_decoder_however_few_fire(activation: str, share: float) -> None:
    """Three of 512, which are summed row by row, and about half, which are multiplied; the last token is silent."""
    generator = torch.Generator().manual_seed(0)
    sae = random_sae(8, 512, activation, generator)
    latents = sae.encode(torch.randn(20, 8, generator=generator))
    latents[-1] = 0
    entries = firing_entries(latents)
    assert len(entries.latent) / latents.numel() == pytest.approx(share, rel=0.6)
    expected = latents.double().numpy() @ sae.W_dec.double().numpy() + sae.b_dec.double().numpy()
    np.testing.assert_allclose(reconstructions(sae, latents, entries).numpy(), expected, rtol=1e-5, atol=1e-5)


def test_tokens_on_which_nothing_fires_are_rebuilt_as_the_decoder_bias() -> None:
    sae = constant_sae(torch.tensor([1.0, -2.0]))
    latents = sae.encode(torch.zeros(3, 2))
    assert reconstructions(sae, latents, firing_entries(latents)).tolist() == [[1.0, -2.0]] * 3

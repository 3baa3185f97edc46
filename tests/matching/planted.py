"""SAEs with known directions, and pairs of which a known share of the directions is common."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_pipeline.saes.inference import InferenceSAE


def sae_of(W_dec: Tensor, W_enc: Tensor | None = None, threshold: Tensor | None = None) -> InferenceSAE:
    """An SAE with this decoder (d_sae, d_model), encoder (d_model, d_sae; tied by default) and thresholds, without biases."""
    d_sae, d_model = W_dec.shape
    encoder = W_dec.T if W_enc is None else W_enc
    rule = "relu" if threshold is None else "jumprelu"
    return InferenceSAE(encoder.contiguous(), torch.zeros(d_sae), W_dec, torch.zeros(d_model), rule, threshold=threshold)


def random_sae(d_sae: int, d_model: int, seed: int, *, thresholds: bool = False) -> InferenceSAE:
    """Random weights of no unit norm, the encoder independent of the decoder."""
    generator = torch.Generator().manual_seed(seed)
    W_enc, W_dec = torch.randn(d_model, d_sae, generator=generator), torch.randn(d_sae, d_model, generator=generator)
    return sae_of(W_dec, W_enc, torch.rand(d_sae, generator=generator) + 0.1 if thresholds else None)


def planted_pair(n: int, n_other: int, d_model: int, share: float, noise: float, seed: int) -> tuple[InferenceSAE, InferenceSAE, Tensor]:
    """Two SAEs of which each latent of the first is also in the second with probability ``share``.

    A common direction is seen by both with independent noise of expected norm ``noise`` beside its own norm of 1, so that
    its cosine is near 1 / (1 + noise²). Decoder and encoder have noise of their own. Latents of the second are shuffled.

    Returns:
        Both SAEs, and which latents of the first are common (n,) bool.
    """
    generator = torch.Generator().manual_seed(seed)
    common = torch.rand(n, generator=generator) < share
    common[n_other:] = False
    truth = _unit(torch.randn(n, d_model, generator=generator))
    other = _unit(torch.randn(n_other, d_model, generator=generator))
    other[: len(truth)][common[:n_other]] = truth[common]
    order = torch.randperm(n_other, generator=generator)

    def seen(rows: Tensor) -> Tensor:
        return _unit(rows + noise / d_model**0.5 * torch.randn(rows.shape, generator=generator))

    return sae_of(seen(truth), seen(truth).T), sae_of(seen(other[order]), seen(other[order]).T), common


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)

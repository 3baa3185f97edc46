"""Per-token reconstruction terms and their float64 sums per document.

Latents are encoded and decoded in float32; from there on everything with the shape of the activations is float64, where
it is cheap: differences are taken and squared after the cast, and sums over tokens are float64 sums.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_pipeline.metrics.latents.firing_entries import FiringEntries
from sae_pipeline.saes.inference import InferenceSAE

TERMS = ("sse", "cosine", "l0", "l1", "sum_sq_hat", "dot")
"""Columns of :func:`token_terms`, as they are named in an evaluation's document sums."""

CPU_CHUNK_ELEMENTS = 2**19
"""Latents (tokens x d_sae) handled at once on a CPU: 2 MiB, so that all statistics of a chunk are taken from cache (8 x faster)."""

DEVICE_CHUNK_ELEMENTS = 2**25
"""The same on an accelerator, where large chunks keep it busy."""

FEW_ENTRIES = 1 / 64
"""Share of latents up to which reading the decoder rows of those that fire takes less time than the whole product."""


def token_chunks(tokens: int, d_sae: int, device: torch.device) -> Iterator[slice]:
    """Slices over tokens such that a chunk of latents stays small; a chunk never changes what is summed, only its rounding."""
    elements = CPU_CHUNK_ELEMENTS if device.type == "cpu" else DEVICE_CHUNK_ELEMENTS
    rows = max(elements // d_sae, 16)
    for start in range(0, tokens, rows):
        yield slice(start, min(start + rows, tokens))


def reconstructions(sae: InferenceSAE, latents: Tensor, entries: FiringEntries) -> Tensor:
    """Decode a chunk: on a CPU, where few latents fire, as the sum of the decoder rows of those that do.

    Args:
        sae: the SAE that the latents are of.
        latents: (n_tokens, d_sae).
        entries: their firings.

    Returns:
        (n_tokens, d_model) float32; the product ``sae.decode(latents)`` up to the order of its sums.
    """
    if latents.device.type != "cpu" or len(entries.latent) > FEW_ENTRIES * latents.numel():
        return sae.decode(latents)
    starts = torch.searchsorted(entries.token, torch.arange(len(latents)))
    return embedding_bag(entries.latent, sae.W_dec, starts, mode="sum", per_sample_weights=entries.activation.to(sae.W_dec)).add_(sae.b_dec)


def wide(x: Tensor) -> Tensor:
    """Cast to float64; float32 on Apple devices, which have nothing wider."""
    return x.to(torch.float32 if x.device.type == "mps" else torch.float64)


def squared_norms(x: Tensor) -> Tensor:
    """|x|^2 per token.

    Args:
        x: (n_tokens, d_model) activations, any float dtype; cast before squaring, because half precision overflows.

    Returns:
        (n_tokens,) float64.
    """
    return torch.linalg.vecdot(wide(x), wide(x))


def active(latents: Tensor) -> Tensor:
    """1.0 where a latent differs from zero, else 0.0; float32 of the same shape, so that counting is a matrix product."""
    return torch.sign(latents).abs_()


def token_terms(x: Tensor, x_hat: Tensor, latents: Tensor, decoder_norms: Tensor) -> Tensor:
    """What each token adds to the document sums.

    Args:
        x: (n_tokens, d_model) activations, raw model units.
        x_hat: (n_tokens, d_model) reconstructions.
        latents: (n_tokens, d_sae) activations of the latents.
        decoder_norms: (d_sae,) norms of the decoder rows.

    Returns:
        (n_tokens, 6) float64 on the CPU, columns :data:`TERMS`: |x - x_hat|^2, cosine (0 where either vector is zero),
        active latents, sum_i f_i |W_dec_i|, |x_hat|^2 and <x, x_hat>.
    """
    x, x_hat = wide(x), wide(x_hat)
    residual = x - x_hat
    sum_sq_hat = torch.linalg.vecdot(x_hat, x_hat)
    dot = torch.linalg.vecdot(x, x_hat)
    norms = (torch.linalg.vecdot(x, x) * sum_sq_hat).sqrt_()
    cosine = torch.where(norms > 0, dot / norms, 0.0)
    l0 = active(latents).sum(-1)
    l1 = latents @ decoder_norms
    columns = (torch.linalg.vecdot(residual, residual), cosine, l0.to(x), l1.to(x), sum_sq_hat, dot)
    return torch.stack(columns, dim=-1).cpu().double()


def add_per_document(sums: Tensor, rows: Tensor, values: Tensor) -> None:
    """Add tokens' values to their documents' sums, in float64 and in token order (the same bits every time).

    Args:
        sums: (n_documents, n_columns) float64, changed in place.
        rows: (n_tokens,) int64, the row of each token's document.
        values: (n_tokens, n_columns).
    """
    sums.index_add_(0, rows, values.to(sums))

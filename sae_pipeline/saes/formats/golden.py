"""The golden-output check: what was written must be the SAE it was written from, by two ways of reading it.

Latents and reconstructions of seeded inputs are computed from the SAE itself, from the folder as our reader sees it, and
from the folder as its library computes it. All in float64, so that a difference is one of the files and not of the order
in which numbers were added up.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from sae_pipeline.errors import ExportError
from sae_pipeline.saes.formats.base import Format
from sae_pipeline.saes.inference import InferenceSAE

TOLERANCE = 1e-5
"""Largest difference allowed, relative to the largest value compared; float32 folding costs about 1e-7."""

ROWS = 64
"""Inputs compared."""


def check(sae: InferenceSAE, form: Format, folder: Path) -> float:
    """The largest difference found between an SAE and its folder, relative to the largest value.

    Raises:
        ExportError: it is above ``TOLERANCE`` for the latents or for the reconstruction.
    """
    wide = sae.to("cpu").to(torch.float64)
    x = golden_inputs(wide)
    latents = wide.encode(x)
    expected = {"latents": latents, "reconstructions": wide.decode(latents)}
    read = form.read(folder).to(torch.float64)
    read_latents = read.encode(x)
    ways = {"the folder read back": (read_latents, read.decode(read_latents)), f"{form.library}'s own formula": form.outputs(folder, x)}
    worst = 0.0
    for way, found in ways.items():
        for (what, value), other in zip(expected.items(), found, strict=True):
            difference = _relative(value, other)
            if not difference <= TOLERANCE:  # a NaN is no agreement either
                raise ExportError(
                    f"{folder}: expected {what} of the exported SAE within {TOLERANCE:g} of the original's, found {difference:.2g} by {way}; "
                    "its weights lose too much in this format, choose another"
                )
            worst = max(worst, difference)
    return worst


def golden_inputs(sae: InferenceSAE) -> Tensor:
    """Seeded raw activations (ROWS, d_model) of the SAE's dtype, on which latents fire and none is within rounding of its boundary.

    Each is the decoder bias plus a few decoder directions, long enough that their latents become active, plus noise. Of four
    times as many, those are taken whose pre-activations keep farthest from where the activation function jumps.
    """
    generator = torch.Generator().manual_seed(0)
    candidates, few = 4 * ROWS, min(4, sae.d_sae)
    chosen = torch.randint(sae.d_sae, (candidates, few), generator=generator)
    strength = 0.5 + 1.5 * torch.rand(candidates, few, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(sae.W_dec, dim=1)
    response = (directions * sae.W_enc.t()).sum(1)
    needed = sae.b_enc.abs() + torch.ones_like(sae.b_enc)
    for bound in (sae.threshold, sae.b_mag):
        if bound is not None:
            needed = needed + bound.abs()
    lengths = (needed / response.abs().clamp_min(0.1 * response.abs().max().clamp_min(1e-6)))[chosen] * strength
    planted = torch.einsum("nk,nkd->nd", lengths.to(directions), directions[chosen])
    noise = torch.randn(candidates, sae.d_model, generator=generator, dtype=torch.float64) * planted.pow(2).mean().sqrt() * 0.1
    x = sae.b_dec + planted + noise
    return x[margins(sae, x).argsort(descending=True)[:ROWS]]


def margins(sae: InferenceSAE, x: Tensor) -> Tensor:
    """Distance (n_tokens,) of each token's pre-activations to where its latents would change by a jump."""
    before = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    if sae.activation == "topk":
        assert sae.k is not None
        if sae.k == sae.d_sae:
            return torch.ones(len(x))
        largest = before.relu().topk(sae.k + 1, dim=1).values
        # Where fewer than k latents are positive nothing jumps.
        return torch.where(largest[:, -1] > 0, largest[:, -2] - largest[:, -1], largest[:, 0])
    if sae.threshold is not None:
        return (before - sae.threshold).abs().amin(1)
    return before.abs().amin(1)


def _relative(expected: Tensor, found: Tensor) -> float:
    difference = (expected - found).abs().max().item()
    size = expected.abs().max().item()
    return difference / size if size > 0 else difference

"""Unit directions of an SAE: what is compared when two SAEs are matched by their weights (Cho 2025).

A feature is a latent's row of d_model weights, a neuron a model dimension's row of d_sae weights; both exist in the encoder
and in the decoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from sae_pipeline.matching.weights.folding import folded_decoder
from sae_pipeline.metrics.reconstruction import wide
from sae_pipeline.saes.inference import InferenceSAE

Side = Literal["encoder", "decoder"]
Unit = Literal["feature", "neuron"]

SIDES: tuple[Side, ...] = ("encoder", "decoder")
UNITS: tuple[Unit, ...] = ("feature", "neuron")


@dataclass(frozen=True)
class Prepared:
    """An SAE's directions, computed once for all pairs that it is part of."""

    rows: Mapping[tuple[Side, Unit], Tensor]
    """Unit rows of each side and unit: features (d_sae, d_model), neurons (d_model, d_sae), float32."""
    folded: Tensor | None
    """(d_sae, d_model) float32 decoder rows with the thresholds folded in; None where there are no thresholds."""
    alive: Tensor | None
    """(d_sae,) bool on the rows' device; None where it is not known which latents fire."""

    @property
    def features(self) -> Tensor:
        """(d_sae, d_model) unit decoder rows, the usual directions of features."""
        return self.rows["decoder", "feature"]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.features.shape[0]

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.features.shape[1]


def prepare(sae: InferenceSAE, alive: Tensor | None = None) -> Prepared:
    """The directions of an SAE, on its device.

    Args:
        sae: any SAE; move it to an accelerator first (``sae.to``) to match there.
        alive: (d_sae,) bool, True where a latent fires on the data that decides it.
    """
    rows = {(side, unit): directions(sae, side, unit) for side in SIDES for unit in UNITS}
    return Prepared(rows, folded_decoder(sae), None if alive is None else alive.to(sae.W_dec.device))


def directions(sae: InferenceSAE, side: Side, unit: Unit) -> Tensor:
    """Unit rows (n, d) float32: features (d_sae, d_model) or neurons (d_model, d_sae) of the encoder or decoder.

    Rows of zero norm stay zero: their cosine with everything is 0.
    """
    weights = sae.W_enc.T if side == "encoder" else sae.W_dec
    return unit_rows(weights if unit == "feature" else weights.T)


def unit_rows(rows: Tensor) -> Tensor:
    """Rows (n, d) of any float dtype, each divided by its norm, as float32; rows of zero norm stay zero."""
    precise = wide(rows)
    norms = torch.linalg.vector_norm(precise, dim=1, keepdim=True)
    return (precise / norms.where(norms > 0, torch.ones_like(norms))).float().contiguous()

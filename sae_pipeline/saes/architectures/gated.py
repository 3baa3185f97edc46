"""Gated SAE (Rajamanoharan et al. 2024, "Improving dictionary learning with gated sparse autoencoders").

The gate decides which latents are active, a second path how strongly, so that the L1 penalty that makes the gate sparse
does not shrink the activations. Both paths read the same projection; the magnitude's is scaled per latent.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sae_pipeline.saes.architectures.steered import BiasSteeredArchitecture
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.kernels import ByLatent, SparseCode, encode_above


class Gated(BiasSteeredArchitecture):
    """f = H(gate) * relu(magnitude), gate = (x - b_dec) W_enc + b_enc, magnitude = (x - b_dec) W_enc exp(r_mag) + b_mag.

    The loss adds to the reconstruction's squared error that of the one from relu(gate), through a decoder (W_dec and
    b_dec) that gets no gradient from it, and the steered L1 of relu(gate) over sqrt(input variance). Decoder rows have
    unit norm whenever the loss is computed, so their norms do not appear. With a tilt, a token's loss is the sum of its
    two squared errors.
    """

    name = "gated"
    correction_gain = 0.005
    latent_parameters = ("r_mag", "b_mag")

    def select(self, centred: Tensor) -> SparseCode:
        """Latents whose gate is open, with their magnitude as value (0 where it is negative)."""
        code = encode_above(centred, self.W_enc, self.b_enc, 0.0, self.workspace)
        gate, latents = code.values, code.latents
        projection = gate - self.b_enc[latents]
        magnitude = projection.mul_(self.latent["r_mag"].exp()[latents]).add_(self.latent["b_mag"][latents])
        return code._replace(values=magnitude.relu_(), gate=gate)

    def split(self, code: SparseCode) -> list[SparseCode]:
        """The activations, and the gate in their place."""
        assert code.gate is not None
        return [code, code._replace(values=code.gate)]

    def error_parts(self, errors: list[float]) -> dict[str, float]:
        """The error of the SAE and of its gate."""
        return {"mse": errors[0], "gate_mse": errors[1]}

    def sparsity(self, code: SparseCode) -> float:
        """L1 of the rectified gate, relative to the inputs' spread."""
        assert code.gate is not None
        return code.gate.sum().item() / self.spread

    def encoder_gradients(self, centred: Tensor, code: SparseCode, value_gradients: list[Tensor], by_latent: ByLatent) -> None:
        """The magnitude learns from the reconstruction, the gate from its own and the penalty; H has no gradient."""
        gradient, latents = self.gradient, code.latents
        magnitude = value_gradients[0].masked_fill(code.values <= 0, 0)
        gate = value_gradients[1].add_(self.controller.coefficient / (self.spread * len(centred)))
        gradient["b_enc"].copy_(by_latent.sum(gate))
        gradient["b_mag"].copy_(by_latent.sum(magnitude))
        gradient["r_mag"].copy_(by_latent.sum(magnitude * (code.values - self.latent["b_mag"][latents])))
        projection = magnitude.mul_(self.latent["r_mag"].exp()[latents]).add_(gate)
        by_latent.weighted_sum(centred, projection, out=gradient["W_enc"].t())

    def projection_gradient(self) -> Tensor:
        """Of both paths."""
        return self.gradient["b_enc"] + self.latent["r_mag"].exp() * self.gradient["b_mag"]

    def active_scores(self, pre: Tensor) -> Tensor:
        """The gate, where the magnitude is positive."""
        magnitude = (pre - self.b_enc).mul_(self.latent["r_mag"].exp()).add_(self.latent["b_mag"])
        return pre.masked_fill(magnitude <= 0, -float("inf"))

    def export(self, metadata: dict[str, Any]) -> InferenceSAE:
        """Gated, with the coefficient that steering ended at: whoever continues its loss needs it."""
        return self.folded(
            "gated",
            metadata | {"sparsity_coefficient": self.controller.coefficient},
            r_mag=self.latent["r_mag"],
            b_mag=self.latent["b_mag"],
        )

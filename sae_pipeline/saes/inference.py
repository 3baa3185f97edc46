"""A trained SAE as everything after training sees it: raw model units and the inference rule, token by token."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class InferenceSAE:
    """f = act((x - b_dec) W_enc + b_enc), x_hat = f W_dec + b_dec, with any input normalisation folded in.

    A token's latents depend on that token alone: ``topk`` keeps its k largest pre-activations, rectified; ``jumprelu``
    keeps those above the latent's threshold; ``relu`` the positive ones; ``gated`` (Rajamanoharan et al. 2024) those whose
    pre-activation is positive, at the magnitude relu((x - b_dec) W_enc exp(r_mag) + b_mag).
    """

    W_enc: Tensor
    """(d_model, d_sae)."""
    b_enc: Tensor
    """(d_sae,); of a gated SAE the bias of the gate."""
    W_dec: Tensor
    """(d_sae, d_model), unit-norm rows when trained here."""
    b_dec: Tensor
    """(d_model,)."""
    activation: str
    """``topk``, ``jumprelu``, ``relu`` or ``gated``."""
    k: int | None = None
    """Latents kept per token; topk only."""
    threshold: Tensor | None = None
    """(d_sae,), in the units of the pre-activations; jumprelu only."""
    r_mag: Tensor | None = None
    """(d_sae,), logarithm of the magnitude encoder's scale relative to the gate's; gated only."""
    b_mag: Tensor | None = None
    """(d_sae,), bias of the magnitude; gated only."""
    metadata: dict[str, Any] = field(default_factory=dict)
    """Provenance, JSON-like; goes into the configuration file."""

    @property
    def d_model(self) -> int:
        """Width of the activations."""
        return self.W_dec.shape[1]

    @property
    def d_sae(self) -> int:
        """Number of latents."""
        return self.W_dec.shape[0]

    def to(self, target: str | torch.device | torch.dtype) -> InferenceSAE:
        """The same SAE with its tensors on a device, or in a dtype."""
        tensors: dict[str, Any] = {name: value.to(target) for name, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **tensors)

    def encode(self, x: Tensor) -> Tensor:
        """Latents (n_tokens, d_sae) of raw activations x (n_tokens, d_model)."""
        pre = torch.addmm(self.b_enc, x - self.b_dec, self.W_enc)
        if self.activation == "topk":
            assert self.k is not None
            values, latents = pre.topk(self.k, dim=1, sorted=False)
            return torch.zeros_like(pre).scatter_(1, latents, values.relu())
        if self.activation == "jumprelu":
            assert self.threshold is not None
            return pre.relu() * (pre > self.threshold)
        if self.activation == "gated":
            assert self.r_mag is not None
            assert self.b_mag is not None
            magnitude = ((pre - self.b_enc) * self.r_mag.exp() + self.b_mag).relu()
            return magnitude * (pre > 0)
        return pre.relu()

    def decode(self, f: Tensor) -> Tensor:
        """Reconstruction (n_tokens, d_model) of latents f (n_tokens, d_sae)."""
        return torch.addmm(self.b_dec, f, self.W_dec)

    def save(self, folder: Path) -> None:
        """Write ``cfg.json`` and ``sae_weights.safetensors``, a SAELens 6 directory: the form that SAEs are stored in."""
        from sae_pipeline.saes.formats import NATIVE

        NATIVE.write(self, folder)

    @classmethod
    def load(cls, folder: Path) -> InferenceSAE:
        """Read an SAE folder of SAELens, dictionary_learning or sparsify, written here or elsewhere.

        Raises:
            BadInput: it is none, or uses a part of its format that cannot be folded exactly; says which.
        """
        from sae_pipeline.saes.formats import recognised

        return recognised(folder).read(folder)

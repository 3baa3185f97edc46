"""Exact changes of form: what a library does around its encoder, moved into weights that mean the same function.

All work on the tensors of an :class:`~sae_pipeline.saes.inference.InferenceSAE` by name, compute in float64, and return
float32: the rounding of the result is the only error.
"""

from __future__ import annotations

from torch import Tensor

Weights = dict[str, Tensor]
"""W_enc (d_model, d_sae), b_enc (d_sae,), W_dec (d_sae, d_model), b_dec (d_model,), and threshold or r_mag and b_mag (d_sae,)."""


def moved_input_bias(weights: Weights, sign: int) -> Weights:
    """Change whether the encoder sees x - b_dec or x itself.

    x W_enc + b = (x - b_dec) W_enc + (b + b_dec W_enc), so ``sign`` is +1 from the plain encoder to the centred one and
    -1 back. The magnitude encoder of a gated SAE is W_enc exp(r_mag), so its bias moves by exp(r_mag) times as much.
    """
    shift = sign * (weights["b_dec"].double() @ weights["W_enc"].double())
    moved = weights | {"b_enc": (weights["b_enc"].double() + shift).float()}
    if "b_mag" in weights:
        moved["b_mag"] = (weights["b_mag"].double() + weights["r_mag"].double().exp() * shift).float()
    return moved


def scaled_input(weights: Weights, factor: float) -> Weights:
    """From an SAE of ``factor`` times x to one of x: latents stay, the reconstruction is divided by the factor."""
    return weights | {
        "W_enc": (weights["W_enc"].double() * factor).float(),
        "W_dec": (weights["W_dec"].double() / factor).float(),
        "b_dec": (weights["b_dec"].double() / factor).float(),
    }


def latents_times_decoder_norms(weights: Weights) -> Weights:
    """Give the decoder rows unit norm and their norms to the latents; the reconstruction stays.

    A latent whose row is zero becomes silent: it never did anything but take a place among the largest.
    """
    norms = weights["W_dec"].double().norm(dim=1)
    divisors = norms.masked_fill(norms == 0, 1)[:, None]
    folded = weights | {"W_enc": (weights["W_enc"].double() * norms).float(), "W_dec": (weights["W_dec"].double() / divisors).float()}
    for name in ("b_enc", "threshold", "b_mag"):
        if name in weights:
            folded[name] = (weights[name].double() * norms).float()
    return folded

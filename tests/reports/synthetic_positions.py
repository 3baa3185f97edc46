"""Made-up tables of the position study: a wave of four cycles that is gone without position embeddings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from sae_pipeline.metrics.positions.profiles import DECILE_COLUMNS

LENGTH = 33
LAYERS = (1, 3)
ARCHITECTURES = ("topk", "relu")
LEFT = {"intact": 1.0, "zero": 0.0, "shuffle": 0.05}
"""How much of the pattern each condition leaves."""


def sae_id(layer: int, architecture: str) -> str:
    return f"PRE.L{layer:02d}.x04.{architecture}"


def saes() -> pd.DataFrame:
    return pd.DataFrame([{"sae_id": sae_id(layer, a), "architecture": a} for layer in LAYERS for a in ARCHITECTURES])


def tables(conditions: Sequence[str] = tuple(LEFT), *, causal: bool = True, with_saes: bool = True) -> dict[str, pd.DataFrame]:
    """The position tables of one site, by name."""
    architectures = ARCHITECTURES if with_saes else ()
    named = [(layer, sae_id(layer, a)) for layer in LAYERS for a in architectures]
    reason = None if len(conditions) > 1 else "the subject has no learned absolute position embeddings (its positions are rotary)"
    studies = pd.DataFrame(
        [
            {"layer": layer, "site": "resid_post", "evaluation_set": "prose", "mix": "PRE", "expansion": 4.0, "contexts": 40, "tokens": 1_280,
             "documents": 20, "not_applicable": reason, "saes": len(architectures)}
            for layer in LAYERS
        ]
    ).astype({"not_applicable": "string"})  # fmt: skip
    generator = np.random.default_rng(0)
    features = [
        pd.DataFrame(np.sort(generator.gamma(2.0, size=(30, 9)), axis=1), columns=list(DECILE_COLUMNS)).assign(
            layer=layer,
            sae_id=name,
            latent=range(30),
            mean=generator.gamma(1.0, size=30),
            std=generator.gamma(1.0, size=30),
            density=np.linspace(0.01, 0.3, 30),
        )
        for layer, name in named
    ]
    tokens = [pd.DataFrame({"layer": layer, "sae_id": name, "position": range(1, LENGTH), "mean": 1.0, "std": 0.5}) for layer, name in named]
    empty = pd.DataFrame(columns=["layer", "sae_id", "latent", "position", "mean", "std", "density", *DECILE_COLUMNS])
    return {
        "position_studies": studies,
        "position_curves": _curves(conditions, named, causal),
        "position_effects": _effects(conditions, named, causal),
        "position_features": pd.concat(features) if features else empty,
        "position_tokens": pd.concat(tokens) if tokens else empty,
    }


def _curves(conditions: Sequence[str], named: list[tuple[int, str]], causal: bool) -> pd.DataFrame:
    position = np.arange(LENGTH)
    frames = []
    for condition in conditions:
        wave = 2 + LEFT[condition] * np.cos(2 * np.pi * 4 * position / (LENGTH - 1))
        own = [(layer, None, quantity) for layer in LAYERS for quantity in ("activation_norm", *["cross_entropy"] * causal)]
        frames += [
            pd.DataFrame({"layer": layer, "sae_id": name, "quantity": quantity, "condition": condition, "position": position, "mean": wave})
            for layer, name, quantity in own + [(layer, name, quantity) for layer, name in named for quantity in ("latent_mean", "mse")]
        ]
    if causal:
        frames += [
            pd.DataFrame(
                {"layer": layer, "sae_id": name, "quantity": "cross_entropy", "condition": "reconstructed", "position": position, "mean": 2.5}
            )
            for layer, name in named
        ]
    found = pd.concat(frames, ignore_index=True).assign(tokens=40)
    later = found["position"] > 0
    return found.assign(low=(found["mean"] - 0.1).where(later), high=(found["mean"] + 0.1).where(later)).astype({"sae_id": "string"})


def _effects(conditions: Sequence[str], named: list[tuple[int, str]], causal: bool) -> pd.DataFrame:
    rows = []
    for condition in conditions:
        left = LEFT[condition]
        for figure, value in (("position_share", 0.5), ("position_share_late", 0.4)):
            rows += [(layer, None, "activations", figure, condition, value * left) for layer in LAYERS]
            rows += [(layer, name, "latent_mean", figure, condition, value * left + layer / 100) for layer, name in named]
        for figure, value in (("dominant_frequency", 4 / (LENGTH - 1)), ("dominant_power_share", 0.9)):
            rows += [(layer, name, "latent_mean", figure, condition, value) for layer, name in named]
        rows += [(layer, name, "feature_mean", "bimodality", condition, 0.7 if name.endswith("relu") else 0.4) for layer, name in named]
        rows += [(layer, None, "cross_entropy", "mean", condition, 3.0 + 2 * (1 - left)) for layer in LAYERS if causal]
        rows += [(layer, name, quantity, "mean", condition, 1.0) for layer, name in named for quantity in ("mse", "nmse")]
    rows += [(layer, name, "cross_entropy", "mean", "reconstructed", 3.0 + layer / 10) for layer, name in named if causal]
    found = pd.DataFrame(rows, columns=["layer", "sae_id", "quantity", "figure", "condition", "estimate"])
    rise = (found["estimate"] - 3.0).where((found["condition"] != "intact") & (found["quantity"] == "cross_entropy"))
    bounds = {"low": found["estimate"] - 0.012, "high": found["estimate"] + 0.012, "rise": rise, "rise_low": rise - 0.02, "rise_high": rise + 0.02}
    return found.assign(**bounds, tokens=1_280, documents=20).astype({"sae_id": "string"})

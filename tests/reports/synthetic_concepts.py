"""Made-up tables of the concept study: frequent tokens have features, and one mix writes the direction with fewer latents."""

from __future__ import annotations

import numpy as np
import pandas as pd

LAYERS, MIXES, EXPANSIONS = (1, 3), ("PRE", "INS"), (2.0, 4.0)
RANKS = np.array([1, 3, 8, 20, 60, 200, 700, 1_500])
COUNTS = np.array([1, 2, 4, 8, 16, 32])


def sae_id(layer: int, mix: str, expansion: float) -> str:
    return f"{mix}.L{layer:02d}.x{expansion:02.0f}.topk"


def saes() -> pd.DataFrame:
    return pd.DataFrame([{"sae_id": sae_id(layer, mix, e), "mix": mix, "expansion": e} for layer in LAYERS for mix in MIXES for e in EXPANSIONS])


def tables() -> dict[str, pd.DataFrame]:
    """The concept tables of one site, by name."""
    named = [(layer, mix, e, sae_id(layer, mix, e)) for layer in LAYERS for mix in MIXES for e in EXPANSIONS]
    return {
        "concept_studies": pd.DataFrame(
            [
                {"layer": layer, "site": "resid_post", "evaluation_sets": "prose, chat", "tokens": 32_000, "documents": 90, "judged_documents": 44,
                 "token_concepts": 8, "keyword_concepts": 1, "saes": 4, "min_occurrences": 5, "f1_cut": 0.5}
                for layer in LAYERS
            ]
        ),
        "concept_features": pd.concat([_features(layer, name, frequent=6 if mix == "PRE" else 4) for layer, mix, _, name in named], ignore_index=True),
        "concept_fits": pd.DataFrame(
            [
                (layer, name, "token", 8, 6, 2.5, 1.25, np.inf, 120.0, 60.0, 250.0, 7, 1.5, 0.75, 3.0) if mix == "PRE" else
                (layer, name, "token", 8, 4, 0.5, -0.25, 1.25, 2e7, np.nan, np.nan, 8, np.nan, np.nan, np.nan)
                for layer, mix, _, name in named
            ],
            columns=["layer", "sae_id", "kind", "concepts", "with_feature", "slope", "low", "high", "frequency_half", "half_low", "half_high",
                     "youden_with_feature", "youden_slope", "youden_low", "youden_high"],
        ),
        "tail_recall": pd.DataFrame(
            [
                (layer, name, *bin_)
                for layer, _, _, name in named
                for bin_ in ((1, 9, 3, 3, 1.0, 0.44, 1.0), (10, 99, 2, 1, 0.5, 0.1, 0.9), (100, 999, 2, 0, 0.0, 0.0, 0.66), (None, None, 1, 0, 0.0, 0.0, 0.79))
            ],
            columns=["layer", "sae_id", "rank_low", "rank_high", "tokens", "with_feature", "share", "low", "high"],
        ).astype({"rank_low": "Int64", "rank_high": "Int64"}),
        "directions": pd.DataFrame(
            [
                {"layer": layer, "site": "resid_post", "direction": name, "source": "prompts", "positive": 9, "negative": 9, "norm": norm, "mean_norm": 4.0,
                 "reliability": reliability}
                for layer, refusal in zip(LAYERS, (0.95, 0.62), strict=True)
                for name, norm, reliability in (("refusal", 2.0, refusal), ("nothing", np.nan, np.nan))
            ]
        ),
        "direction_fits": pd.concat([_fits(layer, mix, e) for layer, mix, e, _ in named], ignore_index=True),
        "direction_latents": pd.DataFrame(
            [
                {"layer": layer, "sae_id": name, "direction": "refusal", "latent": 7, "max_decoder_cosine": 0.61, "low": 0.55, "high": 0.66,
                 "chance_cosine": 0.31}
                for layer, _, _, name in named
            ]
        ),
    }  # fmt: skip


def _features(layer: int, name: str, frequent: int) -> pd.DataFrame:
    n = len(RANKS)
    token = pd.DataFrame(
        {
            "kind": "token", "concept": [f" t{rank}" for rank in RANKS], "token": RANKS, "rank": RANKS, "frequency": [*(5e4 / RANKS[:-1]), 0.0],
            "latent": range(n), "f1": np.where(np.arange(n) < frequent, 0.9, 0.1), "has_feature": np.arange(n) < frequent,
        }
    )  # fmt: skip
    word = pd.DataFrame(
        {"kind": ["keyword"], "concept": ["chemistry"], "token": [None], "rank": [None], "frequency": [12.5], "latent": [None], "f1": [0.0], "has_feature": [False]}
    )  # fmt: skip
    types = {"token": "Int64", "rank": "Int64", "latent": "Int64", "has_feature": "boolean"}
    rows = pd.concat([token.astype(types), word.astype(types)], ignore_index=True)
    return rows.assign(layer=layer, sae_id=name, occurrences=40, judged_occurrences=20, precision=rows["f1"], recall=rows["f1"], youden=rows["f1"])


def _fits(layer: int, mix: str, expansion: float) -> pd.DataFrame:
    first = mix == MIXES[0]
    reached = 1 - (0.6 if first else 0.38) * COUNTS ** (-0.5)
    by_method = [("sae", np.array([90]), np.array([0.9]), np.array([0.0]))]
    by_method += [
        (method, COUNTS, reached + bonus, 0.1 * np.sqrt(COUNTS)) for method, bonus in (("mean_difference", 0.0), ("matching_pursuit", 0.02))
    ]
    frame = pd.concat(
        [
            pd.DataFrame({"method": method, "latents": latents, "cosine": cosine.clip(max=0.99), "chance_cosine": level})
            for method, latents, cosine, level in by_method
        ]
    )
    bounds = {"cosine_low": frame["cosine"] - 0.02, "cosine_high": (frame["cosine"] + 0.02).clip(upper=1.0)}
    others = {} if first else {"difference": 0.07, "difference_low": 0.04, "difference_high": 0.1}
    against = pd.Series(None if first else sae_id(layer, MIXES[0], expansion), frame.index, dtype="string")
    here = {"layer": layer, "sae_id": sae_id(layer, mix, expansion), "direction": "refusal", "against": against}
    return frame.assign(**here, **bounds, **({"difference": np.nan, "difference_low": np.nan, "difference_high": np.nan} | others))

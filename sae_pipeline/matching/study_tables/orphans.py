"""Latents that no other SAE has, by the factor in which the others differ: how many there are, and how often they fire."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

ORPHAN_COLUMNS: dict[str, Any] = (
    dict.fromkeys(("sae_id", "factor", "status"), "string")
    | dict.fromkeys(("others", "latents"), "int64")
    | dict.fromkeys(("mean_density", "median_density", "mean_activation"), "float64")
)
FEATURE_COLUMNS: dict[str, Any] = dict.fromkeys(("sae_id", "factor"), "string") | {"latent": "int64", "best_cosine": "float64", "density": "float64"}


@dataclass
class BestCosines:
    """The highest cosine of every alive latent of an SAE with those of any SAE that differs in one factor."""

    latent: np.ndarray
    """(n,) int64, ascending."""
    cosine: np.ndarray = field(init=False)
    """(n,) float32."""
    others: int = 0
    """SAEs looked at."""

    def __post_init__(self) -> None:
        self.cosine = np.full(len(self.latent), -np.inf, np.float32)

    def take_in(self, cosine: np.ndarray) -> None:
        """Look at one more SAE: cosines (n,) of the same latents with their nearest there."""
        np.maximum(self.cosine, cosine, out=self.cosine)
        self.others += 1


def orphan_frames(
    best: Mapping[tuple[str, str], BestCosines], latents: Mapping[str, pd.DataFrame], threshold: float
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Matched and orphaned latents of every SAE and factor, and the orphans one by one.

    Args:
        best: by SAE and factor.
        latents: by SAE a row per latent, in order: ``density`` (share of tokens on which it fires) and ``mean_active`` (mean
            over those tokens).
        threshold: a latent is an orphan when its highest cosine is not above it.

    Returns:
        Rows of ``orphans`` and of ``orphan_features``; a status that no latent has is counted with null figures.
    """
    rows: list[dict[str, Any]] = []
    features = []
    for (sae_id, factor), found in best.items():
        of_sae = latents[sae_id].iloc[found.latent]
        orphaned = found.cosine <= threshold
        for status, chosen in (("matched", ~orphaned), ("orphan", orphaned)):
            rows.append({"sae_id": sae_id, "factor": factor, "status": status, "others": found.others} | dict(_figures(of_sae[chosen])))
        features.append(
            pd.DataFrame(
                {
                    "sae_id": sae_id,
                    "factor": factor,
                    "latent": found.latent[orphaned],
                    "best_cosine": found.cosine[orphaned],
                    "density": of_sae["density"].to_numpy()[orphaned],
                }
            )
        )
    stacked = pd.concat(features, ignore_index=True) if features else pd.DataFrame(columns=list(FEATURE_COLUMNS))
    return pd.DataFrame(rows, columns=list(ORPHAN_COLUMNS)).astype(ORPHAN_COLUMNS), stacked.astype(FEATURE_COLUMNS)


def _figures(latents: pd.DataFrame) -> Iterator[tuple[str, float]]:
    yield "latents", len(latents)
    yield "mean_density", latents["density"].mean()
    yield "median_density", latents["density"].median()
    yield "mean_activation", latents["mean_active"].mean()

"""Decoder directions laid out in the plane by UMAP (McInnes et al. 2018): a picture of which directions lie together.

The picture is for the eye alone. Distances between far points, sizes of clusters and the axes mean nothing, and another
seed gives another picture.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import torch

from sae_pipeline.matching.pairs import DeclaredSae
from sae_pipeline.matching.study_tables.shelf import Shelf

MOST_LATENTS = 2_048
"""Alive latents of an SAE that are laid out; of more, as many at even distances. UMAP takes some seconds for them on one core,
once it is compiled; from 4,096 points on it would search for neighbours approximately, and compile for a minute to do so."""

NEIGHBOURS = 15
"""UMAP's own default; a dictionary with at most as many latents is not laid out."""

COLUMNS: dict[str, Any] = {
    "layer": "int64", "site": "string", "sae_id": "string", "setting": "string", "latent": "int64", "x": "float64", "y": "float64",
}  # fmt: skip


def map_frame(saes: Iterable[DeclaredSae], shelf: Shelf, seed: int) -> pd.DataFrame:
    """Rows of ``directions_map``: each SAE's alive latents in a plane of its own."""
    parts = []
    for sae in saes:
        prepared = shelf.prepared(sae.sae_id)
        alive = torch.arange(prepared.d_sae) if prepared.alive is None else prepared.alive.nonzero()[:, 0].cpu()
        latents = alive[np.arange(min(len(alive), MOST_LATENTS)) * len(alive) // max(min(len(alive), MOST_LATENTS), 1)]
        if len(latents) > NEIGHBOURS:
            x, y = plane(prepared.features.cpu()[latents].numpy(), seed).T
            where = {"layer": sae.cell.point.layer, "site": sae.cell.point.site, "sae_id": sae.sae_id, "setting": sae.setting}
            parts.append(pd.DataFrame(where | {"latent": latents.numpy(), "x": x, "y": y}))
    mapped = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=list(COLUMNS))
    return mapped[list(COLUMNS)].astype(COLUMNS)


def plane(directions: np.ndarray, seed: int) -> np.ndarray:
    """Points (n, 2) float64 for directions (n, d), n above :data:`NEIGHBOURS`, by their cosines; the same on one thread for the same seed."""
    from umap import UMAP

    layout = UMAP(n_neighbors=NEIGHBOURS, metric="cosine", random_state=seed % 2**32, n_jobs=1)
    return np.asarray(layout.fit_transform(directions), dtype=np.float64)

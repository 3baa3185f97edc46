"""Latents that fire on a large share of tokens, by id: what to leave out when features are read or steered with.

Without torch: works on tables of latents, an evaluation's own or the study's ``feature_stats``.
"""

from __future__ import annotations

from typing import Any

import pandas as pd

from sae_pipeline.metrics.registry import DENSE_CUTS


def dense_latents(latents: pd.DataFrame) -> dict[str, Any]:
    """The dense latents of one SAE on one evaluation set.

    Args:
        latents: columns ``latent`` and ``density``, one row per latent.

    Returns:
        JSON-like: ``cuts``, for each of :data:`DENSE_CUTS` ("0.1", …) the ids of the latents that fired on more than that
        share of tokens, ascending; and ``density`` of each id in the first of these lists, by id as a string.
    """
    density = latents.set_index("latent")["density"].sort_index()
    ids = {f"{cut:g}": density.index[density > cut].tolist() for cut in DENSE_CUTS}
    return {"cuts": ids, "density": {str(latent): float(density[latent]) for latent in ids[f"{DENSE_CUTS[0]:g}"]}}


def filter_sets(features: pd.DataFrame, saes: pd.DataFrame) -> list[dict[str, Any]]:
    """The dense latents of every SAE of a study on every evaluation set.

    Args:
        features: the table ``feature_stats``: ``sae_id``, ``evaluation_set``, ``latent``, ``density``.
        saes: the table ``saes``: ``sae_id``, ``layer``, ``site``.

    Returns:
        JSON-like, one entry per SAE and evaluation set in the order of the tables: ``sae_id``, ``layer``, ``site``,
        ``evaluation_set``, and what :func:`dense_latents` gives.
    """
    places = {sae_id: {"layer": int(layer), "site": site} for sae_id, layer, site in zip(saes["sae_id"], saes["layer"], saes["site"], strict=True)}
    return [
        {"sae_id": sae_id, **places[sae_id], "evaluation_set": evaluation_set} | dense_latents(rows)
        for (sae_id, evaluation_set), rows in features.groupby(["sae_id", "evaluation_set"], sort=False)
    ]

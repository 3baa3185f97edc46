"""Which factor changes the features of an SAE most: what pairs share that differ in one factor alone, factor by factor."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sae_pipeline.analysis.pairwise import pair_mean

COLUMNS = ("layer", "site", "measure", "side", "population", "factor", "pairs", "estimate", "low", "high", "chance", "rank")


def unordered(matches: pd.DataFrame) -> pd.DataFrame:
    """One row per pair of SAEs instead of one per direction: ``match_ratio`` and ``chance_match_ratio`` averaged over both.

    Args:
        matches: rows of the table ``matches``.
    """
    first = np.where(matches["sae_id"] < matches["other_sae_id"], matches["sae_id"], matches["other_sae_id"])
    second = np.where(matches["sae_id"] < matches["other_sae_id"], matches["other_sae_id"], matches["sae_id"])
    keys = ["layer", "site", "side", "unit", "population", "factor"]
    figures = matches.assign(sae_id=first, other_sae_id=second).groupby([*keys, "sae_id", "other_sae_id"], sort=True)
    return figures[["match_ratio", "chance_match_ratio"]].mean().reset_index()


def factor_effects(matching: Mapping[str, pd.DataFrame], confidence: float) -> pd.DataFrame:
    """Mean share of features that two SAEs have in common where they differ in one factor alone.

    ``match_ratio`` (greedy, both directions averaged) for either side, and ``shared_feature_ratio`` (one-to-one, decoder);
    intervals as :func:`sae_pipeline.analysis.pairwise.pair_estimate`. ``rank`` 1 is the factor whose pairs share least, that
    is the one that changes the features most. Columns as :data:`COLUMNS`.

    Args:
        matching: the tables ``matches`` and ``one_to_one``.
        confidence: level of the intervals.
    """
    greedy = unordered(matching["matches"].query("unit == 'feature'"))
    assigned = matching["one_to_one"].assign(side="decoder")
    measures = {
        "match_ratio": greedy.rename(columns={"match_ratio": "value", "chance_match_ratio": "chance"}),
        "shared_feature_ratio": assigned.rename(columns={"shared_feature_ratio": "value", "chance_shared_feature_ratio": "chance"}),
    }
    rows = []
    for measure, frame in measures.items():
        for (layer, site, side, population, factor), pairs in frame.dropna(subset=["value"]).groupby(
            ["layer", "site", "side", "population", "factor"], sort=True
        ):
            figure = pair_mean(pairs["value"].tolist(), pairs[["sae_id", "other_sae_id"]], confidence)
            rows.append(
                {"layer": layer, "site": site, "measure": measure, "side": side, "population": population, "factor": factor, "pairs": len(pairs)}
                | {"estimate": figure.estimate, "low": figure.low, "high": figure.high, "chance": pairs["chance"].mean()}
            )
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    table["rank"] = table.groupby(["layer", "site", "measure", "side", "population"])["estimate"].rank(method="min")
    text = dict.fromkeys(("site", "measure", "side", "population", "factor"), "string")
    return table.astype(text | dict.fromkeys(("estimate", "low", "high", "chance"), float) | {"layer": int, "pairs": int, "rank": int})

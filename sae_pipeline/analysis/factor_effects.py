"""Which factor changes the features of an SAE most: what pairs share that differ in one factor alone, factor by factor.

A study seldom varies every factor at every setting: the text perhaps at one width only, the width at one sparsity. What two
SAEs share depends on both, so factors are held against each other at equal settings only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from sae_pipeline.analysis.pairwise import PairEstimate, ends, pair_estimate, pair_mean
from sae_pipeline.analysis.tables import DESIGN

COLUMNS = (
    "layer", "site", "measure", "side", "population", "factor", "pairs", "estimate", "low", "high", "chance",
    "against", "difference", "difference_low", "difference_high", "rank",
)  # fmt: skip
IDS = ["sae_id", "other_sae_id"]


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


def settings(design: pd.DataFrame) -> pd.Series:
    """All that an SAE is set to but its text and its seed, as text by ``sae_id``.

    Args:
        design: as :func:`sae_pipeline.analysis.tables.design`, indexed by ``sae_id``.
    """
    return design[[name for name in DESIGN if name not in ("mix", "replicate")]].astype(str).agg(", ".join, axis=1)


def at_equal_settings(pairs: pd.DataFrame, factor: str, against: str, of: pd.Series) -> pd.DataFrame:
    """The pairs of two factors that can be held against each other.

    A pair is kept where pairs of ``against`` lie within the setting of either of its SAEs, and of these those that lie within
    such a setting. Pairs of ``against`` whose two SAEs are set differently can be held against nothing.

    Args:
        pairs: columns ``sae_id``, ``other_sae_id``, ``factor``.
        factor: the one factor.
        against: the other, one that leaves the settings alone: the mix or the seed.
        of: as :func:`settings` gives them.
    """
    first, second = pairs["sae_id"].map(of), pairs["other_sae_id"].map(of)
    there = (pairs["factor"] == against) & (first == second)
    own = (pairs["factor"] == factor) & first.isin(first[there]) & second.isin(first[there])
    return pairs[own | (there & first.isin([*first[own], *second[own]]))]


def difference(pairs: pd.DataFrame, values: str, factor: str, of: pd.Series, confidence: float) -> PairEstimate:
    """What pairs of one factor have in common more than those of the other, at equal settings.

    Args:
        pairs: as :func:`at_equal_settings` gives them, at least one of either factor.
        values: the column held against each other.
        factor: the one factor.
        of: as :func:`settings` gives them.
        confidence: level of the interval.
    """
    terms = ends(pairs["sae_id"].map(of), pairs["other_sae_id"].map(of)).assign(factor=(pairs["factor"] == factor).astype(float))
    weights = [0.0] * (terms.shape[1] - 1) + [1.0]
    return pair_estimate(pairs[values].tolist(), terms, weights, pairs[IDS], confidence)


def factor_effects(matching: Mapping[str, pd.DataFrame], design: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Mean share of features that two SAEs have in common where they differ in one factor alone.

    ``match_ratio`` (greedy, both directions averaged) for either side, and ``shared_feature_ratio`` (one-to-one, decoder);
    intervals as :func:`sae_pipeline.analysis.pairwise.pair_estimate`. Pairs of two factors are often of other widths and
    arms, so the means are not ranked. ``difference`` is what the pairs share more than those of the factor ``against`` (the
    mix, or the seed where no two mixes were matched) at equal settings, and its order is ``rank``: 1 for the factor whose
    pairs share least, that is the one that changes the features most; null where nothing is at equal settings. Columns as
    :data:`COLUMNS`.

    Args:
        matching: the tables ``matches`` and ``one_to_one``.
        design: as :func:`sae_pipeline.analysis.tables.design`, indexed by ``sae_id``.
        confidence: level of the intervals.
    """
    of = settings(design)
    greedy = unordered(matching["matches"].query("unit == 'feature'"))
    assigned = matching["one_to_one"].assign(side="decoder")
    measures = {
        "match_ratio": greedy.rename(columns={"match_ratio": "value", "chance_match_ratio": "chance"}),
        "shared_feature_ratio": assigned.rename(columns={"shared_feature_ratio": "value", "chance_shared_feature_ratio": "chance"}),
    }
    rows = []
    for measure, frame in measures.items():
        for where, there in frame.dropna(subset=["value"]).groupby(["layer", "site", "side", "population"], sort=True):
            place = dict(zip(("layer", "site", "side", "population"), where, strict=True)) | {"measure": measure}
            against = next((name for name in ("mix", "seed") if (there["factor"] == name).any()), None)
            for factor, pairs in there.groupby("factor", sort=True):
                figure = pair_mean(pairs["value"].tolist(), pairs[IDS], confidence)
                means = {"estimate": figure.estimate, "low": figure.low, "high": figure.high, "chance": pairs["chance"].mean()}
                rows.append(place | {"factor": factor, "pairs": len(pairs)} | means | _held_against(there, str(factor), against, of, confidence))
    table = pd.DataFrame(rows, columns=list(COLUMNS))
    numbers = dict.fromkeys(("estimate", "low", "high", "chance", "difference", "difference_low", "difference_high"), float)
    table = table.astype(
        dict.fromkeys(("site", "measure", "side", "population", "factor", "against"), "string") | numbers | {"layer": int, "pairs": int}
    )
    table["rank"] = table.groupby(["layer", "site", "measure", "side", "population"])["difference"].rank(method="min").astype("Int64")
    return table


def _held_against(pairs: pd.DataFrame, factor: str, against: str | None, of: pd.Series, confidence: float) -> dict[str, float | str | None]:
    """The columns ``against`` to ``difference_high`` of a factor; nought and no interval for the one held against itself."""
    nan = float("nan")
    figure = PairEstimate(nan, nan, nan, nan, 0, 0)
    if factor == against:
        figure = PairEstimate(0.0, nan, nan, nan, 0, 0)
    elif against is not None and len(here := at_equal_settings(pairs, factor, against, of)):
        figure = difference(here, "value", factor, of, confidence)
    return {"against": against, "difference": figure.estimate, "difference_low": figure.low, "difference_high": figure.high}

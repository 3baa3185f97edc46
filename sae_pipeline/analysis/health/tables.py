"""Health as tables: one row per SAE with a mark per metric, across evaluation sets, layer by layer, and by success criteria.

Pure functions of the tables ``health``, ``saes`` and ``feature_stats``. The rules they follow are the rubrics' data.
"""

from __future__ import annotations

from collections.abc import Collection
from math import isfinite, nan
from typing import Any

import pandas as pd

from sae_pipeline.analysis.health.bands import NOT_JUDGED, SEVERITY
from sae_pipeline.analysis.health.rubrics import Rubric
from sae_pipeline.metrics.latents.dense_latents import dense_latents

ALWAYS_ON = "0.8"
"""Share of tokens above which a latent is always on; the cut of ``dense_share@0.8``."""

VERDICTS = ("good", "variable", "poor", NOT_JUDGED)
"""What an SAE can be called across evaluation sets."""

NO_TIER = "between tiers"


def worst_rows(health: pd.DataFrame, rubric: Rubric, evaluation_sets: Collection[str]) -> pd.DataFrame:
    """The rows of a rubric with the worst mark per SAE and metric over the sets named (all where none is), SAEs in their order.

    Among equal marks the set that comes first in the table counts. Columns as ``health``, with ``severity`` (-1: not judged).
    """
    rows = health[(health["rubric"] == rubric.name) & (health["evaluation_set"].isin(list(evaluation_sets)) | (not evaluation_sets))]
    rows = rows.assign(severity=[SEVERITY.get(mark, -1) for mark in rows["mark"]]).reset_index(drop=True)
    return rows.loc[rows.groupby(["sae_id", "metric"], sort=False)["severity"].idxmax()].reset_index(drop=True)


def overall_marks(health: pd.DataFrame, evaluation_sets: Collection[str]) -> pd.DataFrame:
    """The worst mark of every SAE by every rubric, over the sets named (all where none is): index ``sae_id``, a column per rubric."""
    rows = health[health["evaluation_set"].isin(list(evaluation_sets)) | (not evaluation_sets)]
    ranked = rows.assign(severity=[SEVERITY.get(mark, -1) for mark in rows["mark"]])
    worst = ranked.groupby(["sae_id", "rubric"], sort=False)["severity"].max().unstack("rubric")
    names = {severity: mark for mark, severity in SEVERITY.items()} | {-1: NOT_JUDGED}
    return worst[list(dict.fromkeys(rows["rubric"]))].map(names.__getitem__)


def across_sets(health: pd.DataFrame, rubric: Rubric) -> pd.DataFrame:
    """Whether every SAE holds up on every evaluation set, by the rubric's rule ``across_sets``.

    Returns:
        Columns ``sae_id``, ``verdict`` (one of :data:`VERDICTS`: good where the metric holds up on every set judged, poor where
        on none, else variable), ``held`` and ``judged`` (numbers of sets).
    """
    if rubric.across_sets is None:
        raise ValueError(f"{rubric.name} states no rule across evaluation sets")
    rows = health[(health["rubric"] == rubric.name) & (health["metric"] == rubric.across_sets.metric)]
    rows = rows.assign(judged=rows["mark"] != NOT_JUDGED, held=rows["mark"].isin(list(rubric.across_sets.holds_up)))
    counts = rows.groupby("sae_id", sort=False)[["held", "judged"]].sum().reset_index()
    verdicts = [_verdict(int(held), int(judged)) for held, judged in zip(counts["held"], counts["judged"], strict=True)]
    return counts.assign(verdict=verdicts)[["sae_id", "verdict", "held", "judged"]]


def _verdict(held: int, judged: int) -> str:
    if not judged:
        return NOT_JUDGED
    return "good" if held == judged else "variable" if held else "poor"


def always_on(feature_stats: pd.DataFrame) -> dict[tuple[str, str], list[int]]:
    """(SAE, evaluation set) to the ids of the latents that are always on there, ascending; where there are none, nothing."""
    groups = feature_stats.groupby(["sae_id", "evaluation_set"], sort=False)
    found = {(str(sae_id), str(held_out)): dense_latents(rows)["cuts"][ALWAYS_ON] for (sae_id, held_out), rows in groups}
    return {key: ids for key, ids in found.items() if ids}


def layer_rows(worst: pd.DataFrame, saes: pd.DataFrame, rubric: Rubric) -> pd.DataFrame:
    """SAEs that differ in nothing but the layer, beside each other, and the best layer of each group by the rubric's ``best_layer``.

    Args:
        worst: what :func:`worst_rows` gives.
        saes: the table ``saes``.
        rubric: one that states the rule.

    Returns:
        Columns ``group`` (mix, expansion, arm and site in words), ``layer``, ``sae_id``, ``faults`` (metrics marked warning or
        worse), ``mark`` (the worst), ``best``; ordered by group and layer. Groups of one layer are left out, and where a
        figure that is compared is missing, the group has no best layer.
    """
    if rubric.best_layer is None:
        raise ValueError(f"{rubric.name} states no rule for the best layer")
    shared = [name for name in ("mix", "site", "arm") if name in saes.columns]
    groups = [" ".join([*(str(row[name]) for name in shared), f"x{row['expansion']:g}"]) for row in saes.to_dict("records")]
    table = saes[["sae_id", "layer"]].assign(group=groups)
    table = table[table.groupby("group")["layer"].transform("nunique") > 1].sort_values(["group", "layer"], kind="stable", ignore_index=True)
    faulty = worst[worst["severity"] >= SEVERITY["warning"]].sort_values("severity", ascending=False, kind="stable")
    faults: dict[Any, list[str]] = {sae_id: list(metrics) for sae_id, metrics in faulty.groupby("sae_id")["metric"]}
    marks = dict(worst.sort_values("severity").groupby("sae_id")["mark"].last())
    values = worst.set_index(["sae_id", "metric"])["value"]
    table["faults"] = table["sae_id"].map(lambda sae_id: faults.get(sae_id, []))
    table["mark"] = table["sae_id"].map(lambda sae_id: marks.get(sae_id, NOT_JUDGED))
    rank: dict[str, list[float]] = {
        sae_id: [
            len(found) if step.metric is None else float(values.get((sae_id, step.metric), nan)) * (-1 if step.prefer == "highest" else 1)
            for step in rubric.best_layer.order
        ]
        for sae_id, found in zip(table["sae_id"], table["faults"], strict=True)
    }
    groups_of_ids = [list(ids) for _, ids in table.groupby("group", sort=False)["sae_id"]]
    best = [min(ids, key=rank.__getitem__) for ids in groups_of_ids if all(isfinite(figure) for sae_id in ids for figure in rank[sae_id])]
    return table.assign(best=table["sae_id"].isin(best))[["group", "layer", "sae_id", "faults", "mark", "best"]]


def tier_rows(worst: pd.DataFrame, rubric: Rubric) -> pd.DataFrame:
    """Which of the rubric's tiers every SAE meets as a whole.

    The last tier where one figure lies in it and in no better one; else the worst tier among its figures; ``between tiers``
    where a figure lies in none of them.

    Returns:
        Columns ``sae_id``, ``tier``, ``decided_by`` (metrics that keep it from a better one) and ``unknown`` (metrics without
        a value).
    """
    rows = []
    for sae_id, judged in worst.groupby("sae_id", sort=False):
        known = judged[judged["value"].notna()]
        place = {
            metric: rubric.tiers.index(called) if called in rubric.tiers else None
            for metric, called in zip(known["metric"], known["called"], strict=True)
        }
        last = len(rubric.tiers) - 1
        outside = [metric for metric, tier in place.items() if tier is None]
        ranks = [tier for tier in place.values() if tier is not None]
        if last in ranks or not outside:
            reached = max(ranks, default=None)
            tier = NOT_JUDGED if reached is None else rubric.tiers[reached]
            decided = [metric for metric, rank in place.items() if rank == reached and rank]
        else:
            tier, decided = NO_TIER, outside
        rows.append((sae_id, tier, decided, list(judged.loc[judged["value"].isna(), "metric"])))
    return pd.DataFrame(rows, columns=["sae_id", "tier", "decided_by", "unknown"])

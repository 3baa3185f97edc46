"""Health as tables: one row per SAE with a mark per metric, across evaluation sets, layer by layer, and by success criteria.

Pure functions of the tables ``health``, ``saes`` and ``feature_stats``. The rules they follow are the rubrics' data.
"""

from __future__ import annotations

from collections.abc import Collection
from math import fsum
from typing import Any

import numpy as np
import pandas as pd

from sae_pipeline.analysis.health.bands import NOT_JUDGED, SEVERITY
from sae_pipeline.analysis.health.rubrics import BestLayer, Rubric
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
    rows = _rows_on(health, rubric, evaluation_sets)
    return rows.loc[rows.groupby(["sae_id", "metric"], sort=False)["severity"].idxmax()].reset_index(drop=True)


def _rows_on(health: pd.DataFrame, rubric: Rubric, evaluation_sets: Collection[str]) -> pd.DataFrame:
    """The rows of a rubric on the sets named (all where none is), with ``severity`` (-1: not judged)."""
    rows = health[(health["rubric"] == rubric.name) & (health["evaluation_set"].isin(list(evaluation_sets)) | (not evaluation_sets))]
    return rows.assign(severity=[SEVERITY.get(mark, -1) for mark in rows["mark"]]).reset_index(drop=True)


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


def layer_rows(health: pd.DataFrame, saes: pd.DataFrame, rubric: Rubric, evaluation_sets: Collection[str] = ()) -> pd.DataFrame:
    """SAEs that differ in nothing but the layer, beside each other, and the best layer of each group by the rubric's ``best_layer``.

    Layers are compared by the mean of a metric over the sets on which all layers of the group have a value of it: the sets with the
    worst marks may be others at every layer, and figures of different sets say nothing about layers.

    Args:
        health: the table ``health``.
        saes: the table ``saes``.
        rubric: one that states the rule.
        evaluation_sets: the sets looked at; all where none is named.

    Returns:
        Columns ``group`` (mix, expansion, arm and site in words), ``layer``, ``sae_id``, ``faults`` (metrics marked warning or
        worse on any set), ``mark`` (the worst), ``best``; ordered by group and layer. Groups of one layer are left out, and
        where all layers have a figure that is compared on no set, the group has no best layer.
    """
    if rubric.best_layer is None:
        raise ValueError(f"{rubric.name} states no rule for the best layer")
    shared = [name for name in ("mix", "site", "arm") if name in saes.columns]
    groups = [" ".join([*(str(row[name]) for name in shared), f"x{row['expansion']:g}"]) for row in saes.to_dict("records")]
    table = saes[["sae_id", "layer"]].assign(group=groups)
    table = table[table.groupby("group")["layer"].transform("nunique") > 1].sort_values(["group", "layer"], kind="stable", ignore_index=True)
    worst = worst_rows(health, rubric, evaluation_sets)
    faulty = worst[worst["severity"] >= SEVERITY["warning"]].sort_values("severity", ascending=False, kind="stable")
    faults: dict[Any, list[str]] = {sae_id: list(metrics) for sae_id, metrics in faulty.groupby("sae_id")["metric"]}
    marks = dict(worst.sort_values("severity").groupby("sae_id")["mark"].last())
    table["faults"] = table["sae_id"].map(lambda sae_id: faults.get(sae_id, []))
    table["mark"] = table["sae_id"].map(lambda sae_id: marks.get(sae_id, NOT_JUDGED))
    rows = _rows_on(health, rubric, evaluation_sets)
    groups_of_ids = [list(ids) for _, ids in table.groupby("group", sort=False)["sae_id"]]
    best = [_best(rows[rows["sae_id"].isin(ids)], ids, rubric.best_layer) for ids in groups_of_ids]
    return table.assign(best=table["sae_id"].isin(best))[["group", "layer", "sae_id", "faults", "mark", "best"]]


def _best(rows: pd.DataFrame, sae_ids: list[str], rule: BestLayer) -> str | None:
    """The SAE that comes first by a rule, over the pairs of set and metric of which all have a value; None where a step has none."""
    known = rows[np.isfinite(rows["value"].to_numpy(float))]
    shared = known[known.groupby(["evaluation_set", "metric"])["sae_id"].transform("nunique") == len(sae_ids)]
    faults = shared[shared["severity"] >= SEVERITY["warning"]].groupby("sae_id")["metric"].nunique().to_dict()
    # All have as many sets of a metric, so that sums rank like means; exact ones keep equals equal in any order of the sets.
    sums = shared.groupby(["sae_id", "metric"])["value"].agg(fsum).to_dict()
    if any((sae_id, step.metric) not in sums for sae_id in sae_ids for step in rule.order if step.metric is not None):
        return None

    def rank(sae_id: str) -> list[float]:
        return [
            faults.get(sae_id, 0) if step.metric is None else sums[sae_id, step.metric] * (-1 if step.prefer == "highest" else 1)
            for step in rule.order
        ]

    return min(sae_ids, key=rank)


def tier_rows(health: pd.DataFrame, rubric: Rubric, evaluation_sets: Collection[str] = ()) -> pd.DataFrame:
    """Which of the rubric's tiers every SAE meets as a whole, by its figures on all sets named (all sets where none is).

    The last tier where one figure lies in it and in no better one; else ``between tiers`` where a figure lies in none of
    them; else the worst tier among its figures.

    Returns:
        Columns ``sae_id``, ``tier``, ``decided_by`` (metrics that keep it from a better one) and ``unknown`` (metrics without
        a value on any set).
    """
    order = (*rubric.tiers[:-1], NO_TIER, *rubric.tiers[-1:])
    rows = []
    for sae_id, judged in _rows_on(health, rubric, evaluation_sets).groupby("sae_id", sort=False):
        known = judged[np.isfinite(judged["value"].to_numpy(float))]
        tiers = known["called"].where(known["called"].isin(rubric.tiers), NO_TIER).map(order.index)
        place = tiers.groupby(known["metric"], sort=False).max().to_dict()
        reached = max(place.values(), default=None)
        tier = NOT_JUDGED if reached is None else order[reached]
        decided = [metric for metric, rank in place.items() if rank == reached and tier not in rubric.tiers[:1]]
        rows.append((sae_id, tier, decided, [metric for metric in dict.fromkeys(judged["metric"]) if metric not in place]))
    return pd.DataFrame(rows, columns=["sae_id", "tier", "decided_by", "unknown"])

"""Frames behind the report that no finding holds: seed spread, architecture pairs, one row per SAE, and what came from what.

Pure functions of the study's tables. They describe (ranges, counts); intervals and verdicts come from the analysis.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pandas as pd

from sae_pipeline.analysis.tables import DESIGN, SETTING, StudyTables, design
from sae_pipeline.store.fingerprints import strings_in

TEXT = ("subject", "generated", "retrieved", "corpus")
TRAINED = (*TEXT, "activations", "surveys", "saes")
MEASURED = (*TEXT, "activations", "surveys", "spelling", "baselines", "saes")

RESTS_ON = {
    "saes": TRAINED,
    "baseline_sums": (*TEXT, "activations", "spelling", "baselines"),
    "document_sums": MEASURED,
    "feature_stats": MEASURED,
    "sae_metrics": MEASURED,
    "health": MEASURED,
    "findings": (*MEASURED, "matching", "layer_matches"),
    "layer_matches": (*MEASURED, "layer_matches"),
    "directions_map": (*MEASURED, "layer_matches"),
}
"""Which stages' artifacts every table of a study is computed from, upstream first; a study has none of some stages."""

ASKED_FOR = {
    "matching": (*MEASURED, "matching"),
    "concepts": (*TRAINED, "concepts"),
    "positions": (*TRAINED, "positions"),
}
"""The same for the tables of a section that a study asks for, those named above aside."""


def rows_of(frame: pd.DataFrame) -> Iterator[Any]:
    """Rows as named tuples; typed loosely, because a frame cannot say what its columns hold."""
    return iter(frame.itertuples())


def measured(tables: StudyTables) -> pd.DataFrame:
    """Every SAE on every evaluation set with the settings it is matched on: columns of :data:`DESIGN`, set, metrics."""
    wanted = ["sae_id", "evaluation_set", "explained_variance", "l0"]
    return design(tables.saes).merge(tables.sae_metrics[wanted], on="sae_id")


def seed_spread(tables: StudyTables) -> pd.DataFrame:
    """How far seeds of one configuration lie apart, per layer and evaluation set.

    Columns layer, evaluation_set, configurations (those with two seeds or more), seeds (most in one), median and max
    (range of explained variance between the seeds of a configuration: the middle one, and the widest).
    """
    groups = measured(tables).groupby([*SETTING, "evaluation_set"], sort=True)["explained_variance"]
    spread = groups.agg(seeds="count", span=lambda values: values.max() - values.min()).reset_index()
    return (
        spread[spread["seeds"] > 1]
        .groupby(["layer", "evaluation_set"], sort=True)
        .agg(configurations=("span", "size"), seeds=("seeds", "max"), median=("span", "median"), max=("span", "max"))
        .reset_index()
    )


def architecture_pairs(tables: StudyTables) -> pd.DataFrame:
    """Pairs of SAEs that differ in nothing but the architecture, per layer and evaluation set.

    Columns layer, evaluation_set, architecture, against, pairs, estimate (mean difference of explained variance), low and
    high (smallest and largest difference: a range over pairs and not a confidence interval), l0_difference (mean).
    """
    table = measured(tables)
    keys = [name for name in DESIGN if name != "architecture"] + ["evaluation_set"]
    both = table.merge(table, on=keys, suffixes=("", "_other"))
    both = both[both["architecture"] < both["architecture_other"]]
    both["difference"] = both["explained_variance"] - both["explained_variance_other"]
    both["l0_difference"] = both["l0"] - both["l0_other"]
    grouped = both.groupby(["layer", "evaluation_set", "architecture", "architecture_other"], sort=True)
    return (
        grouped.agg(
            pairs=("difference", "size"), estimate=("difference", "mean"), low=("difference", "min"), high=("difference", "max"),
            l0_difference=("l0_difference", "mean"),
        ).reset_index().rename(columns={"architecture_other": "against"})
    )  # fmt: skip


def lineage_chain(lineage: pd.DataFrame) -> list[dict[str, Any]]:
    """The artifacts in the order of the table, each with the names of the artifacts its inputs mention.

    Rows hold stage, what, fingerprint, created, seconds, libraries (dict) and sources (list of names).
    """
    names = {digest: row["what"] for _, row in lineage.iterrows() for digest in (row["fingerprint"], row["content"])}
    return [
        {
            "stage": row["artifact_stage"],
            "what": row["what"],
            "fingerprint": row["fingerprint"],
            "created": row["created"],
            "seconds": float(row["seconds"]),
            "libraries": json.loads(row["libraries"]),
            "sources": list(dict.fromkeys(names[text] for text in strings_in(json.loads(row["inputs"])) if text in names)),
        }
        for _, row in lineage.iterrows()
    ]

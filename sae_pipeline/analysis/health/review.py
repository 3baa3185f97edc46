"""Whether rubrics still say something: how their marks fall, where they are silent, and where they contradict each other.

A band that every SAE falls into tells none of them apart, and one that judges nothing may ask for what a study does not measure.
Both are worth a look when a rubric is revised.
"""

from __future__ import annotations

import pandas as pd

from sae_pipeline.analysis.health.bands import NOT_JUDGED, SEVERITY

MARKS = (*sorted(SEVERITY, key=SEVERITY.__getitem__), NOT_JUDGED)
"""Marks from the best to the worst, and none."""

COLUMNS = ("rubric", "metric", *MARKS, "lowest", "highest", "disagreements", "remark")


def review(health: pd.DataFrame, disagreements: pd.DataFrame) -> pd.DataFrame:
    """One row per rubric and metric, in their order.

    Args:
        health: the table ``health``.
        disagreements: the table ``rubric_disagreements``.

    Returns:
        ``rubric``, ``metric``, how many SAEs and sets got each mark, the ``lowest`` and ``highest`` value judged,
        ``disagreements`` with other rubrics about the metric, and a ``remark`` where the row asks for a look.
    """
    rows = []
    for (rubric, metric), here in health.groupby(["rubric", "metric"], sort=False):
        counts = here["mark"].value_counts()
        judged = here.loc[here["mark"] != NOT_JUDGED, "value"]
        about = disagreements[disagreements["metric"] == metric]
        differing = int(((about["rubric"] == rubric) | (about["other_rubric"] == rubric)).sum())
        rows.append(
            {
                "rubric": rubric,
                "metric": metric,
                **{mark: int(counts.get(mark, 0)) for mark in MARKS},
                "lowest": judged.min(),
                "highest": judged.max(),
            }
            | {"disagreements": differing, "remark": _remark(here)}
        )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _remark(here: pd.DataFrame) -> str:
    """What to look at, from the marks of one rubric on one metric."""
    judged = here[here["mark"] != NOT_JUDGED]
    if judged.empty:
        reasons = here["note"].value_counts()
        return f"nothing is judged: {reasons.index[0]}" if len(reasons) else "nothing is judged"
    if judged["mark"].nunique() == 1 and len(judged) > 1:
        return f"every mark is '{judged['mark'].iloc[0]}', so the bands tell these SAEs apart in nothing"
    silent = len(here) - len(judged)
    return f"{silent} of {len(here)} are not judged" if silent else ""

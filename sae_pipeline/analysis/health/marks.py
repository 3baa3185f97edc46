"""Health marks: every SAE on every evaluation set held against a rubric's bands, in words, and rubric against rubric."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import combinations
from math import inf, isfinite
from typing import Any

import pandas as pd

from sae_pipeline.analysis.health.bands import NOT_JUDGED, SEVERITY, SIGN_OF, Band, Gap, JudgedMetric, Reading
from sae_pipeline.analysis.health.intervals import Range
from sae_pipeline.analysis.health.rubrics import Rubric
from sae_pipeline.analysis.tables import in_sample

COLUMNS = ["sae_id", "evaluation_set", "rubric", "metric", "value", "mark", "band", "note", "called"]

DISAGREEMENT_COLUMNS = ["sae_id", "evaluation_set", "metric", "value", "rubric", "mark", "band", "other_rubric", "other_mark", "other_band"]
OVERALL = "overall"
"""Stands for the metric in the row of a disagreement about the worst mark of an SAE on a set."""

L0_OVER_TARGET, TRAIN_GAP = "l0_over_target", "train_gap"
"""Quantities that rubrics may judge beside the metrics; see :func:`with_judged_quantities`."""


def with_judged_quantities(sae_metrics: pd.DataFrame, saes: pd.DataFrame) -> pd.DataFrame:
    """The metrics with what is judged of metric and configuration together, as far as the tables have what it takes.

    ``l0_over_target``: L0 over the k or target L0 that the SAE was set to; at least 1 for TopK, which may use fewer latents
    where fewer are positive, and misses nothing by that. ``train_gap``: explained variance of the last training batch
    (1 - ``final_loss``) minus that on the set, for sets that are in-sample for the SAE; elsewhere a gap is a matter of the shift.
    """
    known = [name for name in ("sparsity", "architecture", "final_loss") if name in saes.columns]
    joined = sae_metrics[["sae_id"]].merge(saes[["sae_id", *known]], on="sae_id", how="left")
    judged = sae_metrics.reset_index(drop=True).copy()
    if "l0" in judged:
        ratio = judged["l0"] / joined["sparsity"]
        judged[L0_OVER_TARGET] = ratio.where(joined["architecture"] != "topk", ratio.clip(lower=1.0)) if "architecture" in joined else ratio
    if "final_loss" in joined and {"explained_variance", "kind"} <= set(judged):
        judged[TRAIN_GAP] = (1 - joined["final_loss"] - judged["explained_variance"]).where(in_sample(judged))
    return judged


def judge(rubrics: Sequence[Rubric], sae_metrics: pd.DataFrame, saes: pd.DataFrame, subject_parameters: int | None = None) -> pd.DataFrame:
    """Mark every SAE on every evaluation set by every rubric.

    Args:
        rubrics: the rubrics.
        sae_metrics: rows of SAE and evaluation set with metric columns.
        saes: rows of SAEs with ``sae_id``, ``d_sae`` and ``sparsity``.
        subject_parameters: parameters of the subject model; None applies the profiles that name no size class.

    Returns:
        Columns ``sae_id, evaluation_set, rubric, metric, value, mark, band, note, called``; ``value`` is the metric as in the
        table, ``band`` says in words what was expected and found, ``note`` the source of the band or why there is no mark,
        ``called`` the source's own word for the band, where it has one.
    """
    described = saes.set_index("sae_id") if len(saes) else saes
    rows: list[tuple[Any, ...]] = []
    for row in with_judged_quantities(sae_metrics, saes).to_dict("records") if len(sae_metrics) else ():
        sae = described.loc[row["sae_id"]]
        for rubric in rubrics:
            size, use = rubric.size_class(subject_parameters), rubric.use_case(float(sae["sparsity"]))
            for judged in rubric.metrics:
                value = float("nan") if row.get(judged.metric) is None else float(row[judged.metric])
                said = _marked(judged, value, size, use, int(sae["d_sae"]), judged.metric in row)
                rows.append((row["sae_id"], row["evaluation_set"], rubric.name, judged.metric, value, *said))
    return pd.DataFrame(rows, columns=COLUMNS).astype({"value": float})


def bottom_lines(health: pd.DataFrame, rubric: Rubric, evaluation_sets: Collection[str] | None = None) -> pd.DataFrame:
    """One worded conclusion per SAE by one rubric: columns ``sae_id``, ``mark`` (the worst it has) and ``sentence``.

    ``evaluation_sets`` restricts what is looked at, for example to the in-sample sets; None takes all.
    """
    labels = {metric: label.split(" (")[0] for metric, label in rubric.labels.items()}
    health = health[health["rubric"] == rubric.name]
    chosen = health if evaluation_sets is None else health[health["evaluation_set"].isin(list(evaluation_sets))]
    rows = []
    for sae_id, marks in chosen.groupby("sae_id", sort=True):
        given = marks[marks["mark"] != NOT_JUDGED].assign(severity=lambda table: table["mark"].map(SEVERITY))
        worst = max(given["mark"].astype(str).tolist(), key=SEVERITY.__getitem__, default=NOT_JUDGED)
        faults = given[given["severity"] >= SEVERITY["warning"]].sort_values(["severity", "metric", "evaluation_set"], ascending=[False, True, True])
        reasons = [f"{labels[str(f.metric)]} on {f.evaluation_set}: {f.band}" for f in faults.drop_duplicates("metric").itertuples()]
        verdict = {
            "good": "Healthy on every metric judged",
            "acceptable": "Healthy, with room to improve",
            "warning": "Usable with care",
            "poor": "Not to be relied on",
            NOT_JUDGED: "Not judged: no metric has a mark",
        }[worst]
        fine = [labels[m] for m in labels if m in set(given["metric"]) - set(faults["metric"])] if reasons else []
        unjudged = [labels[m] for m in labels if m in set(marks["metric"]) - set(given["metric"])] if len(given) else []
        tails = [f"{word}: {', '.join(names)}" for word, names in (("Fine", fine), ("Not judged", unjudged)) if names]
        rows.append((sae_id, worst, ". ".join([verdict + (f" ({'; '.join(reasons)})" if reasons else ""), *tails]) + "."))
    return pd.DataFrame(rows, columns=["sae_id", "mark", "sentence"])


def disagreements(health: pd.DataFrame) -> pd.DataFrame:
    """Where two rubrics disagree about an SAE on a set: on a metric that both judge, or on its worst mark (metric ``overall``).

    They disagree when their marks stand for different signs: good and acceptable both say that there is nothing to do.
    What either does not judge is no disagreement.

    Returns:
        :data:`DISAGREEMENT_COLUMNS`, a row per pair of rubrics, the one named first by the study first; ``band`` and
        ``other_band`` hold each one's band and its source, for ``overall`` the metrics with the worst mark.
    """
    given = health[health["mark"] != NOT_JUDGED]
    severity = given["mark"].map(SEVERITY)
    keys = ["sae_id", "evaluation_set", "rubric"]
    worst = given[severity == severity.groupby([given[key] for key in keys]).transform("max")]
    overall = worst.groupby(keys, sort=False).agg(mark=("mark", "first"), note=("metric", ", ".join)).reset_index()
    stacked = pd.concat([given, overall.assign(metric=OVERALL, value=float("nan"))], ignore_index=True)
    order, found = list(dict.fromkeys(health["rubric"])), []
    for one, other in combinations(order, 2):
        pairs = stacked[stacked["rubric"] == one].merge(
            stacked[stacked["rubric"] == other], on=["sae_id", "evaluation_set", "metric"], suffixes=("", "_other")
        )
        pairs = pairs[pairs["mark"].map(SIGN_OF) != pairs["mark_other"].map(SIGN_OF)]
        renamed = pairs[["sae_id", "evaluation_set", "metric", "value", "rubric", "mark", "note", "rubric_other", "mark_other", "note_other"]]
        found.append(renamed.set_axis(DISAGREEMENT_COLUMNS, axis="columns"))
    table = pd.concat(found, ignore_index=True) if found else pd.DataFrame(columns=DISAGREEMENT_COLUMNS)
    return table.astype({name: float if name == "value" else "string" for name in DISAGREEMENT_COLUMNS})


def _marked(judged: JudgedMetric, value: float, size: str | None, use: str | None, d_sae: int, present: bool) -> tuple[str, str, str, str]:
    """Mark, worded band, note and the source's own word of one value."""
    if not isfinite(value):
        missing = f"{judged.label} has no value for this SAE and set" if present else f"the metric table has no column {judged.metric}"
        return NOT_JUDGED, "", missing, ""
    profiles = judged.chosen(size, use)
    if not profiles:
        unknown = "the size of the subject model is not known"
        return NOT_JUDGED, "", unknown if size is None else f"the rubric has no bands for size class {size} and use case {use}", ""
    counted = float(round(value * d_sae)) if judged.unit == "count_of_latents" else value
    good = dict.fromkeys(band.range for profile in profiles for band in profile.bands if band.mark == "good")
    wording = f"expected {' or '.join(_worded(r, judged.unit) for r in good) or 'no value'}, found {shown(counted, judged.unit)}"
    reading = judged.read(counted, size, use)
    return reading.mark, wording, _note(reading, judged), (reading.taken.called or "") if reading.taken else ""


def _note(reading: Reading, judged: JudgedMetric) -> str:
    """Where a mark comes from, or why there is none."""
    match reading.taken:
        case Band() as band:
            stated = f"{band.mark}: {_worded(band.range, judged.unit)} ({band.source})"
            others = [other for other in reading.bands if other.mark != band.mark]
            if not others or judged.two_marks is None:
                return stated
            rivals = " and ".join(f"{other.mark}: {_worded(other.range, judged.unit)} ({other.source})" for other in others)
            return f"{stated}; the source also gives {rivals}, and {judged.two_marks.reason}"
        case Gap() as gap:
            return f"{reading.mark.replace('_', ' ')}: {_worded(gap.range, judged.unit)} is left open ({gap.reason})"
        case _:
            return "the value lies outside every band of the rubric"


def _worded(band: Range, unit: str) -> str:
    """A range as a reader says it: ``0–5 %``, ``60 % or more``, ``above 500 latents``."""
    low, high, suffix = _number(band.low, unit), _number(band.high, unit), _suffix(unit)
    if band.low == band.high:
        return low + suffix
    if band.high == inf:
        return f"{low}{suffix} or more" if band.low_included else f"above {low}{suffix}"
    if band.low == -inf:
        return f"at most {high}{suffix}" if band.high_included else f"below {high}{suffix}"
    edges = f"{'' if band.low_included else 'above '}{low}–{'' if band.high_included else 'below '}{high}"
    return edges + suffix


def shown(value: float, unit: str) -> str:
    """A value with its unit: ``28.2 %``, ``95 latents``."""
    return _number(value, unit) + _suffix(unit)


def _number(value: float, unit: str) -> str:
    return f"{value * 100:.4g}" if unit == "percent" else f"{value:.4g}"


def _suffix(unit: str) -> str:
    return {"percent": " %", "number": "", "latents": " latents", "count_of_latents": " latents"}[unit]

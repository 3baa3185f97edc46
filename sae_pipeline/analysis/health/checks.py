"""Checks on health: per metric whether any SAE is marked down, how badly, and which SAE is worst."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from sae_pipeline.analysis.health.bands import NOT_JUDGED, SEVERITY
from sae_pipeline.analysis.health.rubrics import Rubric
from sae_pipeline.analysis.health.tables import worst_rows


@dataclass(frozen=True, kw_only=True)
class HealthCheck:
    """The outcome of one check over a group of SAEs."""

    name: str
    passed: bool
    severity: Literal["warn", "error"]
    """How bad it is that the check failed, by the worst mark; ``warn`` where it passed."""
    sentence: str
    """The outcome in words."""
    figures: dict[str, Any]
    """What was found, for whoever reads the check."""


def health_checks(health: pd.DataFrame, rubric: Rubric, evaluation_sets: Collection[str]) -> list[HealthCheck]:
    """A check for every metric that the rubric gives one.

    A check fails on marks that the rubric's ``check_severity`` names. What has no mark fails nothing, and the check says so.

    Args:
        health: the table ``health`` of the SAEs to check.
        rubric: whose marks count.
        evaluation_sets: the sets looked at, for example the in-sample ones; all where none is named.
    """
    worst = worst_rows(health, rubric, evaluation_sets)
    checks = []
    for judged in rubric.metrics:
        if judged.check is None:
            continue
        rows = worst[worst["metric"] == judged.metric]
        given = rows[rows["mark"] != NOT_JUDGED]
        figures: dict[str, Any] = {"rubric": rubric.name, "metric": judged.metric, "saes": len(rows), "saes_judged": len(given)}
        failing = given[given["mark"].isin(list(rubric.check_severity))].sort_values("severity", ascending=False, kind="stable")
        sentence = f"of {len(given)} SAEs judged none is marked down for {judged.label}"
        if given.empty:
            sentence = f"not applicable: {rows['note'].iloc[0]}" if len(rows) else "no arms here"
        for mark in SEVERITY:
            if mark in rubric.check_severity:
                figures[f"saes_marked_{mark}"] = int((given["mark"] == mark).sum())
        severity: Literal["warn", "error"] = "warn"
        if len(failing):
            first = failing.iloc[0]
            severity = "error" if "error" in {rubric.check_severity[mark] for mark in failing["mark"]} else "warn"
            worst_said = f"{first['mark']} on {first['evaluation_set']}: {first['band']}"
            figures |= {"worst_sae": first["sae_id"], "worst": worst_said}
            sentence = f"{len(failing)} of {len(given)} SAEs marked down for {judged.label}; the worst is {first['sae_id']}, {worst_said}"
        checks.append(HealthCheck(name=judged.check, passed=failing.empty, severity=severity, sentence=sentence, figures=figures))
    return checks

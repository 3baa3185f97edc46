"""Naming the causes of health problems: the rules of ``root_causes.v1.yaml`` on a study's tables, each with its evidence in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any

import pandas as pd

from sae_pipeline.analysis.improving.root_cause_rules import Condition, RootCauses, Rule, root_causes
from sae_pipeline.analysis.tables import StudyTables, in_sample
from sae_pipeline.study.schema import Study

COLUMNS: dict[str, Any] = dict.fromkeys(("sae_id", "evaluation_set", "cause", "statement", "evidence", "metric"), "string") | {
    "value": float,
    "source": "string",
}
"""Columns of the table ``root_causes`` and their types, which an empty table has too."""

ALWAYS_ON = "dense_share@0.8"
MARK = "mark of "
"""Prefix of the facts that are health marks."""

Facts = Mapping[str, Any]


def diagnose(
    tables: StudyTables, study: Study, health: pd.DataFrame, gaps: pd.DataFrame, *, rubric: str, n_layers: int, rules: RootCauses | None = None
) -> pd.DataFrame:
    """The causes that hold, rule by rule: one row per SAE, evaluation set and cause; columns as :data:`COLUMNS`.

    Args:
        tables: the study's tables.
        study: its mixes, evaluation sets and their shares.
        health: marks, as in the warehouse.
        gaps: rows of :func:`sae_pipeline.analysis.generalisation.gaps`.
        rubric: name of the rubric whose marks count.
        n_layers: blocks of the subject.
        rules: None takes those that come with the package.
    """
    looked_at = _facts(tables, study, health[health["rubric"] == rubric], gaps, n_layers)
    rows = [
        {
            "sae_id": facts["sae_id"],
            "evaluation_set": facts["evaluation_set"],
            "cause": rule.id,
            "statement": rule.cause,
            "evidence": "; ".join(evidence),
            "metric": rule.improve.metric,
            "value": facts.get(rule.improve.metric, float("nan")),
            "source": rule.source,
        }
        for rule in (rules or root_causes()).rules
        for own, facts in looked_at
        if own == (rule.sets == "in_sample") and (evidence := holds(rule, facts)) is not None
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def holds(rule: Rule, facts: Facts) -> list[str] | None:
    """The evidence, a phrase per condition, where every condition of a rule is met; None where one is not or lacks its fact."""
    evidence = [_met(condition, facts) for condition in rule.when]
    return None if None in evidence else [phrase for phrase in evidence if phrase]


def _met(condition: Condition, facts: Facts) -> str | None:
    """The phrase of a condition that is met, else None."""
    value = facts.get(condition.fact)
    if value is None or (isinstance(value, float) and not isfinite(value)):
        return None
    if condition.mark is not None:
        mark = facts.get(MARK + condition.fact)
        return f"{condition.says} {_shown(value)}, marked {mark}" if mark in condition.mark else None
    if condition.one_of is not None:
        return f"{condition.says} {str(value).replace('_', ' ')}" if value in condition.one_of else None
    for limit, met, words in (
        (condition.above, lambda edge: value > edge, "above"),
        (condition.below, lambda edge: value < edge, "below"),
        (condition.at_least, lambda edge: value >= edge, "at least"),
        (condition.equals, lambda edge: value == edge, ""),
    ):
        if limit is not None:
            expected = f" ({words} {_shown(limit)})" if words else ""
            return f"{condition.says} {_shown(value)}{expected}" if met(limit) else None
    return None


def _shown(value: Any) -> str:
    """A number in full where it is a whole one, else with four digits."""
    if isinstance(value, str):
        return value
    return f"{int(value):,}" if float(value).is_integer() else f"{value:.4g}"


def _facts(tables: StudyTables, study: Study, health: pd.DataFrame, gaps: pd.DataFrame, n_layers: int) -> list[tuple[bool, dict[str, Any]]]:
    """(whether the set is in-sample for the SAE, facts) of every SAE on every set, in the order of the tables."""
    marks = {key: dict(zip(rows["metric"], rows["mark"], strict=True)) for key, rows in health.groupby(["sae_id", "evaluation_set"])}
    verdicts = gaps.set_index(["sae_id", "evaluation_set"])["verdict"].to_dict()
    described = {row["sae_id"]: row for row in tables.saes.to_dict("records")}
    found: list[tuple[bool, dict[str, Any]]] = []
    for row, own in zip(tables.sae_metrics.to_dict("records"), in_sample(tables.sae_metrics), strict=True):
        sae, key = described[row["sae_id"]], (row["sae_id"], row["evaluation_set"])
        facts = {str(name): value for name, value in {**sae, **row}.items()}
        facts |= {MARK + metric: mark for metric, mark in marks.get(key, {}).items()}
        facts["depth"] = (sae["layer"] + 1) / n_layers
        facts["shared_text"] = study.shared_text(str(sae["mix"]), str(row["evaluation_set"]))
        if ALWAYS_ON in row:
            share = float(row[ALWAYS_ON])
            facts["always_on_latents"] = round(share * sae["d_sae"]) if isfinite(share) else None
        facts["l0_over_asked"] = float(row["l0"]) / float(sae["sparsity"])
        facts["generalisation"] = verdicts.get(key)
        found.append((bool(own), facts))
    return found

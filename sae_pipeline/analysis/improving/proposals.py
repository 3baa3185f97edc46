"""From causes to arms: what to train next, each proposed arm beside the one that it answers to."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from sae_pipeline.analysis.improving.remedies import Draft, Impossible, Setting, drafted, settings_of
from sae_pipeline.analysis.improving.root_cause_rules import Remedy, RootCauses, Rule, root_causes
from sae_pipeline.study.cells import cell, cells, declared
from sae_pipeline.study.fragments import NAME_LENGTH, as_written, derived_name, extended
from sae_pipeline.study.schema import Study

TO_TRAIN, IN_STUDY, NOT_POSSIBLE = "to_train", "in_study", "not_possible"
"""What becomes of a remedy: an arm of the proposed study, an arm that the study has already, or words alone."""

COLUMNS: dict[str, Any] = dict.fromkeys(
    ("cause", "remedy", "change", "answers_to", "proposed", "status", "evaluation_sets", "metric", "better", "note", "source"), "string"
)
"""Columns of the table ``proposals`` and their types, which an empty table has too."""


@dataclass(frozen=True)
class Proposal:
    """One remedy for one setting."""

    rule: Rule
    remedy: Remedy
    change: str
    """What changes, in words: ``diversity_coefficient 0 → 0.01``."""
    answers: dict[str, str]
    """The SAE that answers, by the id of the one that it answers to; empty where it is not possible."""
    old: tuple[str, ...]
    """The SAEs that have the problem, every seed."""
    evaluation_sets: tuple[str, ...]
    """The sets that showed it."""
    status: str
    note: str = ""


@dataclass(frozen=True)
class Plan:
    """The study with every proposed arm, and the proposals."""

    study: Study
    proposals: tuple[Proposal, ...]


def propose(study: Study, causes: pd.DataFrame, d_model: int, rules: RootCauses | None = None) -> Plan:
    """Arms for the causes found, rule by rule, for the settings that have the largest problem.

    Args:
        study: the study as loaded.
        causes: rows of :func:`sae_pipeline.analysis.improving.root_causes.diagnose`.
        d_model: width of the subject.
        rules: None takes those that come with the package.
    """
    rules = rules or root_causes()
    settings = settings_of(study)
    drafts: list[tuple[Rule, Remedy, Setting, tuple[str, ...], Draft | str]] = []
    for rule in rules.rules:
        for remedy in rule.remedies:
            for setting, sets in _worst(rule, remedy, causes, settings)[: rules.settings_per_remedy]:
                try:
                    drafts.append((rule, remedy, setting, sets, drafted(study, remedy, setting, sets, d_model)))
                except Impossible as reason:
                    drafts.append((rule, remedy, setting, sets, str(reason)))
    new = [(remedy, setting, draft) for _, remedy, setting, _, draft in drafts if isinstance(draft, Draft) and not _answers(study, setting, draft)]
    proposed = _with_arms(study, new)
    return Plan(proposed, tuple(_proposal(study, proposed, *each) for each in drafts))


def frame(plan: Plan) -> pd.DataFrame:
    """One row per proposal and seed; columns as :data:`COLUMNS`, ``proposed`` null where a remedy is not possible."""
    rows = [
        {
            "cause": proposal.rule.id,
            "remedy": proposal.remedy.says,
            "change": proposal.change,
            "answers_to": old,
            "proposed": proposal.answers.get(old),
            "status": proposal.status,
            "evaluation_sets": ", ".join(proposal.evaluation_sets),
            "metric": proposal.rule.improve.metric,
            "better": proposal.rule.improve.better,
            "note": proposal.note,
            "source": proposal.remedy.source,
        }
        for proposal in plan.proposals
        for old in proposal.old
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def comments(plan: Plan) -> list[str]:
    """Lines for the head of the proposed study's file: which arm answers to which, and why."""
    lines = ["Arms proposed for the health problems of a study, beside those that they answer to; run it, or let `sae-pipeline improve` do so."]
    for proposal in plan.proposals:
        if proposal.status == TO_TRAIN:
            old, new = proposal.old[0], proposal.answers[proposal.old[0]]
            more = f" (and {len(proposal.old) - 1} more seeds)" if len(proposal.old) > 1 else ""
            lines.append(f"{new} answers to {old}{more}: {proposal.rule.id}; {proposal.remedy.says}: {proposal.change}")
    return lines


def with_kept(study: Study, plan: Plan, kept: Collection[str]) -> Study:
    """The study with those of the proposed arms whose SAEs are kept, under its own name.

    Args:
        study: the study that the plan is for.
        plan: what was proposed.
        kept: ids of SAEs of the proposed study.
    """
    position = {id(group): place for place, group in enumerate(plan.study.saes.arms)}
    chosen: set[int] = set()
    for here in cells(plan.study):
        found = declared(plan.study, here.mix, here.point, here.expansion)
        chosen |= {position[id(group)] for label, (_, group) in found.items() if here.sae_id(label) in kept}
    written = as_written(plan.study)["saes"]["arms"]
    groups = [written[place] for place in sorted(chosen) if place >= len(study.saes.arms)]
    mixes = {mix: plan.study.mixes[mix] for group in groups for mix in group["only"]["mixes"] if mix not in study.mixes}
    expansions = dict.fromkeys(e for group in groups for e in group["only"]["expansions"] if e not in study.saes.expansions)
    return extended(study, study.name, study.description, groups, mixes=mixes, expansions=list(expansions))


# ------------------------------------------------------------------------------------------------ which settings


def _worst(rule: Rule, remedy: Remedy, causes: pd.DataFrame, settings: Mapping[str, Setting]) -> list[tuple[Setting, tuple[str, ...]]]:
    """Settings with the rule's cause and the sets that show it, the largest problem first; set by set where the remedy is a mix."""
    rows: dict[tuple[int, str], tuple[Setting, list[str], list[float]]] = {}
    for row in causes[causes["cause"] == rule.id].to_dict("records"):
        setting = settings[row["sae_id"]]
        _, sets, values = rows.setdefault((id(setting), row["evaluation_set"] if remedy.mix else ""), (setting, [], []))
        sets.append(row["evaluation_set"])
        values.append(row["value"])
    sign = 1 if rule.improve.better == "higher" else -1
    ordered = sorted(rows.values(), key=lambda item: sign * sum(item[2]) / len(item[2]))
    return [(setting, tuple(dict.fromkeys(sets))) for setting, sets, _ in ordered]


# ------------------------------------------------------------------------------------------------ the proposed study


def _with_arms(study: Study, drafts: list[tuple[Remedy, Setting, Draft]]) -> Study:
    """The study with a group of arms for each draft; equal ones once."""
    groups: list[dict[str, Any]] = []
    mixes: dict[str, dict[str, float]] = {}
    expansions: dict[str, float] = {}
    known = {f"{expansion:g}" for expansion in study.saes.expansions}
    for remedy, setting, draft in drafts:
        group = _group(study, remedy, setting, draft)
        if not any({**group, "name": ""} == {**other, "name": ""} for other in groups):
            groups.append(group)
        if draft.mix not in study.mixes:
            mixes[draft.mix] = draft.shares
        if f"{draft.expansion:g}" not in known:
            expansions[f"{draft.expansion:g}"] = draft.expansion
    description = f"Arms proposed for the health problems of {study.name}, beside those that they answer to."
    name = derived_name(study.name, "proposed")
    return extended(study, name, description, groups, mixes=mixes, expansions=list(expansions.values()))


def _group(study: Study, remedy: Remedy, setting: Setting, draft: Draft) -> dict[str, Any]:
    """The group that declares the setting, kept to it, with the draft's changes."""
    arm = replace(setting.arm, **draft.settings)
    group = dict(as_written(study)["saes"]["arms"][setting.group])
    budgets = arm.tokens if arm.trunk_tokens is None else sorted({arm.trunk_tokens, arm.tokens})
    changes = {field: value for field, value in draft.settings.items() if field not in ("tokens", "trunk_tokens")}
    base = re.sub(r"[^A-Za-z0-9]", "_", re.sub(r"-s\d+$", "", setting.arm.label))
    point = setting.cell.point
    return (
        group
        | {"name": f"{remedy.name}_for_{base}"[:NAME_LENGTH]}
        | {"target_l0" if arm.k is None else "k": arm.sparsity, "tokens": budgets}
        | changes
        | {"only": {"mixes": [draft.mix], "layers": [point.layer], "sites": [point.site], "expansions": [draft.expansion]}}
    )


def _proposal(study: Study, proposed: Study, rule: Rule, remedy: Remedy, setting: Setting, sets: tuple[str, ...], draft: Draft | str) -> Proposal:
    """The proposal of a draft, with the SAEs that answer."""
    old = tuple(setting.cell.sae_id(label) for label in setting.arms)
    if isinstance(draft, str):
        return Proposal(rule, remedy, "", {}, old, sets, NOT_POSSIBLE, draft)
    if there := _answers(study, setting, draft):
        return Proposal(rule, remedy, draft.words, there, old, sets, IN_STUDY, "the study has this arm already")
    return Proposal(rule, remedy, draft.words, _answers(proposed, setting, draft), old, sets, TO_TRAIN)


def _answers(study: Study, setting: Setting, draft: Draft) -> dict[str, str]:
    """The SAEs of a study that are the draft, by those that they answer to; empty where it lacks one."""
    if draft.mix not in study.mixes or draft.expansion not in study.saes.expansions:
        return {}
    target = cell(study, draft.mix, setting.cell.point, draft.expansion)
    found = {}
    for label, arm in setting.arms.items():
        wanted = replace(arm, **draft.settings)
        same = (name for name, other in target.arms.items() if (other.identity(), other.warm_start) == (wanted.identity(), wanted.warm_start))
        found[setting.cell.sae_id(label)] = next(same, None)
    return {old: target.sae_id(label) for old, label in found.items() if label is not None} if None not in found.values() else {}

"""What a remedy makes of an arm: the settings that change, or why it cannot be tried."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sae_pipeline.analysis.improving.root_cause_rules import Change, Remedy
from sae_pipeline.analysis.tables import regime
from sae_pipeline.saes.arm import READ_BY, Arm
from sae_pipeline.store import digest
from sae_pipeline.study.cells import Cell, cells, d_sae_of, declared
from sae_pipeline.study.fragments import NAME_LENGTH
from sae_pipeline.study.preset_writing import RATE_BY_WIDTH
from sae_pipeline.study.schema import Study

WHOLE = ("k", "tokens", "batch_size")
"""Settings that are whole numbers."""


@dataclass(frozen=True)
class Setting:
    """An arm of one cell with all of its seeds: what a remedy is proposed for."""

    cell: Cell
    group: int
    """Place of the group in ``saes.arms`` that declares it."""
    arms: dict[str, Arm]
    """By label."""

    @property
    def arm(self) -> Arm:
        """The one of the first seed; the others differ in nothing else."""
        return next(iter(self.arms.values()))


@dataclass(frozen=True)
class Draft:
    """A setting with a remedy in place, before it is known whether the study has it already."""

    mix: str
    """The mix it is trained on, and its token shares, which the study may lack."""
    shares: dict[str, float]
    expansion: float
    settings: dict[str, Any]
    """Fields of :class:`Arm` that change."""
    words: str
    """The change as ``k 16 → 8``."""


class Impossible(Exception):
    """Why a remedy cannot be tried on a setting."""


def settings_of(study: Study) -> dict[str, Setting]:
    """The setting of every SAE of the study, by its id."""
    place = {id(group): position for position, group in enumerate(study.saes.arms)}
    found: dict[tuple[Any, ...], Setting] = {}
    by_sae: dict[str, Setting] = {}
    for here in cells(study):
        for label, (arm, group) in declared(study, here.mix, here.point, here.expansion).items():
            key = (here.mix, here.point, here.expansion, id(group), arm.sparsity, arm.tokens)
            setting = found.setdefault(key, Setting(here, place[id(group)], {}))
            setting.arms[label] = arm
            by_sae[here.sae_id(label)] = setting
    return by_sae


def drafted(study: Study, remedy: Remedy, setting: Setting, sets: tuple[str, ...], d_model: int) -> Draft:
    """The setting with the remedy in place.

    Args:
        study: the study as loaded.
        remedy: the remedy.
        setting: the arm that has the problem.
        sets: evaluation sets that show it; one where the remedy is a mix.
        d_model: width of the subject.

    Raises:
        Impossible: the remedy changes nothing here, or asks for what cannot be trained.
    """
    arm, mix, expansion = setting.arm, setting.cell.mix, setting.cell.expansion
    shares = study.mixes[mix]
    changed: dict[str, Any] = {}
    words: list[str] = []
    if remedy.mix:
        [name] = sets
        shares = study.held_out[name].shares
        mix = next((known for known, declared_shares in study.mixes.items() if _same(declared_shares, shares)), _mix_like(name, study))
        words.append(f"mix {setting.cell.mix} → {mix}")
    for field, change in remedy.change.items():
        if field == "expansion":
            wanted = _changed(field, expansion, change)
            expansion = next((known for known in study.saes.expansions if f"{known:g}" == f"{wanted:g}"), wanted)
            words.append(f"expansion {setting.cell.expansion:g} → {expansion:g}")
            continue
        field = ("target_l0" if arm.k is None else "k") if field == "sparsity" else field
        if arm.architecture not in READ_BY.get(field, (arm.architecture,)):
            raise Impossible(f"{arm.architecture} does not read {field}")
        before = getattr(arm, field)
        if field == "learning_rate" and before is None:
            before = RATE_BY_WIDTH["learning_rate"]
            changed["learning_rate_scaling"] = RATE_BY_WIDTH["learning_rate_scaling"]
        changed[field] = _changed(field, before, change)
        words.append(f"{field} {_shown(before)} → {_shown(changed[field])}")
    if arm.trunk_tokens is not None and "tokens" in changed:
        changed["trunk_tokens"] = min(arm.trunk_tokens, changed["tokens"])
    draft = Draft(mix, dict(shares), expansion, changed, ", ".join(words))
    _can_be_trained(study, draft, replace(arm, **changed), setting, d_model)
    return draft


def _changed(field: str, before: float, change: Change) -> float:
    value = change.set if change.set is not None else before * float(change.times or 1)
    value = max(1, round(value)) if field in WHOLE else float(f"{value:.12g}")
    if value == before:
        raise Impossible(f"{field} is {before:g} already")
    return value


def _shown(value: float) -> str:
    """A number as a study file has it."""
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def _can_be_trained(study: Study, draft: Draft, arm: Arm, setting: Setting, d_model: int) -> None:
    """Refuse (:class:`Impossible`) what the study, its checks before a run, or a fair comparison would not have."""
    if arm.tokens > study.activations.tokens and not study.corpus.repeat:
        raise Impossible(f"needs {arm.tokens:,} tokens of activations, and activations.tokens is {study.activations.tokens:,}; raise it")
    if regime(draft.expansion) != regime(setting.cell.expansion):
        raise Impossible(f"expansion {draft.expansion:g} is {regime(draft.expansion)}, which is another task")
    d_sae = d_sae_of(draft.expansion, d_model)
    if arm.sparsity > d_sae:
        raise Impossible(f"asks for {arm.sparsity:g} active latents of {d_sae}")
    if arm.warm_start and draft.expansion != setting.cell.expansion:
        raise Impossible("begins with the weights of another SAE, whose width is given")
    if arm.batch_size > arm.tokens or arm.batch_size % arm.accumulate:
        raise Impossible(f"batch_size {arm.batch_size} does not go with {arm.tokens:,} tokens in {arm.accumulate} parts")


def _same(one: Mapping[str, float], other: Mapping[str, float]) -> bool:
    return all(abs(one.get(source, 0.0) - other.get(source, 0.0)) < 1e-9 for source in {*one, *other})


def _mix_like(evaluation_set: str, study: Study) -> str:
    """A name for a mix with the shares of a set, that no mix of the study has."""
    wanted = f"LIKE_{evaluation_set}" if len(evaluation_set) < NAME_LENGTH - 8 else f"LIKE_{digest(evaluation_set)[:12]}"
    name, n = wanted, 2
    while name in study.mixes:
        name, n = f"{wanted}_{n}", n + 1
    return name

"""Cells and arms: the study's declarations multiplied out.

A *cell* is (mix, hook point, expansion) and becomes one Dagster partition of a lane's ``saes`` asset. Everything else
that varies is an *arm* of the cell, trained beside the others on one pass over the same activation stream.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from sae_pipeline.saes.arm import Arm
from sae_pipeline.study.hook_points import HookPoint
from sae_pipeline.study.schema import Study
from sae_pipeline.study.section import as_tuple
from sae_pipeline.study.training_sections import ArmGroup, TrainingDefaults


def expansion_key(expansion: float) -> str:
    """Partition key of an expansion factor: ``x16``, ``x0.25``."""
    return f"x{int(expansion):02d}" if float(expansion).is_integer() else f"x{expansion:g}"


def point_of(study: Study, key: str) -> HookPoint:
    """The hook point behind a partition key of either definition."""
    name = key.split("|")[0]
    return next(point for point in study.hook_points if point.key == name)


def expansion_of(study: Study, key: str) -> float:
    """The expansion factor behind a grid key."""
    name = key.split("|")[1]
    return next(e for e in study.saes.expansions if expansion_key(e) == name)


@dataclass(frozen=True)
class Cell:
    """One (mix, hook point, expansion) with its arms."""

    mix: str
    point: HookPoint
    expansion: float
    arms: dict[str, Arm]

    def sae_id(self, label: str) -> str:
        """The name a user refers to an SAE by, for example ``PRE.L01.x08.topk-k16-t200k-s0``."""
        return f"{self.mix}.{self.point.key}.{expansion_key(self.expansion)}.{label}"


def d_sae_of(expansion: float, d_model: int) -> int:
    """Number of latents for an expansion factor, at least 1."""
    return max(1, round(expansion * d_model))


def cells(study: Study) -> Iterator[Cell]:
    """All cells of a study in the order mix, hook point, expansion; a cell may have no arms."""
    for mix, point, expansion in product(study.mixes, study.hook_points, study.saes.expansions):
        yield cell(study, mix, point, expansion)


def cell(study: Study, mix: str, point: HookPoint, expansion: float) -> Cell:
    """One cell with its arms, labelled."""
    return Cell(mix, point, float(expansion), {label: arm for label, (arm, _) in declared(study, mix, point, expansion).items()})


def declared(study: Study, mix: str, point: HookPoint, expansion: float) -> dict[str, tuple[Arm, ArmGroup]]:
    """Arms of a cell with the group that each is declared in, by label: the arm's own, then the group's name.

    Arms that differ in a field outside the label get ``-2``, ``-3`` … appended.
    """
    found: dict[str, tuple[Arm, ArmGroup]] = {}
    for arm, group in _arms(study, mix, point, expansion):
        # Arms that differ only in what their architecture does not read are one SAE.
        if any((arm.identity(), arm.warm_start) == (other.identity(), other.warm_start) for other, _ in found.values()):
            continue
        own = f"{arm.label}-{group.name}" if group.name else arm.label
        label, n = own, 2
        while label in found:
            label, n = f"{own}-{n}", n + 1
        found[label] = arm, group
    return found


def _arms(study: Study, mix: str, point: HookPoint, expansion: float) -> Iterator[tuple[Arm, ArmGroup]]:
    overridable = [name for name in TrainingDefaults.model_fields if name not in ("preset", "adjust", "tokens")]
    for group in study.saes.arms:
        only = group.only
        if (
            (only.mixes is not None and mix not in only.mixes)
            or (only.layers is not None and point.layer not in only.layers)
            or (only.sites is not None and point.site not in only.sites)
            or (only.expansions is not None and expansion not in only.expansions)
        ):
            continue
        settings = {name: getattr(study.saes.defaults, name) if getattr(group, name) is None else getattr(group, name) for name in overridable}
        budgets = as_tuple(study.saes.defaults.tokens if group.tokens is None else group.tokens)
        trunk_tokens = min(budgets) if settings.pop("budgets") == "trunk" else None
        for k, target_l0, tokens, seed in product(as_tuple(group.k), as_tuple(group.target_l0), budgets, group.seeds):
            arm = Arm(architecture=group.architecture, k=k, target_l0=target_l0, tokens=tokens, init_seed=seed, trunk_tokens=trunk_tokens, **settings)
            yield arm, group

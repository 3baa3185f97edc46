"""Which SAEs of a study are compared: those of one hook point that differ in exactly one factor.

A pair that differs in two respects tells nothing about either, so it is refused by name and never chosen. What two SAEs
differ in is read from what the study declares, not from what came of it: dictionaries of two widths under one rule for
the learning rate differ in their width alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import combinations
from typing import Any

from sae_pipeline.errors import BadInput
from sae_pipeline.saes.arm import READ_BY
from sae_pipeline.study import Arm, Cell, expansion_key
from sae_pipeline.study.matching_section import FACTORS, Factor

OWN_FACTOR: dict[str, Factor] = {
    "mix": "mix",
    "expansion": "expansion",
    "architecture": "architecture",
    "sparsity": "sparsity",
    "tokens": "tokens",
    "seed": "seed",
}
"""Settings that are a factor of their own; every other setting is one of ``objective``."""

_FOLDED = ("k", "target_l0", "init_seed", "data_seed", "warm_start")
"""Fields of an arm that are part of another setting: of sparsity, of the seed, and the place of what ``warm_start_content`` identifies."""

OBJECTIVE = tuple(field.name for field in fields(Arm) if field.name not in (*OWN_FACTOR, *_FOLDED))
"""An arm's other settings: a field added to :class:`Arm` keeps its SAEs apart from that day on."""


@dataclass(frozen=True)
class DeclaredSae:
    """An SAE as the study declares it."""

    cell: Cell
    label: str
    """The arm's, within the cell."""

    @property
    def sae_id(self) -> str:
        """The name that a user refers to it by."""
        return self.cell.sae_id(self.label)

    @property
    def arm(self) -> Arm:
        """Its configuration."""
        return self.cell.arms[self.label]

    @property
    def seed(self) -> str:
        """Both seeds in short: ``s0d0``."""
        return f"s{self.arm.init_seed}d{self.arm.data_seed}"

    @property
    def setting(self) -> str:
        """Its name without layer and site: ``PRE x08 topk-k16-t200k-s0``."""
        return f"{self.cell.mix} {expansion_key(self.cell.expansion)} {self.label}"

    @property
    def setting_of_seeds(self) -> str:
        """The same without the seed, for what holds for all seeds of a setting."""
        return self.setting.replace(f"-s{self.arm.init_seed}", "", 1)


@dataclass(frozen=True)
class Pair:
    """Two SAEs of one hook point that differ in one factor; ``a`` is the narrower or, of equal ones, declared first."""

    a: DeclaredSae
    b: DeclaredSae
    factor: Factor
    level: str
    """What the factor is in ``a``: a mix, an expansion factor, ``s0d0`` for the seeds 0 and 0, ``tilt 0.5``."""
    other_level: str
    """What it is in ``b``."""


@dataclass(frozen=True)
class Choice:
    """The pairs of a hook point that are matched, and how many there are of each factor."""

    pairs: tuple[Pair, ...]
    possible: dict[Factor, int]
    """By factor in the order of ``FACTORS``, the pairs that differ in it alone; only factors that the study asks for."""


def differences(a: DeclaredSae, b: DeclaredSae) -> dict[str, tuple[Any, Any]]:
    """The settings in which two SAEs differ, with both values; what neither or only one architecture reads is no difference."""
    ours, theirs = _settings(a), _settings(b)
    both = {a.arm.architecture, b.arm.architecture}
    return {name: (ours[name], theirs[name]) for name in ours if ours[name] != theirs[name] and both <= {*READ_BY.get(name, both)}}


def factor_between(a: DeclaredSae, b: DeclaredSae) -> Pair | None:
    """The pair in its order, or None where they differ in nothing or in more than one factor."""
    found = differences(a, b)
    if len(found) != 1:
        return None
    ((name, values),) = found.items()
    if name not in OWN_FACTOR and name not in OBJECTIVE:  # another layer or site, whose directions are of other activations
        return None
    levels = [f"{value:g}" if isinstance(value, float) else str(value) for value in values]
    if name in OBJECTIVE:
        levels = [f"{name} {level}" for level in levels]
    pair = Pair(a, b, OWN_FACTOR.get(name, "objective"), *levels)
    return pair if a.cell.expansion <= b.cell.expansion else Pair(b, a, pair.factor, pair.other_level, pair.level)


def require_one_factor(a: DeclaredSae, b: DeclaredSae) -> Pair:
    """The pair of two SAEs that a user named.

    Raises:
        BadInput: they differ in nothing or in more than one factor; says in which.
    """
    if (pair := factor_between(a, b)) is not None:
        return pair
    found = differences(a, b)
    words = "; ".join(f"{name} {ours} and {theirs}" for name, (ours, theirs) in found.items()) or "no difference at all"
    raise BadInput(
        f"matching.pairs: expected two SAEs of one layer and site that differ in exactly one factor, found {a.sae_id} and {b.sae_id}, which differ in "
        f"{len(found)} ({words}); name a pair that shares all settings but one"
    )


def named_pairs(saes: Sequence[DeclaredSae], named: Iterable[tuple[str, str]]) -> list[Pair]:
    """The pairs that a study names by the SAEs' ids.

    Raises:
        BadInput: an id is unknown, or a pair differs in more than one factor.
    """
    by_id = {sae.sae_id: sae for sae in saes}
    for name in (name for pair in named for name in pair):
        if name not in by_id:
            raise BadInput(f"matching.pairs: expected names of the study's SAEs, found '{name}'; `sae-pipeline saes STUDY` lists them")
    return [require_one_factor(by_id[first], by_id[second]) for first, second in named]


def choose(saes: Sequence[DeclaredSae], *, factors: Iterable[Factor], most: int, named: Iterable[tuple[str, str]] = ()) -> Choice:
    """The pairs to match at one hook point.

    Of a factor with more than ``most`` pairs, as many are taken at even distances of the list sorted by the two levels,
    so that every combination of levels has its share and the choice is always the same.

    Args:
        saes: of one hook point, in the study's order.
        factors: which factors are looked at.
        most: pairs per factor.
        named: ids of SAEs that are matched in any case, whatever their factor.

    Raises:
        BadInput: a named pair differs in more than one factor.
    """
    wanted = [factor for factor in FACTORS if factor in set(factors)]
    found: dict[Factor, list[Pair]] = {factor: [] for factor in wanted}
    for a, b in combinations(saes, 2):
        if (pair := factor_between(a, b)) is not None and pair.factor in found:
            found[pair.factor].append(pair)
    chosen = [pair for pairs in found.values() for pair in _evenly(pairs, most)]
    by_ids = {(pair.a.sae_id, pair.b.sae_id): pair for pair in [*chosen, *named_pairs(saes, named)]}
    return Choice(tuple(by_ids.values()), {factor: len(pairs) for factor, pairs in found.items()})


def _evenly(pairs: list[Pair], most: int) -> list[Pair]:
    """At most ``most`` of the pairs, at even distances of the list sorted by level; equal levels stay in the study's order."""
    ordered = sorted(pairs, key=lambda pair: (pair.level, pair.other_level))
    if len(ordered) <= most:
        return ordered
    return [ordered[(2 * n + 1) * len(ordered) // (2 * most)] for n in range(most)]


def _settings(sae: DeclaredSae) -> dict[str, Any]:
    """All that two SAEs can differ in."""
    cell, arm = sae.cell, sae.arm
    own = {"layer": cell.point.layer, "site": cell.point.site, "mix": cell.mix, "expansion": float(cell.expansion), "seed": sae.seed}
    own |= {"architecture": arm.architecture, "sparsity": float(arm.sparsity), "tokens": arm.tokens}
    return own | {name: getattr(arm, name) for name in OBJECTIVE}

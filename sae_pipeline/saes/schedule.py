"""The learning rate of every step, and token budgets that share a trunk.

A schedule rises linearly, stays, and falls over the last ``decay_share`` of the steps. Arms of one trunk differ in their
budget alone and have the same rate until each begins its own fall (its branch step), so the steps before are the same
for all and need to be taken only once (warmup-stable-decay; Hu et al. 2024, "MiniCPM"; Hägele et al. 2024).
Imports no torch, so that a plan can ask.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from sae_pipeline.saes.arm import Arm

RATE_AT_REFERENCE_WIDTH = 2e-4
"""Learning rate at REFERENCE_WIDTH latents when the arm states none (Gao et al. 2024)."""

REFERENCE_WIDTH = 2**14


@dataclass(frozen=True)
class Schedule:
    """Learning rates of an arm; steps count from 0 and none has a rate of 0."""

    base_rate: float
    """The constant rate."""
    steps: int
    """Steps of the whole budget."""
    warm_up: int
    """Steps of the rise; shares of the trunk's smallest budget where there is a trunk."""
    fall: int
    """Steps of the fall, at the end."""
    decay: str
    """``linear`` or ``cosine``."""

    @classmethod
    def of(cls, arm: Arm, d_sae: int) -> Schedule:
        """The schedule of an arm at this width."""
        trunk_steps = steps_of(arm.tokens if arm.trunk_tokens is None else arm.trunk_tokens, arm.batch_size)
        steps = steps_of(arm.tokens, arm.batch_size)
        return cls(base_rate(arm, d_sae), steps, round(arm.warmup_share * trunk_steps), round(arm.decay_share * steps), arm.decay)

    @property
    def branch(self) -> int:
        """Number of steps before the fall."""
        return self.steps - self.fall

    def learning_rate(self, step: int) -> float:
        """The lesser of the rising and the falling part."""
        rising = (step + 1) / self.warm_up if self.warm_up else 1.0
        return self.base_rate * min(rising, 1 - self.fallen(step))

    def fallen(self, step: int) -> float:
        """Share of the rate that the fall has taken away: 0 before it, near 1 at the end."""
        left = min(1.0, (self.steps - step) / self.fall) if self.fall else 1.0
        return 1 - ((1 - math.cos(math.pi * left)) / 2 if self.decay == "cosine" else left)


def steps_of(tokens: int, batch_size: int) -> int:
    """Whole batches in a budget, at least one."""
    return max(1, tokens // batch_size)


def base_rate(arm: Arm, d_sae: int) -> float:
    """The constant learning rate, after the width rule."""
    by_width = math.sqrt(d_sae / REFERENCE_WIDTH)
    if arm.learning_rate is None:
        return RATE_AT_REFERENCE_WIDTH / by_width
    return arm.learning_rate / by_width if arm.learning_rate_scaling == "inverse_sqrt_width" else arm.learning_rate


def branch_step(arm: Arm) -> int:
    """Number of steps before an arm's rate falls."""
    return Schedule.of(arm, REFERENCE_WIDTH).branch


def trunk_of(arm: Arm) -> Arm | None:
    """What the arms of one trunk have in common, or None for an arm with a schedule of its own."""
    return None if arm.trunk_tokens is None else replace(arm, tokens=0)


def trunk_leaders(arms: Mapping[str, Arm], taken: Mapping[str, int]) -> dict[str, str]:
    """Which arm takes the trunk's steps for which: leader by follower, by label.

    An arm follows one that is still on the trunk, at or before the follower's branch step, and will pass it.

    Args:
        arms: the arms that are still to be trained.
        taken: steps that an earlier process took of each; an arm past its own branch step needs no leader.
    """
    leaders: dict[str, str] = {}
    in_front: list[str] = []
    for name in sorted(arms, key=lambda name: -branch_step(arms[name])):
        trunk, branch = trunk_of(arms[name]), branch_step(arms[name])
        if trunk is None or taken[name] >= branch:
            continue
        found = [leader for leader in in_front if trunk_of(arms[leader]) == trunk and taken[leader] <= branch]
        if found:
            leaders[name] = found[0]
        else:
            in_front.append(name)
    return leaders


class Steps(NamedTuple):
    """What trunks save."""

    taken: int
    separate: int


def steps_with_trunks(arms: Iterable[Arm]) -> Steps:
    """Training steps of arms from nothing: with shared trunks, and as runs of their own."""
    named = {str(number): arm for number, arm in enumerate(arms)}
    separate = sum(steps_of(arm.tokens, arm.batch_size) for arm in named.values())
    followers = trunk_leaders(named, dict.fromkeys(named, 0))
    return Steps(separate - sum(branch_step(named[name]) for name in followers), separate)

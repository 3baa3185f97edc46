"""Fair terms for tools that are compared by what they find: the same L0 for all, and for each the learning rate that suits it.

A training is a dictionary with ``l0``, the ``strength`` of its sparsity term and the figures it is judged by.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

MOST_BEYOND = 2
"""Rates, each twice or half the outermost, that are tried beyond these while the best is the outermost."""
L0_TOLERANCE = 0.05
"""How near a peer's L0 must come to ours, or the row is marked."""
NUDGE = 1.1
"""Factor of the strength for a training on the other side of the target, when one is near it already."""
FIGURES = ("explained_variance", "mean_max_cosine")
"""What a training is judged by, and interpolated."""


def chosen_rate(rates: Sequence[float], run_at: Callable[[float], dict[str, float]]) -> tuple[float, bool]:
    """The rate with the largest explained variance, those at the target L0 first, and whether it is the outermost of all tried.

    Rates beyond the given ones are tried while the best is the outermost; a single one is taken as prescribed.
    """
    tried = {rate: run_at(rate) for rate in sorted(rates)}

    def merit(rate: float) -> tuple[bool, float]:
        variance = tried[rate]["explained_variance"]
        return tried[rate]["l0_deviation"] <= L0_TOLERANCE, variance if math.isfinite(variance) else -math.inf

    if len(tried) == 1:
        return rates[0], False
    for _ in range(MOST_BEYOND):
        best = max(tried, key=merit)
        if min(tried) < best < max(tried):
            break
        further = 2 * best if best == max(tried) else best / 2
        tried[further] = run_at(further)
    best = max(tried, key=merit)
    return best, not min(tried) < best < max(tried)


def deviation(run: dict[str, float], target: float) -> float:
    """How far an L0 is from the target, relative to it."""
    return abs(run["l0"] / target - 1)


def near(tried: list[dict[str, float]], target: float) -> bool:
    """Whether a training has the target L0 within the tolerance."""
    return min(deviation(run, target) for run in tried) <= L0_TOLERANCE


def bracketed(tried: list[dict[str, float]], target: float) -> bool:
    """Whether the target L0 lies between those of two trainings, or is met."""
    return min(run["l0"] for run in tried) <= target <= max(run["l0"] for run in tried)


def at_target(tried: list[dict[str, float]], target: float) -> dict[str, float]:
    """The training with the nearest L0, its figures interpolated at the target with the nearest one on the other side.

    Interpolation is linear in the logarithm of L0. Without a training on the other side the figures are left as they are.
    ``l0`` and ``l0_deviation`` stay those of the nearest training.
    """
    nearest = min(tried, key=lambda run: deviation(run, target))
    found = nearest | {"l0_deviation": deviation(nearest, target)}
    across = [run for run in tried if (run["l0"] - target) * (nearest["l0"] - target) < 0 and run["l0"] > 0]
    if not across or nearest["l0"] <= 0:
        return found
    other = min(across, key=lambda run: deviation(run, target))
    share = math.log(target / nearest["l0"]) / math.log(other["l0"] / nearest["l0"])
    return found | {field: nearest[field] + share * (other[field] - nearest[field]) for field in FIGURES}


def next_strength(tried: list[dict[str, float]], target: float) -> float:
    """The next strength to try: between the nearest ones with too high and too low an L0, else further out.

    L0 falls with the strength; both are taken in logarithms, in which the relation is nearly straight.
    """
    above = [run for run in tried if run["l0"] > target]
    below = [run for run in tried if run["l0"] <= target]
    further = NUDGE if near(tried, target) else 2.5
    if not below:
        return further * max(run["strength"] for run in above)
    if not above:
        return min(run["strength"] for run in below) / further
    weak, strong = max(above, key=lambda run: run["strength"]), min(below, key=lambda run: run["strength"])
    ends = [math.log(max(run["l0"], 1e-3) / target) for run in (weak, strong)]
    share = min(max(ends[0] / (ends[0] - ends[1]), 0.1), 0.9)
    return weak["strength"] * (strong["strength"] / weak["strength"]) ** share

"""Arms whose loss is not finite or whose error exploded: what is known of them, and the error that reports all of them at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sae_pipeline.errors import TrainingError

EXPLODED = 1e3
"""Mean squared error at which a run is given up; predicting the mean has an error of 1 in these units."""


@dataclass(frozen=True)
class Divergence:
    """An arm that was stopped."""

    name: str
    step: int
    """The step, counted from 1, whose loss was refused; its update was not applied."""
    steps: int
    loss: float
    """Of that step; where it is finite, the mean squared error that exploded."""
    learning_rate: float
    """The schedule's constant rate."""

    def __str__(self) -> str:
        return f"{self.name} has loss {self.loss:g} at step {self.step} of {self.steps} (learning_rate {self.learning_rate:g})"


class DivergedArms(TrainingError):
    """Some arms diverged; the others were trained to their end.

    Attributes:
        label: what was trained.
        arms: a record per diverged arm.
        summaries: what ``train_arms`` would have returned, of the arms that finished.
    """

    def __init__(self, label: str, arms: Sequence[Divergence], summaries: dict[str, dict[str, Any]]) -> None:
        self.label, self.arms, self.summaries = label, list(arms), summaries
        super().__init__(
            f"{label}: expected every loss to stay finite and every error below {EXPLODED:g} (1 is that of the mean), found {len(self.arms)} of "
            f"{len(self.arms) + len(summaries)} arms diverged: {', '.join(map(str, self.arms))}; lower learning_rate (or an extra "
            "loss term's coefficient) or lengthen warmup_share in their entry of saes.arms; run again, unchanged, to go on with the other arms alone"
        )

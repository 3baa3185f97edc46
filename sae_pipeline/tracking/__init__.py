"""Training curves and metrics handed to the tracker a lab already uses, each through its own library.

Nothing is tracked by itself: a study's results are handed over when they are asked for, once each. A tracker is a module here with
one function ``export(study, runs, place) -> int``, which returns how many runs were new to the tracker.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

TRACKERS = ("tensorboard", "mlflow", "wandb")
"""Modules here, by the name that the command line knows; each is also the name of the extra that installs its library."""


@dataclass(frozen=True)
class TrackedRun:
    """One SAE as trackers see it."""

    name: str
    """The SAE's id."""
    fingerprint: str
    """Of the trained SAE; by it a tracker knows a run that it has already."""
    configuration: Mapping[str, Any]
    curve: Sequence[Mapping[str, float]]
    """The monitored steps: ``step`` and figures that are finite."""
    metrics: Mapping[str, float]
    """Final metrics as ``<evaluation set>/<metric>``, those that have a value."""

    def scalars(self) -> Iterator[tuple[str, float, int]]:
        """(name, value, step) of every figure: the curve under ``train/``, and the metrics at its last step."""
        for row in self.curve:
            yield from ((f"train/{name}", value, int(row["step"])) for name, value in row.items() if name != "step")
        last = int(self.curve[-1]["step"]) if self.curve else 0
        yield from ((name, value, last) for name, value in self.metrics.items())

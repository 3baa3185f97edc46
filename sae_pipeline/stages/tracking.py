"""A finished study's SAEs, handed to a tracker."""

from __future__ import annotations

import math
from collections.abc import Iterator
from importlib import import_module
from typing import Any

from sae_pipeline.errors import BadInput
from sae_pipeline.safety.text import without_secrets
from sae_pipeline.stages import tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.tracking import TRACKERS, TrackedRun

LABELS = ("sae_id", "kind", "shared_text", "evaluation_set")
"""Columns of ``sae_metrics`` that are no metrics."""


def hand_over(ctx: StudyContext, tracker: str, place: str | None) -> tuple[int, str]:
    """Give every SAE's curve and metrics to a tracker; those that it has already are left alone.

    Args:
        ctx: the study's context.
        tracker: one of :data:`TRACKERS`.
        place: folder, database or server; None: the tracker's usual one.

    Returns:
        How many runs were new to the tracker, and the place as users may see it.

    Raises:
        BadInput: an unknown tracker, one whose library is not installed, or a place that holds something else.
    """
    if tracker not in TRACKERS:
        raise BadInput(f"--with: expected one of {', '.join(TRACKERS)}, found '{tracker}'")
    module: Any = import_module(f"sae_pipeline.tracking.{tracker}")
    place = place or module.DEFAULT_PLACE
    try:
        return module.export(ctx.study.name, list(runs(ctx)), place), without_secrets(place)
    except ModuleNotFoundError as error:
        raise BadInput(f"--with: expected the library of {tracker}, found no module {error.name}; `pip install -e .[{tracker}]` adds it") from None


def runs(ctx: StudyContext) -> Iterator[TrackedRun]:
    """The study's SAEs as trackers see them."""
    import pandas as pd

    gathered = tables.need(ctx)
    saes, training, metrics = (pd.read_parquet(gathered.file(f"{name}.parquet")) for name in (tables.SAES, tables.TRAINING, tables.METRICS))
    curves = dict(list(training.groupby("sae_id")))
    measured = dict(list(metrics.groupby("sae_id")))
    for row in saes.to_dict("records"):
        sae_id, fingerprint = str(row["sae_id"]), str(row["fingerprint"])
        finals = {
            f"{here['evaluation_set']}/{name}": value
            for here in measured[sae_id].to_dict("records")
            for name, value in _finite({name: value for name, value in here.items() if name not in LABELS}).items()
        }
        curve = [_finite({name: value for name, value in step.items() if name != "sae_id"}) for step in curves[sae_id].to_dict("records")]
        configuration = {str(name): _plain(value) for name, value in row.items() if name not in ("sae_id", "path")}
        yield TrackedRun(sae_id, fingerprint, configuration, curve, finals)


def _finite(row: dict[Any, Any]) -> dict[str, float]:
    """The figures of a row that are numbers."""
    return {str(name): float(value) for name, value in row.items() if isinstance(value, int | float) and math.isfinite(value)}


def _plain(value: Any) -> Any:
    """A cell as JSON has it."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if value is None or (isinstance(value, float) and not math.isfinite(value)) or str(value) == "<NA>" else value

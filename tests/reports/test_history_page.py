"""What the page of repeated evaluations says at its head."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from sae_pipeline.analysis.regressions import COLUMNS
from sae_pipeline.reports.history import history_report

NOTHING: dict[str, Any] = {"sae_id": "a", "evaluation_set": "prose", "compared": "x", "recorded": "2026", "against": "2025"}


def headline(evaluations: int, *changes: tuple[float, bool]) -> str:
    """The sentence after so many evaluations; (change, worse) of every comparison."""
    history = pd.DataFrame(
        [
            {"recorded": f"2026-01-0{n + 1}", "held_out_window": n, "sae_id": "a", "evaluation_set": "prose"}
            | {"fingerprint": "f", "explained_variance": 0.7, "l0": 3.0}
            for n in range(evaluations)
        ]
    )
    rows = [dict.fromkeys(COLUMNS, 0) | NOTHING | {"change": change, "worse": worse} for change, worse in changes]
    regressions = pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)
    return history_report("toy", history, regressions, tolerance=0.01).headline_sentence


@pytest.mark.parametrize(("count", "said"), [(1, "1 comparison"), (3, "3 comparisons")])
def test_a_fall_that_is_not_significant_is_not_called_none(count: int, said: str) -> None:
    told = headline(2, *[(-0.1, False)] * count)
    assert told == f"No fall of explained variance beyond 0.01 is clear in the latest evaluation, out of {said}."


def test_clear_falls_are_counted() -> None:
    assert headline(2, (-0.1, True), (0.2, False)).startswith("1 comparison of 2 in the latest evaluation fell by more than 0.01")


def test_evaluations_that_cannot_be_compared_are_not_called_one() -> None:
    assert headline(2) == "No earlier evaluation shares its SAEs or its text with the latest, so there is nothing to compare it with."
    assert headline(1) == "There is one evaluation, so nothing to compare it with."

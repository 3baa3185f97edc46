"""What the page of repeated evaluations says of SAEs that have no figure any more, and of intervals that leave something out."""

from __future__ import annotations

from typing import Any

import pandas as pd

from sae_pipeline.analysis.regressions import COLUMNS
from sae_pipeline.reports.blocks import Report
from sae_pipeline.reports.history import history_report


def page(*changes: dict[str, Any]) -> Report:
    """The page of one evaluation before and one after; every change has these values beside blanks."""
    history = pd.DataFrame(
        [
            {
                "recorded": f"2026-01-0{day}",
                "held_out_window": 0,
                "sae_id": "a",
                "evaluation_set": "prose",
                "fingerprint": "f",
                "explained_variance": 0.7,
                "l0": 3.0,
            }
            for day in (1, 2)
        ]
    )
    blank = {name: "" if kind == "string" else 0 for name, kind in COLUMNS.items()}
    return history_report("toy", history, pd.DataFrame([blank | change for change in changes]).astype(COLUMNS), tolerance=0.01)


LOST = {"after": float("nan"), "change": float("nan"), "worse": True}


def test_an_sae_without_a_value_is_not_said_to_have_fallen() -> None:
    assert page(LOST, {}).headline_sentence == "1 comparison of 2 had a value before and has none in the latest evaluation."
    assert page(LOST, {"change": -0.1, "worse": True}).headline_sentence == (
        "1 comparison of 2 in the latest evaluation fell by more than 0.01 of explained variance. "
        "1 comparison of 2 had a value before and has none in the latest evaluation."
    )


def test_the_note_of_a_change_is_on_the_page() -> None:
    (table,) = page({"note": "fewer than 20 documents"}).sections[1].tables
    assert table.columns[-1] == "note"
    assert table.rows[0][-1].text == "fewer than 20 documents"

"""The section on generalisation: what SAEs lose on other text than their own, against what its kind lets expect."""

from __future__ import annotations

import pandas as pd

from sae_pipeline.analysis.generalisation import AS_EXPECTED, BETTER, LESS, MORE, UNCERTAIN, UNDEFINED, VERDICTS
from sae_pipeline.reports.blocks import Cell, Section, Table, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.wording import NONE, counted, decimal, digits_for, interval, listed, percent, signed

WORDS = {
    MORE: "drops more than expected",
    AS_EXPECTED: "drops as expected",
    LESS: "drops less than expected",
    BETTER: "better than in-sample",
    UNCERTAIN: "uncertain",
    UNDEFINED: "no relative drop",
}
"""Words of every verdict, as printed."""

MARKS = {MORE: "poor", AS_EXPECTED: "good", LESS: "warning", BETTER: "warning", UNCERTAIN: "not_judged", UNDEFINED: "not_judged"}
"""Mark that colours a verdict; a drop that is too small says that the set's kind may be wrong."""


def generalisation_section(gaps: pd.DataFrame, confidence: float) -> Section:
    """Relative drop of explained variance and shift of L0 per SAE and set, flagged outside the expected band both ways.

    Args:
        gaps: rows of the warehouse's ``generalisation``, of one site.
        confidence: level of the intervals.
    """
    title = "Generalisation"
    if gaps.empty:
        why = "The study has no in-sample set, or no other, so nothing says what SAEs lose on text of another kind."
        return Section("generalisation", title, (why,))
    sentences = [_summary(str(name), rows) for name, rows in gaps.groupby("evaluation_set", sort=False)]
    sentences.append(
        f"A drop is (in-sample − found) / in-sample of explained variance, and is judged by its {100 * confidence:g} % interval over documents: outside the "
        "expected band only where the whole interval is, uncertain where it crosses an edge. Seeds are not averaged, so the noise of training is left out."
    )
    return Section("generalisation", title, tuple(sentences), tables=(_counts(gaps), _table(gaps)))


def _summary(name: str, rows: pd.DataFrame) -> str:
    """What the SAEs do on one set, in a sentence."""
    first, judged = rows.iloc[0], rows[rows["relative_drop"].notna()]
    expected = f"{percent(first['expected_low'])} to {percent(first['expected_high'])}"
    shift = signed(float(rows["l0_shift"].median()), 2)
    about = f"{name} ({str(first['kind']).replace('_', ' ')}, expected drop {expected})"
    if judged.empty:
        return f"{about}: no SAE explains variance in-sample, so there is no drop to judge; L0 shifts by {shift} in the median."
    counts = rows["verdict"].value_counts()
    said = listed([f"{counts[verdict]} {WORDS[verdict]}" for verdict in VERDICTS if verdict in counts])
    drop = decimal(100 * float(judged["relative_drop"].median()), 1)
    return f"{about}: explained variance drops by {drop} % in the median of {counted(len(rows), 'SAE')}, L0 shifts by {shift}; {said}."


def _counts(gaps: pd.DataFrame) -> Table:
    """SAEs per evaluation set and verdict."""
    shown = [verdict for verdict in VERDICTS if (gaps["verdict"] == verdict).any()]
    rows = []
    for name, here in gaps.groupby("evaluation_set", sort=False):
        first, counts = here.iloc[0], here["verdict"].value_counts()
        expected = f"{percent(first['expected_low'])} to {percent(first['expected_high'])}"
        cells = [Cell(str(counts.get(v, 0)), int(counts.get(v, 0)), mark=MARKS[v] if counts.get(v, 0) else None) for v in shown]
        rows.append(text_row(name, str(first["kind"]).replace("_", " "), expected, *cells))
    return Table("SAEs by evaluation set and verdict", ("evaluation set", "kind", "expected drop", *(WORDS[v] for v in shown)), tuple(rows))


def _table(gaps: pd.DataFrame) -> Table:
    """Every SAE on every set."""
    columns = ("SAE", "evaluation set", "in-sample", "found", "drop", "relative drop", "interval", "L0 shift", "interval", "verdict", "note")
    rows = tuple(
        text_row(
            r.sae_id, r.evaluation_set, Cell(decimal(r.explained_variance_in_sample), r.explained_variance_in_sample),
            Cell(decimal(r.explained_variance), r.explained_variance), Cell(signed(r.generalisation_gap), r.generalisation_gap), _percent_cell(r.relative_drop),
            _percent_interval(r.relative_drop_low, r.relative_drop_high), Cell(signed(r.l0_shift, digits_for(r.l0_shift_low, r.l0_shift_high)), r.l0_shift),
            interval(r.l0_shift_low, r.l0_shift_high), Cell(WORDS[r.verdict], mark=MARKS[r.verdict]), r.note,
        ) for r in rows_of(gaps)
    )  # fmt: skip
    return Table("Every SAE against its mean over the in-sample sets", columns, rows, folded=True)


def _percent_cell(share: float) -> Cell:
    return Cell(f"{decimal(100 * share, 1)} %" if share == share else NONE, share if share == share else float("-inf"))


def _percent_interval(low: float, high: float) -> str:
    found = interval(100 * low, 100 * high, 1)
    return found if found == NONE else f"{found} %"

"""The CSV of a figure: a spreadsheet finds no formula in it, and numbers stay numbers."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.figure import Figure

from sae_pipeline.reports.blocks import Plot, Report, Section
from sae_pipeline.reports.build import write_report

FORMULAS = ["=E1+E2", "=1+1", "=1", "@E1", "\t1", "\r1", "+1+1", "-E1+E2", "-1-2", "+E1", "--1", '=HYPERLINK("https://example.org")']
NUMBERS = ["-1.5e-3", "+1,000", "-.5", "-12%", "+3E+2", "-", "+"]
WORDS = ["E1", "1+1", "a=b", "3.5"]


def write_figure(folder: Path, frame: pd.DataFrame) -> None:
    """A report of one figure."""
    plot = Plot("figure", "A figure", "How to read it.", frame, Figure)
    write_report(folder, Report("r", "", None, "", (), (), (Section("s", "Section", plots=(plot,)),)))


@pytest.mark.parametrize("place", ["cell", "column"])
@pytest.mark.parametrize(("text", "defused"), [*((text, True) for text in FORMULAS), *((text, False) for text in NUMBERS + WORDS)])
def test_text_that_a_spreadsheet_would_compute_begins_with_an_apostrophe(text: str, defused: bool, place: str, tmp_path: Path) -> None:
    frame = pd.DataFrame({"mix": [text]} if place == "cell" else {text: ["mix"]})
    write_figure(tmp_path, frame)
    with (tmp_path / "figures" / "figure.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1 if place == "cell" else 0] == [f"'{text}".replace("\r", "\n") if defused else text]
    assert len(rows) == 2


def test_a_carriage_return_in_a_text_begins_no_row(tmp_path: Path) -> None:
    """Whoever reads the file may take one for the end of a line, and what follows for a formula."""
    write_figure(tmp_path, pd.DataFrame({"mix": ["a\r=1+1"]}))
    assert (tmp_path / "figures" / "figure.csv").read_bytes() == b'mix\n"a\n=1+1"\n'


def test_negative_numbers_stay_as_they_are(tmp_path: Path) -> None:
    frame = pd.DataFrame({"estimate": [-1.5, 2.0], "mixed": pd.Series([-3, "mix"], dtype=object)})
    write_figure(tmp_path, frame)
    assert (tmp_path / "figures" / "figure.csv").read_text() == "estimate,mixed\n-1.5,-3\n2.0,mix\n"

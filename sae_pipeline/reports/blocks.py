"""What a report is made of: sections of sentences, claims, figures and tables, as plain data.

The page and its Markdown twin are two renderings of the same blocks, so neither can say what the other does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from sae_pipeline.reports.wording import NONE, decimal

FOLD_ROWS = 24
"""Tables longer than this open on a click."""


@dataclass(frozen=True)
class Cell:
    """One table cell."""

    text: str
    sort: float | str | None = None
    """What the column is sorted by when that is not the text."""
    mark: str | None = None
    """Health mark or verdict that colours the cell; its word is in the text."""
    hint: str = ""
    """Shown when the pointer rests on the cell."""
    colours: tuple[str, str] | None = None
    """Background and text colour, for heat maps."""
    link: str | None = None
    """Where the text leads to: an anchor of this page, or a file of the report's folder."""


@dataclass(frozen=True)
class Table:
    """A table; a folded one opens on a click, so that hundreds of rows stay out of the way."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    folded: bool = False
    sortable: bool = True


@dataclass(frozen=True)
class Plot:
    """A figure with the data behind it; ``name`` is the stem of its PNG and CSV."""

    name: str
    title: str
    """The statement the figure supports."""
    caption: str
    """How to read it."""
    frame: pd.DataFrame
    draw: Callable[[], Figure]


@dataclass(frozen=True)
class Claim:
    """A finding in words: never without the evidence it rests on."""

    id: str
    text: str
    verdict: str
    """Verdict as in the table of findings, for colour and tests."""
    word: str
    """Verdict as printed."""
    estimate: str
    """Estimate with interval, in short; empty where there is none."""
    evidence: str
    """Estimate, interval, documents, cells and seeds, or why there are none."""
    note: str
    details: tuple[str, ...] = ()
    """The same claim layer by layer, a phrase each."""
    place: tuple[float, float, float, float] | None = None
    """Per cent from the left of a small interval drawing: low, estimate, high, zero; None without an interval."""


@dataclass(frozen=True)
class Chain:
    """One stage's artifacts in the lineage."""

    stage: str
    text: str
    table: Table


@dataclass(frozen=True)
class Section:
    """One part of the report; ``id`` is the anchor and stays the same for good."""

    id: str
    title: str
    sentences: tuple[str, ...] = ()
    claims: tuple[Claim, ...] = ()
    plots: tuple[Plot, ...] = ()
    tables: tuple[Table, ...] = ()
    points: tuple[str, ...] = ()
    """A list, one sentence each."""
    chains: tuple[Chain, ...] = ()
    parts: tuple[Section, ...] = ()
    """Under headings of their own, after everything else."""

    @property
    def all_plots(self) -> tuple[Plot, ...]:
        """Its figures and those of its parts, in the order they appear."""
        return (*self.plots, *(plot for part in self.parts for plot in part.all_plots))

    def suffixed(self, suffix: str) -> Section:
        """The same with ``suffix`` behind every anchor and name of a figure."""
        plots = tuple(replace(plot, name=plot.name + suffix) for plot in self.plots)
        return replace(self, id=self.id + suffix, plots=plots, parts=tuple(part.suffixed(suffix) for part in self.parts))


@dataclass(frozen=True)
class Passage:
    """A token on which a latent fires strongly, with the text around it."""

    before: str
    text: str
    after: str
    note: str
    """Activation and origin."""


@dataclass(frozen=True)
class Latent:
    """What is shown of one latent; its anchor is ``latent-<number>``."""

    number: int
    reasons: tuple[str, ...]
    """Why it is shown."""
    tables: tuple[Table, ...]
    passages: tuple[Passage, ...]


@dataclass(frozen=True)
class FeaturePage:
    """The latents shown of one SAE, a page of their own."""

    sae_id: str
    sentences: tuple[str, ...]
    overview: Table
    latents: tuple[Latent, ...]

    @property
    def file(self) -> str:
        """Where the page lies in the report's folder."""
        return f"features/{self.sae_id}.html"


@dataclass(frozen=True)
class Report:
    """A whole report."""

    name: str
    description: str
    headline: Claim | None
    """The main finding; None when the study tests no claim."""
    headline_sentence: str
    facts: tuple[tuple[str, str], ...]
    """Label and figure of the study's size, for the first screen."""
    heat: tuple[Table, ...]
    """The matrix of training mix x evaluation set, one table per layer, for the first screen."""
    sections: tuple[Section, ...]
    heat_notes: tuple[str, ...] = ()
    """Why the matrix lacks figures, where it does."""
    pages: tuple[FeaturePage, ...] = ()
    """The latents of the SAEs, a page each."""

    @property
    def plots(self) -> tuple[Plot, ...]:
        """All figures in the order they appear."""
        return tuple(plot for section in self.sections for plot in section.all_plots)


def drawn_rows(**kinds: pd.DataFrame) -> pd.DataFrame:
    """The rows of a figure that is drawn from several frames, as one; the column ``drawn_as`` says of each row what it is, a keyword."""
    parts = []
    for name, frame in kinds.items():
        nullable = dict.fromkeys(frame.select_dtypes("integer").columns, "Int64")  # stays whole where another kind lacks the column
        parts.append(frame.astype(nullable).assign(drawn_as=name))
    together = pd.concat([part for part in parts if len(part)] or parts, ignore_index=True)
    return together[["drawn_as", *(column for column in together.columns if column != "drawn_as")]]


def number_cell(value: float | None, digits: int = 3, shown: Callable[[float, int], str] = decimal, *, scale: float = 1) -> Cell:
    """A figure, ``scale`` times itself as ``shown`` prints it; a dash that sorts below every other where there is none."""
    return Cell(NONE, float("-inf")) if value is None or value != value else Cell(shown(scale * value, digits), float(value))


def text_row(*values: Any) -> tuple[Cell, ...]:
    """Cells of a row from plain values; a cell passes through."""
    return tuple(value if isinstance(value, Cell) else Cell(str(value)) for value in values)

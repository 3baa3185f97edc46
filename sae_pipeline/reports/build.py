"""Writing a report: the page, its Markdown twin, a page per SAE with its latents, every figure with its data, and the findings as JSON."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd

from sae_pipeline.reports.blocks import Report
from sae_pipeline.reports.content import gather
from sae_pipeline.reports.folder import FEATURES, FIGURES, FINDINGS, MARKDOWN, PAGE
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.reports.html import render_features, render_html
from sae_pipeline.reports.markdown import render_markdown
from sae_pipeline.reports.style import figure_png
from sae_pipeline.study import Study

_FORMULA = re.compile(r"[=@\t\r]|[+-](?!((\d[\d.,]*|\.\d+)([eE][+-]?\d+)?%?)?\Z)")
"""Text that begins as formulas do. Behind + and - there may be a number, or nothing; whatever else there is can be computed with, as ``-E1``."""


def build_report(folder: Path, study: Study, frames: StudyFrames) -> dict[str, Any]:
    """Write ``index.html``, ``report.md``, ``findings.json``, ``features/<sae_id>.html`` and ``figures/<name>.png`` and ``.csv`` into ``folder``.

    Equal arguments give equal bytes: nothing written knows the time, the host or the folder.

    Args:
        folder: an existing folder.
        study: the study as declared; its name, description, mixes and confidence are stated.
        frames: what was measured and found; a section whose frames are None is left out.

    Returns:
        The headline sentence and its verdict, the number of SAEs, figures and findings, and findings per verdict.
    """
    report = gather(study, frames)
    drawn = write_report(folder, report, findings=frames.findings, variance_shares=frames.variance_shares)
    verdicts = frames.findings["verdict"].value_counts().sort_index()
    return {
        "headline": report.headline_sentence,
        "verdict": report.headline.word if report.headline else "no claim tested",
        "saes": len(frames.tables.saes),
        "figures": drawn,
        "feature_pages": len(report.pages),
        "findings": len(frames.findings),
        **{str(verdict): int(count) for verdict, count in verdicts.items()},
    }


def write_report(folder: Path, report: Report, *, findings: pd.DataFrame | None = None, variance_shares: pd.DataFrame | None = None) -> int:
    """Write any report into an existing folder, with ``findings.json`` where there are findings; how many figures it has."""
    figures, features = folder / FIGURES, folder / FEATURES
    figures.mkdir(parents=True, exist_ok=True)
    pictures = {plot.name: figure_png(plot.draw()) for plot in report.plots}
    for plot in report.plots:
        (figures / f"{plot.name}.png").write_bytes(pictures[plot.name])
        _for_spreadsheets(plot.frame).to_csv(figures / f"{plot.name}.csv", index=False, lineterminator="\n")
    for page in report.pages:
        features.mkdir(exist_ok=True)
        (folder / page.file).write_text(render_features(page, report.name), encoding="utf-8")
    (folder / PAGE).write_text(render_html(report, pictures), encoding="utf-8")
    (folder / MARKDOWN).write_text(render_markdown(report), encoding="utf-8")
    if findings is not None:
        document = findings_document(findings, variance_shares)
        (folder / FINDINGS).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return len(pictures)


def _for_spreadsheets(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame with an apostrophe before text, also of column names, that a spreadsheet would run as a formula; numbers stay as they are."""

    def defused(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        # A lone carriage return would be written without quotes, and what follows it be read as a row of its own.
        return ("'" if _FORMULA.match(value) else "") + value.replace("\r", "\n")

    defused_frame = frame.rename(columns=defused)
    for name in defused_frame.select_dtypes(exclude="number").columns:
        defused_frame[name] = defused_frame[name].map(defused)
    return defused_frame


def findings_document(findings: pd.DataFrame, variance_shares: pd.DataFrame | None) -> dict[str, list[dict[str, Any]]]:
    """What ``findings.json`` holds: the rows of both tables, with null for what is not a number."""
    tables = {"findings": findings, "variance_shares": pd.DataFrame() if variance_shares is None else variance_shares}
    return {
        name: [{str(column): _json_value(cell) for column, cell in row.items()} for row in frame.to_dict("records")] for name, frame in tables.items()
    }


def _json_value(value: Any) -> Any:
    """A cell of a frame as JSON has it: numpy numbers become Python's, what is missing or not finite becomes null."""
    value = value.item() if hasattr(value, "item") else value
    return None if value is pd.NA or (isinstance(value, float) and not math.isfinite(value)) else value

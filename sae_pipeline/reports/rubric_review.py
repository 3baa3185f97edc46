"""The page for whoever revises a rubric: how its marks fall on a study's SAEs."""

from __future__ import annotations

import pandas as pd

from sae_pipeline.analysis.health.review import MARKS
from sae_pipeline.reports.blocks import Cell, Report, Section, Table, text_row
from sae_pipeline.reports.wording import counted, decimal


def rubric_review_report(study: str, reviewed: pd.DataFrame) -> Report:
    """One table per rubric.

    Args:
        study: its name.
        reviewed: rows of :func:`sae_pipeline.analysis.health.review.review`.
    """
    remarked = reviewed[reviewed["remark"] != ""]
    return Report(
        name=f"{study}: rubrics under review",
        description="How the marks of each health rubric fall on the SAEs of this study; a remark is a question to whoever keeps the rubric.",
        headline=None,
        headline_sentence=f"{counted(len(remarked), 'rule')} of {len(reviewed)} {'asks' if len(remarked) == 1 else 'ask'} for a look.",
        facts=(("rubrics", str(reviewed["rubric"].nunique())), ("metrics judged", str(reviewed["metric"].nunique()))),
        heat=(),
        sections=tuple(_section(number, str(name), here) for number, (name, here) in enumerate(reviewed.groupby("rubric", sort=False), start=1)),
    )


def _section(number: int, rubric: str, here: pd.DataFrame) -> Section:
    columns = ("metric", *(mark.replace("_", " ") for mark in MARKS), "lowest", "highest", "disagreements", "remark")
    rows = tuple(
        text_row(
            row["metric"], *(Cell(str(row[mark]), row[mark], mark=mark if row[mark] else None) for mark in MARKS),
            Cell(decimal(row["lowest"]), row["lowest"]), Cell(decimal(row["highest"]), row["highest"]), Cell(str(row["disagreements"]), row["disagreements"]), row["remark"],
        ) for row in here.to_dict("records")
    )  # fmt: skip
    # A number, because a rubric's name may hold what an anchor may not, or differ from another's in that alone.
    return Section(f"rubric-{number}", rubric, tables=(Table(f"Marks by {rubric}, one row per metric it judges", columns, rows),))

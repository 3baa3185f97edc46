"""The section on what to train next: causes of health problems with their evidence, and the arms proposed for them."""

from __future__ import annotations

import pandas as pd

from sae_pipeline.analysis.improving.proposals import IN_STUDY, NOT_POSSIBLE, TO_TRAIN
from sae_pipeline.reports.blocks import FOLD_ROWS, Section, Table, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.wording import NONE, counted, listed
from sae_pipeline.study.fragments import PROPOSED_FILE

STATUS_WORDS = {TO_TRAIN: "to train", IN_STUDY: "in this study", NOT_POSSIBLE: "not possible here"}


def remedies_section(causes: pd.DataFrame, proposals: pd.DataFrame) -> Section:
    """Causes found, and the arms proposed.

    Args:
        causes: rows of the warehouse's ``root_causes``.
        proposals: rows of ``proposals``.
    """
    title = "Causes and remedies"
    if causes.empty:
        return Section("remedies", title, ("No rule names a cause for a health problem of these SAEs, so no arm is proposed.",))
    points = tuple(_point(str(name), rows) for name, rows in causes.groupby("cause", sort=False))
    new = proposals.loc[proposals["status"] == TO_TRAIN, "proposed"].nunique()
    sentences = (
        f"The rules name a cause for health problems of {counted(causes['sae_id'].nunique(), 'SAE')}: "
        f"{listed([str(name).replace('_', ' ') for name in dict.fromkeys(causes['cause'])], len(points))}.",
        f"{PROPOSED_FILE} beside this report is this study and {counted(new, 'proposed arm')}, for the settings in which each problem is largest; "
        "`sae-pipeline improve` trains what is new in it and says what is to be kept."
        if new
        else "No arm is proposed: what the rules would change is in the study already, or cannot be trained in it.",
        "A cause is what a rule calls a pattern of figures, and no proof; whether its remedy helps is known when the arms have been compared.",
    )
    return Section("remedies", title, sentences, tables=(_causes(causes), _proposals(proposals)), points=points)


def _point(name: str, rows: pd.DataFrame) -> str:
    """A cause in words, with how many SAEs have it and the evidence of one."""
    first = rows.iloc[0]
    return f"{first['statement']} ({name}): {counted(rows['sae_id'].nunique(), 'SAE')}, for example {first['sae_id']} on {first['evaluation_set']} ({first['evidence']})."


def _causes(causes: pd.DataFrame) -> Table:
    columns = ("SAE", "evaluation set", "cause", "evidence", "source")
    rows = tuple(text_row(r.sae_id, r.evaluation_set, r.cause.replace("_", " "), r.evidence, r.source) for r in rows_of(causes))
    return Table("Every cause found, with its evidence", columns, rows, folded=True)


def _proposals(proposals: pd.DataFrame) -> Table:
    columns = ("cause", "remedy", "change", "answers to", "proposed arm", "status", "judged by", "source")
    rows = tuple(
        text_row(
            r.cause.replace("_", " "), r.remedy, r.change or NONE, r.answers_to, NONE if pd.isna(r.proposed) else r.proposed,
            STATUS_WORDS[r.status] + (f": {r.note}" if r.status == NOT_POSSIBLE else ""), f"{r.metric} on {r.evaluation_sets}, {r.better} is better", r.source,
        ) for r in rows_of(proposals)
    )  # fmt: skip
    return Table("Remedies, an arm each", columns, rows, folded=len(rows) > FOLD_ROWS)

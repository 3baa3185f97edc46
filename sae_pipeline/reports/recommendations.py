"""The section on what to do: recommendations whose claims this study supports, each with what it rests on."""

from __future__ import annotations

import pandas as pd

from sae_pipeline.reports.blocks import Section, Table, text_row
from sae_pipeline.reports.evidence import rows_of


def recommendations_section(recommendations: pd.DataFrame) -> Section:
    """Recommendations with their evidence; none where the claims they need are not supported.

    Args:
        recommendations: rows of the warehouse's ``recommendations``.
    """
    title = "Recommendations"
    if recommendations.empty:
        why = "None: a recommendation is made only where the claims it rests on are supported by more than one seed of this study, and none has all of them."
        return Section("recommendations", title, (why,))
    sentences = ("Each rests on claims that this study supports; it is about text, models and budgets like these.",)
    rows = tuple(text_row(r.id, r.text, r.rests_on, r.evidence) for r in rows_of(recommendations))
    table = Table("What each recommendation rests on", ("id", "recommendation", "claims", "evidence"), rows)
    return Section("recommendations", title, sentences, tables=(table,), points=tuple(recommendations["text"]))

"""Everything a report is drawn from. What a study does not measure, or a table from elsewhere does not hold, is None and its section is left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import pandas as pd

from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.reports.blocks import Section

Named = Mapping[str, pd.DataFrame]
"""Tables of the warehouse by name."""


@dataclass(frozen=True, kw_only=True, eq=False)
class StudyFrames:
    """The frames of one study, of all its sites; each is the table of the warehouse of that name unless said otherwise."""

    tables: StudyTables
    findings: pd.DataFrame
    """Rows of :class:`sae_pipeline.analysis.claims.finding.Finding`."""
    matrix: pd.DataFrame
    expansion_curve: pd.DataFrame
    budget_curve: pd.DataFrame
    tradeoff: pd.DataFrame
    variance_shares: pd.DataFrame | None = None
    recommendations: pd.DataFrame | None = None
    generalisation: pd.DataFrame | None = None
    health: pd.DataFrame | None = None
    """Marks by every rubric; may be empty."""
    root_causes: pd.DataFrame | None = None
    proposals: pd.DataFrame | None = None
    """Given with ``root_causes`` or not at all."""
    lineage: pd.DataFrame | None = None
    """One row per artifact."""
    subject: Mapping[str, Any] | None = None
    """The record of the subject model; ``d_model`` and ``n_layers`` are stated where it has them."""
    text: Named | None = None
    """corpus_statistics, left_out, duplicates, adequacy and token_ranks."""
    activation_statistics: pd.DataFrame | None = None
    massive_tokens: pd.DataFrame | None = None
    """Given with ``activation_statistics`` or not at all."""
    training: pd.DataFrame | None = None
    diverged: pd.DataFrame | None = None
    """Given with ``training`` or not at all."""
    positions: Named | None = None
    """The position tables."""
    matching: Named | None = None
    """The matching tables, and ``factor_effects``."""
    concepts: Named | None = None
    """The concept tables."""
    sections: tuple[Section, ...] = ()
    """Sections of the caller's own, shown before the findings."""
    limitations: tuple[str, ...] = ()
    """Limits that only the caller knows of, told first."""
    traces: Named | None = None
    """top_contexts and context_text: the text that the feature pages show."""

    def at_site(self, site: str) -> StudyFrames:
        """The frames of one site; a frame that knows of none stays whole, and so do all where the SAEs have none."""
        return (
            self
            if self.tables.sites == [site] == [""]
            else replace(self, **{field.name: _at(site, getattr(self, field.name)) for field in fields(self)})
        )


def _at(site: str, value: Any) -> Any:
    if isinstance(value, StudyTables):
        return value.at_site(site)
    if isinstance(value, Mapping):
        return {name: _at(site, part) for name, part in value.items()}
    if isinstance(value, pd.DataFrame) and "site" in value.columns:
        return value[value["site"] == site].reset_index(drop=True)
    return value

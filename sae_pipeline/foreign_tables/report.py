"""Findings and report of a table of results: what a study gets, as far as the table goes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from sae_pipeline.analysis import claims, summaries
from sae_pipeline.analysis.cell_resamples import CellResamples
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.recommendations import recommend
from sae_pipeline.analysis.tables import DESIGN, REQUIRED, StudyTables
from sae_pipeline.analysis.variance import variance_shares
from sae_pipeline.foreign_tables.analyses import Analysis, analyses
from sae_pipeline.foreign_tables.columns import COLUMNS
from sae_pipeline.foreign_tables.declared import Shares, declared_study
from sae_pipeline.foreign_tables.results import Results
from sae_pipeline.reports.blocks import Section, Table, text_row
from sae_pipeline.reports.build import build_report
from sae_pipeline.reports.folder import report_folder
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.reports.wording import NONE, counted, listed
from sae_pipeline.study import Study
from sae_pipeline.study.schema import Analysis as Settings


def write(results: Results, shares: Shares, folder: Path, *, settings: Settings | None = None) -> dict[str, Any]:
    """Write the report with ``findings.json`` into a new folder, or in the place of an earlier report; its summary.

    Raises:
        BadInput: the folder holds something else.
    """
    study = declared_study(results, shares, results.path.stem, settings or Settings())
    with report_folder(folder) as fresh:
        return build_report(fresh, study, drawn(results, study, shares))


def drawn(results: Results, study: Study, shares: Shares) -> StudyFrames:
    """Everything that the report is drawn from, site by site."""
    tables = study_tables(results)
    frames: dict[str, list[pd.DataFrame]] = {}
    for site in tables.sites:
        found = _of_site(tables.at_site(site), study)
        for name, frame in found.items():
            frames.setdefault(name, []).append(frame.assign(site=site))
    together: dict[str, Any] = {name: pd.concat(parts, ignore_index=True) for name, parts in frames.items()}
    return StudyFrames(
        tables=tables,
        **together,
        sections=(table_section(results), analyses_section(analyses(results, shares))),
        limitations=limitations(results, shares),
    )


def _of_site(tables: StudyTables, study: Study) -> dict[str, pd.DataFrame]:
    found = evidence(tables, study.analysis)
    findings = claims.find(found, study)
    return {
        "findings": findings,
        "recommendations": recommend(findings),
        "variance_shares": variance_shares(found),
        "matrix": summaries.matrix(found, study),
        "expansion_curve": summaries.expansion_curve(found, study),
        "budget_curve": summaries.budget_curve(found, study),
        "tradeoff": summaries.tradeoff(found),
    }


def study_tables(results: Results) -> StudyTables:
    """The tables of a study as far as the results fill them; those per document and latent are empty."""
    empty = {name: pd.DataFrame(columns=list(REQUIRED[name])) for name in ("document_sums", "feature_stats")}
    baseline = pd.DataFrame(columns=[*REQUIRED["baseline_sums"], "site"])
    return StudyTables(saes=results.saes, sae_metrics=results.sae_metrics, baseline_sums=baseline, **empty)


def evidence(tables: StudyTables, analysis: Settings) -> Evidence:
    """Evidence from tables of one site, with cells resampled as ``analysis`` says."""
    resamples = CellResamples(tables, analysis.bootstrap_samples, analysis.seed, analysis.confidence)
    return Evidence(tables, resamples, analysis.confidence)


# ------------------------------------------------------------------------------------------------ what is said of the table


def table_section(results: Results) -> Section:
    """How every column was read, and what became of the rows."""
    used = results.rows - sum(count for _, count in results.left_out)
    sentences = [f"{counted(results.rows, 'row')} in {results.path.name}: {used:,} used, {results.rows - used:,} left out."]
    sentences += [f"Left out: {counted(count, 'row')}, {reason}." for reason, count in results.left_out]
    if results.derived:
        sentences.append(f"Computed: {listed(list(results.derived), 10)}.")
    if results.unused:
        sentences.append(f"Columns that nothing was taken from: {listed(list(results.unused), 40)}.")
    rows = tuple(
        text_row(column.name, column.id, f"× {column.factor:g}" if column.factor != 1 else NONE, COLUMNS[column.id].meaning)
        for column in results.taken
    )
    table = Table("Columns of the table and what they were taken for", ("column", "taken for", "times", "meaning"), rows)
    return Section("table", "How the table was read", tuple(sentences), tables=(table,))


def analyses_section(found: Sequence[Analysis]) -> Section:
    """Which analyses the table allows, and what the others lack."""
    possible = sum(analysis.possible for analysis in found)
    rows = tuple(text_row(analysis.name, "yes" if analysis.possible else "no", analysis.lacks or NONE) for analysis in found)
    table = Table("Analyses and what they lack", ("analysis", "possible", "lacks"), rows)
    return Section(
        "analyses",
        "What the columns allow",
        (f"{possible} of {len(found)} analyses {'is' if possible == 1 else 'are'} possible with this table.",),
        tables=(table,),
    )


def limitations(results: Results, shares: Shares) -> tuple[str, ...]:
    """What a table of metrics cannot say."""
    points = [
        "The table holds metrics and no sums per document. Intervals resample cells (one mix, layer and expansion factor), in pairs across what is compared: "
        "they say how a difference varies from cell to cell, and nothing of how it would on other documents. A mean alone has no interval.",
        "The metrics are taken as their columns' names say; how they were computed is not known here.",
    ]
    if results.alike:
        points.append(
            f"Not told by the table and taken to be equal in all rows: {listed(list(results.alike), 20)}. Where they differed, a difference may be theirs."
        )
    if repeated := int(results.saes.duplicated([name for name in DESIGN if name in results.saes.columns] + ["site", "init_seed", "data_seed"]).sum()):
        points.append(f"{counted(repeated, 'SAE')} share every setting with another and are told apart by name alone.")
    if undeclared := [mix for mix, kinds in shares.items() if not kinds]:
        points.append(f"What these mixes are made of was not declared, so they take no part in the in-domain advantage: {listed(undeclared, 10)}.")
    return tuple(points)

"""The report as Markdown, with the same content as the page and its figures as files beside it."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from sae_pipeline.reports.blocks import Cell, Claim, Report, Section, Table
from sae_pipeline.reports.markdown_text import escape


def render_markdown(report: Report) -> str:
    """The text of ``report.md``; figures are referred to as ``figures/<name>.png``."""
    return "\n".join(_lines(report)).rstrip() + "\n"


def _lines(report: Report) -> Iterator[str]:
    yield from (f"# {escape(report.name)}", "")
    if report.description:
        yield from (escape(report.description), "")
    yield from ("## Summary", "", f"**{escape(report.headline_sentence)}**", "")
    yield from (f"- {escape(label)}: {escape(value)}" for label, value in report.facts)
    yield ""
    for table in report.heat:
        yield from _table(table)
    for note in report.heat_notes:
        yield from (escape(note), "")
    for section in report.sections:
        yield from _section(section)
    if report.pages:
        yield from ("## Latents, SAE by SAE", "", *(f"- [{escape(page.sae_id)}]({quote(page.file)})" for page in report.pages), "")


def _section(section: Section, level: int = 2) -> Iterator[str]:
    yield from (f"{'#' * level} {escape(section.title)}", "")
    for sentence in section.sentences:
        yield from (escape(sentence), "")
    for claim in section.claims:
        yield from _claim(claim)
    for plot in section.plots:
        yield from (
            f"![{escape(plot.title)}](figures/{plot.name}.png)",
            "",
            f"{escape(plot.caption)} Data: [{plot.name}.csv](figures/{plot.name}.csv).",
            "",
        )
    if section.points:
        yield from (*(f"- {escape(point)}" for point in section.points), "")
    for table in section.tables:
        yield from _table(table)
    for chain in section.chains:
        yield from _table(chain.table)
    for part in section.parts:
        yield from _section(part, level + 1)


def _claim(claim: Claim) -> Iterator[str]:
    yield f"- **{claim.word}**: {escape(claim.text)} ({escape(claim.evidence)})"
    yield from (f"  - {escape(detail)}" for detail in claim.details)
    if claim.note:
        yield f"  - {escape(claim.note)}"
    yield ""


def _table(table: Table) -> Iterator[str]:
    yield from (f"**{escape(table.caption)}**", "")
    yield "| " + " | ".join(escape(column) for column in table.columns) + " |"
    yield "|" + " --- |" * len(table.columns)
    yield from ("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows)
    yield ""


def _cell(cell: Cell) -> str:
    return f"[{escape(cell.text)}]({cell.link})" if cell.link else escape(cell.text)

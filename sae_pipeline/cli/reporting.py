"""Pages: a study's report, that of a table made elsewhere, and what changed between two studies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from sae_pipeline.cli.base import Json, app, open_study
from sae_pipeline.errors import BadInput


@app.command()
def report(
    study: Annotated[str | None, typer.Argument(metavar="[STUDY]", help="Study file, unless --results is given")] = None,
    results: Annotated[Path | None, typer.Option(help="CSV or Parquet table of results made elsewhere, instead of a study")] = None,
    names: Annotated[
        list[str] | None,
        typer.Option("--map", metavar="ID=COLUMN", help="Column of the table that stands for one of ours; also ID=COLUMN*1e6, ID=COLUMN/100, ID="),
    ] = None,
    in_domain: Annotated[
        list[str] | None, typer.Option(metavar="MIX=SET[:SHARE]", help="Share of a mix's training text that is of the kind of an evaluation set")
    ] = None,
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the report of --results")] = None,
    as_json: Json = False,
) -> None:
    """Rebuild findings and report from the stored tables, or draw them from a table of results made elsewhere."""
    if (study is None) == (results is None):
        raise BadInput("expected a study file or --results FILE, found " + ("neither" if study is None else "both") + "; give one of them")
    if results is not None:
        _report_results(results, names or [], in_domain or [], to, as_json)
        return
    if names or in_domain or to:
        raise BadInput("--map, --in-domain and --to belong to --results FILE, found them with a study file; leave them out")
    from sae_pipeline.stages import conclusion, findings, reports, tables

    ctx = open_study(str(study))
    tables.gather(ctx)
    findings.draw(ctx)
    conclusion.publish(ctx)
    reports.build(ctx)
    path = str(ctx.home.report(ctx.study.name))
    print(json.dumps({"study": ctx.study.name, "report": path}) if as_json else path)


def _report_results(path: Path, names: list[str], in_domain: list[str], to: Path | None, as_json: bool) -> None:
    """Findings and report of a table made elsewhere, and what its columns allow."""
    from sae_pipeline.foreign_tables.analyses import analyses
    from sae_pipeline.foreign_tables.declared import in_domain as declared_shares
    from sae_pipeline.foreign_tables.report import write
    from sae_pipeline.foreign_tables.results import read_results
    from sae_pipeline.reports.folder import PAGE
    from sae_pipeline.reports.wording import counted
    from sae_pipeline.terminal import say

    if to is None:
        raise BadInput("expected --to DIR with --results, found none; name the folder that the report is written to")
    table = read_results(path, names)
    shares = declared_shares(table, in_domain)
    summary = write(table, shares, to)
    found = analyses(table, shares)
    if as_json:
        columns = {column.id: {"column": column.name, "times": column.factor} for column in table.taken}
        rows = {"rows": table.rows, "left_out": [{"reason": reason, "rows": count} for reason, count in table.left_out]}
        about = {"results": str(path), "report": str(to / PAGE), **rows, "columns": columns, "computed": table.derived, "unused": table.unused}
        print(json.dumps(about | {"analyses": [{"analysis": a.name, "possible": a.possible, "lacks": a.lacks} for a in found], **summary}))
        return
    say(
        f"{table.rows} rows, {len(table.saes)} SAEs; {', '.join(f'{c.name} is {c.id}' for c in table.taken if c.name != c.id) or 'all columns by our names'}"
    )
    for reason, count in table.left_out:
        say(f"left out: {counted(count, 'row')}, {reason}")
    if table.unused:
        say(f"nothing taken from: {', '.join(table.unused)}")
    for analysis in found:
        say(f"{'possible' if analysis.possible else 'not possible'}: {analysis.name}{'' if analysis.possible else f'; lacks {analysis.lacks}'}")
    say(summary["headline"])
    print(to / PAGE)


@app.command()
def compare(
    earlier: Annotated[str, typer.Argument(metavar="BEFORE", help="Study file or warehouse.duckdb")],
    later: Annotated[str, typer.Argument(metavar="AFTER", help="Study file or warehouse.duckdb")],
    to: Annotated[Path | None, typer.Option(metavar="DIR", help="Folder for the page; by default beside the report of AFTER")] = None,
    as_json: Json = False,
) -> None:
    """A page on what changed between two studies, or between two dates of one: SAEs, metrics, findings and health marks."""
    from sae_pipeline.stages.comparison import compare as compare_studies
    from sae_pipeline.terminal import say

    compared = compare_studies(earlier, later, to)
    if as_json:
        print(json.dumps(compared))
        return
    say(compared["headline"])
    print(compared["page"])

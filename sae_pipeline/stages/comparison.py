"""Two studies, or two dates of one, from their warehouses to a page on what changed between them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_pipeline.errors import BadInput
from sae_pipeline.store import Home

if TYPE_CHECKING:
    from sae_pipeline.analysis.study_differences import Measured

READ = ("saes", "sae_metrics", "document_sums", "baseline_sums", "findings", "health", "lineage")
"""Tables of a warehouse that are compared."""

TABLES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
"""How the names of tables of results end, which are no side of a comparison."""


def compare(before: str, after: str, to: Path | None = None) -> dict[str, Any]:
    """Write the page that compares two studies; its path and headline, with the counts behind it.

    Args:
        before, after: a study file whose study was run, a ``warehouse.duckdb``, or a folder that holds one.
        to: folder of the page; None puts it beside the report of ``after``.

    Raises:
        BadInput: nothing to read, two studies that have nothing to compare, or a folder that holds other files.
    """
    from sae_pipeline.reports.build import write_report
    from sae_pipeline.reports.comparison import comparison
    from sae_pipeline.reports.folder import PAGE, report_folder

    sides = [read(place) for place in (before, after)]
    if sides[0].warehouse.resolve() == sides[1].warehouse.resolve():
        raise BadInput(f"expected two different warehouses, found {sides[0].warehouse} twice; keep a copy of the earlier one before the next run")
    folder = to or sides[1].warehouse.parent / f"compared_with_{sides[0].name}"
    report, counts = comparison(*sides)
    with report_folder(folder) as fresh:
        write_report(fresh, report)
    return {"page": str(folder / PAGE), "headline": report.headline_sentence, **counts}


def read(place: str) -> Measured:
    """The tables of a study.

    Raises:
        BadInput: there is no warehouse, it cannot be read, or it is of a version that lacks a table.
    """
    import duckdb

    from sae_pipeline.analysis.study_differences import Measured

    warehouse = _warehouse(place)
    try:
        # A warehouse may be somebody else's: a view in it could otherwise read any file of this machine, or an address.
        with duckdb.connect(str(warehouse), read_only=True, config={"enable_external_access": False}) as connection:
            present = {name for (name,) in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()}
            if missing := [name for name in READ if name not in present]:
                raise BadInput(f"{warehouse}: expected the tables {', '.join(READ)}, found none named {', '.join(missing)}; run the study again")
            frames = {name: connection.execute(f'SELECT * FROM "{name}"').df() for name in READ}
    except duckdb.Error as error:
        raise BadInput(f"{warehouse}: expected a warehouse that DuckDB reads, found: {str(error).splitlines()[0]}; run the study again") from None
    name = warehouse.parent.name if warehouse.name == "warehouse.duckdb" else warehouse.stem
    return Measured(name, warehouse, str(frames["lineage"]["created"].max()), frames)


def _warehouse(place: str) -> Path:
    """The DuckDB file that a place stands for."""
    path = Path(place)
    if path.is_dir():
        path = path / "warehouse.duckdb"
    elif path.suffix in (".yaml", ".yml"):
        from sae_pipeline.study import load_study

        path = Home.from_environment().warehouse(load_study(path).name)
    elif path.is_file() and path.suffix in TABLES:
        raise BadInput(
            f"{place}: expected a study file or a warehouse.duckdb, found a table; `sae-pipeline report --results {place}` reads tables of results"
        )
    if not path.is_file():
        raise BadInput(f"{place}: expected a study that was run or a warehouse, found none at {path}; run the study with `sae-pipeline run` first")
    return path

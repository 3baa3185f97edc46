"""Where the lanes meet: the study's tables and warehouse, the findings, and the comparison report."""

from typing import Any

import dagster as dg

from assets.displays import columns_of, lineage, picture, rows_of, table
from assets.gathered import gathered_tables
from assets.names import explained, key
from assets.results import check, result
from resources import ComputeResource, HomeResource, WarehouseResource
from sae_pipeline.stages import chain, conclusion, findings, reports, slices, tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study, cells

SHOWN = ("id", "scope", "verdict", "estimate", "low", "high", "claim")
"""Columns of the findings that the UI shows."""


def tables_asset(study: Study) -> dg.AssetsDefinition:
    """The study's Parquet tables and the DuckDB warehouse built from them."""
    asset_key = key(study, "metric_tables")
    complete = dg.AssetCheckSpec("one_row_per_sae_and_set", asset=asset_key, blocking=True, description="No SAE and no evaluation set is missing.")

    @dg.asset(
        key=asset_key,
        deps=[
            *(key(study, mix, "scorecard") for mix in study.mixes),
            key(study, "text_tables"),
            *gathered_tables(study),
        ],
        code_version=slices.code_version("tables", slices.tables(study)),
        group_name="reports",
        kinds={"duckdb"},
        check_specs=[complete],
        description=explained(
            "All tables of the study in one place, a DuckDB file to ask with SQL: SAEs, metrics, sums per document, latents, health and lineage.",
            reads="the scorecards of every mix and layer, and the tables on texts and on what else the study measures.",
            makes="`warehouse.duckdb` in the study's folder; the rows counted below, by table. The columns are those of `sae_metrics`.",
        ),
    )
    def metric_tables(home: HomeResource, compute: ComputeResource, warehouse: WarehouseResource) -> dg.MaterializeResult:
        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        gathered = tables.gather(ctx)
        conclusion.publish(ctx)
        trained = sum(len(cell.arms) for cell in cells(study)) - gathered.summary[tables.DIVERGED]
        expected = trained * len(study.held_out)
        with warehouse.connect(study.name) as connection:
            row = connection.execute("SELECT count(*) FROM (SELECT DISTINCT sae_id, evaluation_set FROM sae_metrics)").fetchone()
        found = row[0] if row else 0
        rows = [{"table": name, "rows": count} for name, count in gathered.summary.items()]
        figures: dict[str, Any] = {"warehouse": dg.MetadataValue.path(str(opened.warehouse(study.name))), "table": table(rows)}
        figures |= rows_of(gathered.file("sae_metrics.parquet")) | columns_of(gathered.file("sae_metrics.parquet"))
        checks = [check(asset_key, complete.name, found == expected, expected=expected, found=found)]
        return result([gathered], version=gathered.content, figures=figures, checks=checks)

    return metric_tables


def findings_asset(study: Study) -> dg.AssetsDefinition:
    """The claims tested on the tables."""

    @dg.asset(
        key=key(study, "findings"),
        deps=[key(study, "metric_tables"), *gathered_tables(study, ["matching"])],
        code_version=slices.code_version("findings", slices.findings(study)),
        group_name="reports",
        kinds={"duckdb"},
        description=explained(
            "Every claim as a tested hypothesis: estimate, interval over documents, verdict and evidence.",
            reads="the metric tables" + (" and the matched features." if study.matching is not None else "."),
            makes=f"a row per claim and scope at {study.analysis.confidence:.0%} confidence, causes of health problems, and the arms proposed to mend them.",
        ),
    )
    def drawn(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        found = findings.draw(ctx)
        conclusion.publish(ctx)
        rows = [{column: row[column] for column in SHOWN} for row in found.json("findings.json")["findings"]]
        figures = found.summary | {"table": table(rows), "lineage": lineage(chain.of_study(ctx, "findings"))}
        return result([found], version=found.content, figures=figures | rows_of(found.file("findings.parquet")))

    return drawn


def report_asset(study: Study) -> dg.AssetsDefinition:
    """The comparison report in HTML and Markdown."""
    asset_key = key(study, "comparison_report")
    whole = dg.AssetCheckSpec("every_section_present", asset=asset_key, blocking=False, description="The page has all of its sections.")

    @dg.asset(
        key=asset_key,
        deps=[
            key(study, "metric_tables"),
            key(study, "text_tables"),
            *gathered_tables(study),
            key(study, "findings"),
        ],
        code_version=slices.code_version("report", slices.report(study)),
        group_name="reports",
        kinds={"html", "matplotlib"},
        check_specs=[whole],
        description=explained(
            f"What the study says, to read: {study.description or 'what the training mix changed'}",
            reads="the tables and the findings.",
            makes="one HTML page that needs nothing else, the same in Markdown, and every figure as PNG and CSV.",
        ),
    )
    def comparison_report(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        built = reports.build(ctx)
        missing = reports.missing_sections(built, study)
        figures = {
            "matrix": picture(built.file("figures/matrix.png").read_bytes(), "explained variance by training mix and evaluation set"),
            "report": dg.MetadataValue.path(str(opened.report(study.name))),
            **built.summary,
            "lineage": lineage(chain.of_study(ctx, "comparison_report")),
        }
        checks = [check(asset_key, whole.name, not missing, blocking=False, missing=", ".join(missing) or "none")]
        return result([built], version=built.content, figures=figures, checks=checks)

    return comparison_report

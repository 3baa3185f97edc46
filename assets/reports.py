"""Where the lanes meet: the study's tables and warehouse, the findings, and the comparison report."""

import base64

import dagster as dg

from assets.gathered import gathered_tables
from assets.names import key
from assets.results import check, result
from resources import ComputeResource, HomeResource, WarehouseResource
from sae_pipeline.stages import conclusion, findings, reports, slices, tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study, cells


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
        description="warehouse.duckdb: SAEs, metrics, per-document sums, latents, health and lineage of the whole study.",
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
        figures = gathered.summary | {"warehouse": dg.MetadataValue.path(str(opened.warehouse(study.name)))}
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
        description="Every claim as a tested hypothesis: estimate, interval over documents, verdict and evidence; causes of health problems and arms proposed.",
    )
    def drawn(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        found = findings.draw(ctx)
        conclusion.publish(ctx)
        rows = found.json("findings.json")["findings"]
        table = [dg.TableRecord({c: row[c] for c in ("id", "scope", "claim", "verdict")} | {"estimate": _shown(row["estimate"])}) for row in rows]
        return result([found], version=found.content, figures=found.summary | {"table": dg.MetadataValue.table(table) if table else None})

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
        description="What the training mix changed, with error bars: matrix, curves, trade-off, findings, health and lineage.",
    )
    def comparison_report(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        built = reports.build(StudyContext(study, opened, compute.open(opened)))
        missing = reports.missing_sections(built, study)
        picture = base64.b64encode(built.file("figures/matrix.png").read_bytes()).decode()
        figures = {
            "matrix": dg.MetadataValue.md(f"![explained variance by training mix and evaluation set](data:image/png;base64,{picture})"),
            "report": dg.MetadataValue.path(str(opened.report(study.name))),
            **built.summary,
        }
        checks = [check(asset_key, whole.name, not missing, blocking=False, missing=", ".join(missing) or "none")]
        return result([built], version=built.content, figures=figures, checks=checks)

    return comparison_report


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"

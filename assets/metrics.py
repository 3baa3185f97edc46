"""Baselines of the evaluation sets, the metrics of every SAE on every set, and a scorecard per lane and layer."""

from typing import Any

import dagster as dg

from assets.checks import bottom_line_rows, health_check_results, health_check_specs
from assets.displays import lineage, rows_of, table
from assets.executors import ray_resources
from assets.names import explained, key
from assets.partitions import describe_grid, describe_layers, grid, layers
from assets.results import check, result
from resources import ComputeResource, HomeResource
from sae_pipeline.stages import chain, evaluation, scorecards, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study, expansion_of, point_of


def baseline_asset(study: Study, held_out: str) -> dg.AssetsDefinition:
    """What an evaluation set's raw activations are like."""
    asset_key = key(study, "held_out", held_out, "baseline")
    ordered = dg.AssetCheckSpec("ablation_hurts", asset=asset_key, blocking=False, description="Zeroing the site raises the model's loss.")

    @dg.asset(
        key=asset_key,
        deps=[key(study, "held_out", held_out, "activations")],
        partitions_def=layers(study),
        code_version=slices.code_version("baselines", slices.baselines(study)),
        group_name="held_out",
        kinds={"parquet"},
        pool="gpu",
        op_tags=ray_resources(study),
        check_specs=[ordered],
        description=explained(
            f"What no SAE changes on the set {held_out}: the floor and the ceiling of every score.",
            reads="the activations of this set and the subject model.",
            makes="sums of the raw activations per document, and the model's loss with the site intact, zeroed and set to its mean. "
            f"{describe_layers(study)}",
        ),
    )
    def baseline(context: dg.AssetExecutionContext, home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        measured = evaluation.measure_baseline(ctx, held_out, point_of(study, context.partition_key))
        clean, zeroed = measured.summary["ce_clean"], measured.summary["ce_zero"]
        # An encoder predicts no next token, so nothing is scored and there is nothing to hurt.
        figures = {"ce_clean": clean, "ce_zero": zeroed} if clean is not None else {"note": "not applicable: the subject is no causal model"}
        checks = [check(asset_key, ordered.name, clean is None or zeroed > clean, blocking=False, **figures)]
        shown = measured.summary | rows_of(measured.file("documents.parquet"), partition=True)
        return result([measured], version=measured.content, figures=shown, checks=checks)

    return baseline


def metrics_asset(study: Study, mix: str) -> dg.AssetsDefinition:
    """Every SAE of a cell on every evaluation set."""
    asset_key = key(study, mix, "metrics")
    possible = dg.AssetCheckSpec(
        "values_are_possible", asset=asset_key, blocking=True, description="Explained variance is at most 1 and no TopK SAE exceeds k."
    )

    @dg.asset(
        key=asset_key,
        deps=[key(study, mix, "saes"), *(key(study, "held_out", name, "baseline") for name in study.held_out)],
        partitions_def=grid(study),
        code_version=slices.code_version("metrics", slices.metrics(study)),
        group_name=mix,
        kinds={"parquet"},
        pool="gpu",
        op_tags=ray_resources(study),
        check_specs=[possible],
        description=explained(
            f"Every SAE trained on {mix} on every held-out set: reconstruction, sparsity, cross-entropy and latent health.",
            reads=f"the cell's SAEs, and baselines and activations of {', '.join(study.held_out)}.",
            makes=f"a row per SAE and set, sums per document, and statistics of every latent. {describe_grid(study)}",
        ),
    )
    def metrics(context: dg.AssetExecutionContext, home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        cell = evaluation.evaluate(ctx, mix, point_of(study, context.partition_key), expansion_of(study, context.partition_key))
        import pandas as pd

        rows = pd.read_parquet(cell.artifact.file("metrics.parquet"))
        figures: dict[str, Any] = {"rows": len(rows), "note": None if len(rows) else "no arms here"}
        wrong = 0
        if len(rows):
            figures |= {
                name: float(rows[name].mean())
                for name in ("explained_variance", "l0", "dead_share", "ce_loss_recovered_zero")
                if rows[name].notna().any()
            }
            arms = cell.cell.arms
            shown = ("arm", "evaluation_set", "explained_variance", "l0", "dead_share", "ce_loss_recovered_zero")
            figures["table"] = table(rows[list(shown)].to_dict("records"))
            figures["lineage"] = lineage(chain.of_cell(ctx, cell.cell, f"{mix}/metrics {context.partition_key}"))
            figures |= rows_of(cell.artifact.file("metrics.parquet"), partition=True)
            limits = rows["arm"].map(lambda label: arms[label].k if arms[label].architecture == "topk" else None).astype(float)
            wrong = int(((rows["explained_variance"] > 1) | (rows["l0"] > limits + 1e-9)).sum())
        checks = [check(asset_key, possible.name, wrong == 0, impossible_rows=wrong)]
        return result([cell.artifact], version=cell.artifact.fingerprint, figures=figures, checks=checks, computed=cell.computed, reused=cell.reused)

    return metrics


def scorecard_asset(study: Study, mix: str) -> dg.AssetsDefinition:
    """One lane at one layer; also keeps every fan-in well under the 100 partitions Dagster can judge."""
    asset_key = key(study, mix, "scorecard")

    @dg.asset(
        key=asset_key,
        deps=[key(study, mix, "metrics")],
        partitions_def=layers(study),
        code_version=slices.code_version("scorecard", slices.scorecard(study, mix)),
        group_name=mix,
        kinds={"parquet"},
        check_specs=health_check_specs(study, asset_key),
        description=explained(
            f"How healthy the SAEs trained on {mix} are, layer by layer: configuration, metrics, and marks by the study's rubrics.",
            reads="the metrics of this mix at all expansion factors.",
            makes=f"a mark per SAE and metric by {', '.join(study.analysis.rubrics)}; the checks are those of the first rubric. {describe_layers(study)}",
        ),
    )
    def scorecard(context: dg.AssetExecutionContext, home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        card = scorecards.draw(StudyContext(study, opened, compute.open(opened)), mix, point_of(study, context.partition_key))
        checks = health_check_results(study, asset_key, card, context.partition_key)
        figures = card.summary | {"table": table(bottom_line_rows(study, card))} | rows_of(card.file("sae_metrics.parquet"), partition=True)
        return result([card], version=card.content, figures=figures, checks=checks)

    return scorecard

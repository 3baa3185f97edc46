"""Trained SAEs of a lane, one partition per cell (layer x expansion factor), every arm of the cell inside."""

from typing import Any

import dagster as dg

from assets.displays import lineage, picture, table
from assets.executors import ray_resources
from assets.names import describe_shares, explained, key
from assets.partitions import describe_grid, grid
from assets.results import check, result
from resources import ComputeResource, HomeResource
from sae_pipeline.launcher.outcome import COMPUTED, REUSED
from sae_pipeline.saes.divergence import DivergedArms
from sae_pipeline.stages import chain, saes, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study, expansion_of, point_of
from sae_pipeline.study.section import as_tuple


def saes_asset(study: Study, mix: str) -> dg.AssetsDefinition:
    """All SAEs trained on one mix."""
    asset_key = key(study, mix, "saes")
    finite = dg.AssetCheckSpec(
        "no_arm_diverged", asset=asset_key, blocking=False, description="No arm of the cell was stopped because its loss exploded."
    )
    sparse = dg.AssetCheckSpec("l0_near_target", asset=asset_key, blocking=False, description="Every SAE's L0 is within 15 % of what was asked for.")

    @dg.asset(
        key=asset_key,
        deps=[key(study, mix, "activations")],
        partitions_def=grid(study),
        code_version=slices.code_version("saes", slices.saes(study, mix)),
        group_name=mix,
        kinds={"pytorch", "safetensors"},
        pool="gpu",
        op_tags=ray_resources(study),
        check_specs=[sparse, finite],
        metadata={"arms": table(_arms(study, mix))},
        description=explained(
            f"Sparse autoencoders trained on {mix} ({describe_shares(study.mixes[mix])}).",
            reads="the activations of this mix, once per cell: its arms are trained side by side in the same order of the data.",
            makes=f"a SAELens folder per arm (architecture, sparsity, token budget, seed; the table below lists them). {describe_grid(study)}",
        ),
    )
    def trained(context: dg.AssetExecutionContext, home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        point, expansion = point_of(study, context.partition_key), expansion_of(study, context.partition_key)
        try:
            cell = saes.train(ctx, mix, point, expansion)
        except DivergedArms as diverged:  # the others are in the store, and are counted
            raise dg.Failure(str(diverged), metadata={COMPUTED: len(diverged.summaries), REUSED: 0}) from diverged
        rows = [(label, cell.cell.arms[label].sparsity, sae.summary) for label, sae in cell.saes.items()]
        # TopK may use fewer than k latents where fewer are positive; that is not a miss.
        steered = {label for label, arm in cell.cell.arms.items() if arm.architecture != "topk"}
        off = max((abs(s["final_l0"] / wanted - 1) for label, wanted, s in rows if label in steered), default=0.0)
        stopped = ", ".join(f"{label} at step {found.summary['step']}" for label, found in cell.diverged.items())
        figures: dict[str, Any] = {"arms": len(rows), "note": None if rows else "no arms here", "diverged": stopped or None}
        if rows:
            figures |= {f"mean_{name}": sum(s[name] for *_, s in rows) / len(rows) for name in ("final_loss", "final_l0", "dead_share")}
            # An arm that branched off another's trunk counts only the steps it took itself.
            figures["seconds"] = round(sum(s["seconds"] * (1 - s["trunk_steps"] / s["steps"]) for *_, s in rows), 2)
            figures["training"] = _curves(cell)
            figures["table"] = table(
                {
                    "sae": label,
                    "sparsity": w,
                    "loss": s["final_loss"],
                    "l0": s["final_l0"],
                    "dead": s["dead_share"],
                    "per_second": s["tokens_per_second"],
                }
                for label, w, s in rows
            )
            figures["lineage"] = lineage(chain.of_cell(ctx, cell.cell, *map(cell.cell.sae_id, cell.saes)))
        checks = [
            check(asset_key, sparse.name, off <= 0.15, blocking=False, worst_relative_miss=off),
            check(asset_key, finite.name, not stopped, blocking=False, diverged=stopped or "none"),
        ]
        return result([*cell.saes.values(), *cell.diverged.values()], version=cell.version, figures=figures, checks=checks)

    return trained


def _curves(cell: saes.TrainedCell) -> dg.MarkdownMetadataValue:
    """The cell's training curves, one line per SAE."""
    import pandas as pd

    from sae_pipeline.reports.style import figure_png
    from sae_pipeline.reports.training import against_tokens

    arms = {cell.cell.sae_id(label): arm for label, arm in cell.cell.arms.items()}
    curves = pd.DataFrame(saes.training_rows(cell))
    curves["architecture"] = [arms[sae_id].architecture for sae_id in curves["sae_id"]]
    curves["l0_ratio"] = curves["l0"] / [arms[sae_id].sparsity for sae_id in curves["sae_id"]]
    return picture(figure_png(against_tokens(curves, "Training of the cell's SAEs")), "training curves")


def _arms(study: Study, mix: str) -> list[dict[str, Any]]:
    """The entries of ``saes.arms`` that this mix is trained with."""
    return [
        {
            "architecture": group.architecture,
            "sparsity": ", ".join(f"{value:g}" for value in as_tuple(group.k if group.k is not None else group.target_l0)),
            "tokens": ", ".join(f"{tokens:,}" for tokens in as_tuple(group.tokens or study.saes.defaults.tokens)),
            "seeds": ", ".join(map(str, group.seeds)),
            "only": ", ".join(f"{axis} {chosen}" for axis, chosen in group.only.model_dump(exclude_none=True, exclude={"mixes"}).items()),
        }
        for group in study.saes.arms
        if mix in (group.only.mixes or study.mixes)
    ]

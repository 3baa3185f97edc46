"""The position study: one partition per hook point, and the tables of all of them."""

from typing import Any

import dagster as dg

from assets.executors import ray_resources
from assets.gathered import gathered_asset
from assets.names import explained, key
from assets.partitions import describe_layers, layers
from assets.results import check, result
from resources import ComputeResource, HomeResource
from sae_pipeline.stages import positions, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study, point_of


def positions_asset(study: Study) -> dg.AssetsDefinition:
    """One hook point read with its position embeddings as they are, zeroed and shuffled."""
    evaluation_set, mix, expansion = study.read_for_positions
    asset_key = key(study, "positions")
    vanishes = dg.AssetCheckSpec(
        "loss_needs_positions", asset=asset_key, blocking=False, description="Zeroing and shuffling the position embeddings raises the model's loss."
    )

    @dg.asset(
        key=asset_key,
        deps=[key(study, "held_out", evaluation_set, "corpus"), key(study, mix, "saes")],
        partitions_def=layers(study),
        code_version=slices.code_version("positions", slices.positions(study)),
        group_name="positions",
        kinds={"parquet"},
        pool="gpu",
        op_tags=ray_resources(study),
        check_specs=[vanishes],
        description=explained(
            "What a token's position does: activations, latents and losses with the position embeddings intact, zeroed and shuffled.",
            reads=f"the set {evaluation_set}, and the first arm of each architecture of {mix} at expansion factor {expansion:g}.",
            makes=f"figures by position in the context. {describe_layers(study)}",
        ),
    )
    def measured(context: dg.AssetExecutionContext, home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        found = positions.measure(StudyContext(study, opened, compute.open(opened)), point_of(study, context.partition_key))
        rises = positions.loss_rises(found)
        figures: dict[str, Any] = rises or {"note": f"not applicable: {found.summary['not_applicable'] or 'the subject is no causal model'}"}
        checks = [check(asset_key, vanishes.name, all(rise > 0 for rise in rises.values()), blocking=False, **figures)]
        summary = found.summary | {"saes": ", ".join(found.summary["saes"]) or "no arms here"}
        return result([found], version=found.fingerprint, figures=summary | rises, checks=checks)

    return measured


def position_tables_asset(study: Study) -> dg.AssetsDefinition:
    """The tables of all hook points."""
    description = "The position study of every hook point in one table per kind of row."
    return gathered_asset(study, "positions", positions.gather, ["positions"], slices.positions(study), description)

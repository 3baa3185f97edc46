"""Cached activations of a lane, one partition per layer, all layers of a run from one forward pass."""

from collections.abc import Sequence

import dagster as dg

from assets.displays import table
from assets.executors import ray_resources
from assets.names import explained, key
from assets.partitions import describe_layers, layers
from assets.results import check, result
from resources import ComputeResource, HomeResource
from sae_pipeline.stages import activations, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study, point_of


def activations_asset(study: Study, lane: Sequence[str]) -> dg.AssetsDefinition:
    """The activation cache of a training mix or an evaluation set.

    A backfill is one run, so that the layers share the forward pass; its one data version fits all of them, because
    nothing but the layer tells them apart.
    """
    asset_key, name = key(study, *lane, "activations"), "/".join(lane)
    faithful = dg.AssetCheckSpec(
        "storage_error_is_small", asset=asset_key, blocking=True, description="Rounding to the storage dtype loses under 1 %."
    )

    @dg.asset(
        key=asset_key,
        deps=[key(study, "subject_model"), key(study, *lane, "corpus")],
        partitions_def=layers(study),
        backfill_policy=dg.BackfillPolicy.single_run(),
        code_version=slices.code_version("activations", slices.activations(study) | {"cached": activations.is_cached(study, name)}),
        group_name=lane[0],
        kinds={"pytorch", "safetensors"},
        pool="gpu",
        op_tags=ray_resources(study),
        check_specs=[faithful],
        description=explained(
            f"Activations ({', '.join(study.activations.sites)}) of the subject model on the text {name}.",
            reads="the packed corpus and the subject model, once for all layers of a run.",
            makes=f"shards of {study.activations.storage_dtype} vectors, one per token, that training and evaluation read by position. {describe_layers(study)}",
        ),
    )
    def cached(context: dg.AssetExecutionContext, home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        harvested = activations.harvest(ctx, name, [point_of(study, k) for k in context.partition_keys])
        error = max(a.summary["storage_relative_error"] for a in harvested.values())
        rows = [{"layer": point.key} | {k: v for k, v in a.summary.items() if isinstance(v, (int, float))} for point, a in harvested.items()]
        checks = [check(asset_key, faithful.name, error < 0.01, relative_error=error)]
        return result(list(harvested.values()), version=activations.lane_version(ctx, name), figures={"table": table(rows)}, checks=checks)

    return cached

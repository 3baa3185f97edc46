"""The matching of features: one partition per hook point, the same arms across layers, and the tables of all of them."""

import dagster as dg

from assets.displays import table
from assets.executors import ray_resources
from assets.gathered import gathered_asset
from assets.names import explained, key
from assets.partitions import describe_layers, layers
from assets.results import result
from resources import ComputeResource, HomeResource
from sae_pipeline.stages import matching, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study, point_of


def feature_matches_asset(study: Study) -> dg.AssetsDefinition:
    """The SAEs of one hook point, those of all mixes and expansions, matched pair by pair."""
    correlated = study.matching is not None and study.matching.correlation_tokens > 0
    read = [key(study, "held_out", study.read_for_matching, "activations")] if correlated else []

    @dg.asset(
        key=key(study, "feature_matches"),
        deps=[*read, *(key(study, mix, part) for mix in study.mixes for part in ("saes", "metrics"))],
        partitions_def=layers(study),
        code_version=slices.code_version("matching", slices.matching(study)),
        group_name="matching",
        kinds={"parquet"},
        pool="gpu",
        op_tags=ray_resources(study),
        description=explained(
            "Which features SAEs share that differ in exactly one factor: mix, expansion, seed, architecture, sparsity or budget.",
            reads="the directions of all SAEs of a layer, of all mixes and expansion factors"
            + (f", and their activations on {study.read_for_matching}." if correlated else "."),
            makes=f"match ratios, one-to-one pairings, orphans and the union over seeds, each beside what chance gives. {describe_layers(study)}",
        ),
    )
    def matched(context: dg.AssetExecutionContext, home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        found = matching.match(StudyContext(study, opened, compute.open(opened)), point_of(study, context.partition_key))
        pairs = table({"factor": factor, "possible_pairs": count} for factor, count in found.summary["possible"].items())
        return result([found], version=found.fingerprint, figures=found.summary | {"possible": pairs})

    return matched


def layer_matches_asset(study: Study) -> dg.AssetsDefinition:
    """The same arms matched across layers; behind the matches of the hook points, which keep its fan-in under 100."""
    mix, expansion = study.matched_across_layers

    @dg.asset(
        key=key(study, "layer_matches"),
        deps=[key(study, "feature_matches")],
        code_version=slices.code_version("layer_matches", slices.layer_matches(study)),
        group_name="matching",
        kinds={"parquet"},
        pool="gpu",
        op_tags=ray_resources(study),
        description=explained(
            "How much of each layer's dictionary every other layer's holds.",
            reads=f"the first arms of {mix} at expansion factor {expansion:g}, at every layer.",
            makes="match ratios of every pair of layers, and, where the study asks for it, the directions in the plane.",
        ),
    )
    def across_layers(home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        found = matching.match_layers(StudyContext(study, opened, compute.open(opened)))
        return result(
            [found], version=found.fingerprint, figures=found.summary | {"settings": ", ".join(found.summary["settings"]) or "no arms here"}
        )

    return across_layers


def match_tables_asset(study: Study) -> dg.AssetsDefinition:
    """The tables of all hook points, and those across layers."""
    description = "The matches of every hook point and across layers in one table per kind of row."
    return gathered_asset(study, "matching", matching.gather, ["feature_matches", "layer_matches"], slices.matching(study), description)

"""The concept study: one partition per hook point, and the tables of all of them."""

import dagster as dg

from assets.executors import ray_resources
from assets.gathered import gathered_asset
from assets.names import explained, key
from assets.partitions import describe_layers, layers
from assets.results import result
from resources import ComputeResource, HomeResource
from sae_pipeline.stages import concepts, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study, point_of


def concepts_asset(study: Study) -> dg.AssetsDefinition:
    """Concepts and directions in the latents of one hook point."""
    sets = study.concepts.read_sets(study.held_out) if study.concepts else ()

    @dg.asset(
        key=key(study, "concepts"),
        deps=[
            key(study, "text_tables"),
            *(key(study, "held_out", name, "activations") for name in sets),
            *(key(study, mix, "saes") for mix in study.mixes),
        ],
        partitions_def=layers(study),
        code_version=slices.code_version("concepts", slices.concepts(study)),
        group_name="concepts",
        kinds={"parquet"},
        pool="gpu",
        op_tags=ray_resources(study),
        description=explained(
            "Which concepts have a latent, against how often the training text holds them, and directions written with few latents.",
            reads=f"the first arm of every cell, and activations of {', '.join(sets)}.",
            makes=f"detection per concept, fits against frequency, and the latents of every direction. {describe_layers(study)}",
        ),
    )
    def measured(context: dg.AssetExecutionContext, home: HomeResource, compute: ComputeResource) -> dg.MaterializeResult:
        opened = home.open()
        found = concepts.measure(StudyContext(study, opened, compute.open(opened)), point_of(study, context.partition_key))
        lists = {name: ", ".join(found.summary[name]) or "none" for name in ("directions", "saes")}
        return result([found], version=found.fingerprint, figures=found.summary | lists)

    return measured


def concept_tables_asset(study: Study) -> dg.AssetsDefinition:
    """The tables of all hook points."""
    description = "The concept study of every hook point in one table per kind of row."
    return gathered_asset(study, "concepts", concepts.gather, ["concepts"], slices.concepts(study), description)

"""The partitions of a study: layers, and the grid of layers and expansion factors."""

import dagster as dg

from sae_pipeline.study import Study, expansion_key

LAYER = "layer"
EXPANSION = "sae_expansion"
"""Dimension names sort, so a grid key reads ``L08|x16``."""


def layers(study: Study) -> dg.StaticPartitionsDefinition:
    """One partition per layer (and site, where it is not the default), in the study's order."""
    return dg.StaticPartitionsDefinition([point.key for point in study.hook_points])


def describe_layers(study: Study) -> str:
    """What the partitions of :func:`layers` are."""
    sites = ", ".join(f"`{site}`" for site in study.activations.sites)
    first = study.hook_points[0]
    return f"One partition per layer: `{first.key}` is `{first.site}` of block {first.layer}. This study looks at {sites} of {_blocks(study)}."


def describe_grid(study: Study) -> str:
    """What the partitions of :func:`grid` are."""
    first, expansion = study.hook_points[0], study.saes.expansions[0]
    factors = ", ".join(f"{e:g}" for e in study.saes.expansions)
    return (
        f"One partition per cell: `{first.key}|{expansion_key(expansion)}` is `{first.site}` of block {first.layer} with {expansion:g} latents per "
        f"activation dimension. This study looks at {_blocks(study)} and at expansion factors {factors}."
    )


def _blocks(study: Study) -> str:
    layers = study.activations.layers
    return f"block{'s' if len(layers) > 1 else ''} {', '.join(map(str, layers))}"


def grid(study: Study) -> dg.MultiPartitionsDefinition:
    """One partition per cell: layer x expansion factor."""
    expansions = dg.StaticPartitionsDefinition([expansion_key(e) for e in study.saes.expansions])
    return dg.MultiPartitionsDefinition({LAYER: layers(study), EXPANSION: expansions})

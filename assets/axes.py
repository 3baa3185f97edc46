"""Tags of an asset along the axes of its study: what the filter of the graph and of the catalogue offers."""

import dagster as dg

from sae_pipeline.study import Study

WITH_SAES = ("saes", "metrics", "scorecard")
"""Stages of a lane whose partitions hold SAEs."""


def axes(study: Study, key: dg.AssetKey) -> dict[str, str]:
    """The place of an asset in its study.

    ``study`` and ``stage``; of a lane also ``lane`` (training or evaluation), ``mix`` or ``evaluation_set`` with its
    ``set_kind``, and ``source/<name>`` with the share of the text; ``architecture/<name>`` and ``site/<name>`` where the
    asset holds them. Layer and expansion factor are partitions.
    """
    place = key.path[1:]
    tags = {"study": study.name, "stage": place[-1]}
    if place[0] == "sources":
        return tags | {"stage": "source", "source_kind": study.sources[place[1]].kind}
    if place[0] == "held_out":
        declared = study.held_out[place[1]]
        tags |= {"lane": "evaluation", "evaluation_set": place[1], "set_kind": declared.kind} | _shares(declared.shares)
    elif place[0] in study.mixes:
        tags |= {"lane": "training", "mix": place[0]} | _shares(study.mixes[place[0]])
    if place[-1] in WITH_SAES:
        tags |= {f"architecture/{group.architecture}": "" for group in study.saes.arms if place[0] in (group.only.mixes or study.mixes)}
    if place[-1] in (*WITH_SAES, "activations", "baseline"):
        tags |= {f"site/{site}": "" for site in study.activations.sites}
    return tags


def _shares(shares: dict[str, float]) -> dict[str, str]:
    return {f"source/{name}": f"{share:g}" for name, share in shares.items() if share > 0}

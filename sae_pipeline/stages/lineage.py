"""The chain from text to number: every artifact that a study's tables rest on, with what it was made from."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sae_pipeline.stages import upstream
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact

if TYPE_CHECKING:
    import pandas as pd

UPSTREAM = (
    "subject",
    "generated",
    "retrieved",
    "corpus",
    "activations",
    "surveys",
    "spelling",
    "baselines",
    "saes",
    "positions",
    "matching",
    "layer_matches",
    "concepts",
)
"""Stages that the tables rest on; what comes after them is named by the tables themselves."""


def rows(ctx: StudyContext) -> pd.DataFrame:
    """One row per artifact: stage, what it is in this study, fingerprint, content, inputs, when, how long, libraries."""
    import pandas as pd

    return pd.DataFrame([_row(what, artifact) for what, artifact in upstream.artifacts(ctx) if artifact.stage in UPSTREAM])


def _row(what: str, artifact: Artifact) -> dict[str, object]:
    manifest = artifact.manifest
    return {
        "artifact_stage": artifact.stage,
        "what": what,
        "fingerprint": artifact.fingerprint,
        "content": artifact.content,
        "inputs": json.dumps(artifact.inputs, sort_keys=True),
        "created": manifest["created"],
        "seconds": manifest["seconds"],
        "libraries": json.dumps(manifest["libraries"], sort_keys=True),
    }

"""The study's SAEs as a user asks for them: listed with their main metrics, or looked up by its name."""

from __future__ import annotations

import math
from typing import Any

from sae_pipeline.errors import BadInput, TrainingError
from sae_pipeline.stages import saes, tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact
from sae_pipeline.study import cells


def inventory(ctx: StudyContext) -> list[dict[str, Any]]:
    """One row per SAE and evaluation set: the whole configuration and every metric, JSON-like."""
    gathered = tables.study_tables(tables.need(ctx))
    joined = gathered.saes.merge(gathered.sae_metrics, on="sae_id")
    return [{name: _plain(value) for name, value in row.items()} for row in joined.to_dict("records")]


def _plain(value: Any) -> Any:
    value = value.tolist() if hasattr(value, "tolist") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value


def find_sae(ctx: StudyContext, sae_id: str) -> Artifact:
    """The stored SAE of that name.

    Raises:
        BadInput: the study declares no such SAE.
        TrainingError: it diverged.
    """
    for cell in cells(ctx.study):
        for label in cell.arms:
            if cell.sae_id(label) == sae_id:
                trained = saes.need(ctx, cell.mix, cell.point, cell.expansion)
                if label in trained.diverged:
                    stopped = trained.diverged[label].summary
                    raise TrainingError(
                        f"{sae_id}: expected a trained SAE, found that it diverged at step {stopped['step']} of {stopped['steps']}; "
                        "lower learning_rate or lengthen warmup_share in its entry of saes.arms and run again"
                    )
                return trained.saes[label]
    raise BadInput(
        f"SAE_ID: expected an SAE of the study '{ctx.study.name}', found '{sae_id}'; `sae-pipeline saes` lists them, and --study names another study"
    )

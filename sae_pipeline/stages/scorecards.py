"""The scorecard stage: all SAEs of a lane at one hook point, with their configuration, metrics and health marks."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sae_pipeline.stages import activations, evaluation, saes, slices, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, digest
from sae_pipeline.study import HookPoint, d_sae_of, expansion_key

NULLABLE: dict[str, Any] = {"k": "Int64", "target_l0": float, "trunk_tokens": "Int64", "warm_start": "string", "warm_start_content": "string"}
"""Types of columns that may be null in every row."""


def _identity(ctx: StudyContext, mix: str, point: HookPoint, cells: list[Artifact]) -> tuple[str, dict[str, Any]]:
    inputs = {
        "study": slices.scorecard(ctx.study, mix),
        "cells": {expansion_key(expansion): cell.fingerprint for expansion, cell in zip(ctx.study.saes.expansions, cells, strict=True)},
        "subject_parameters": subject.need(ctx).record["parameters"],
        "mix": mix,
        "point": point.key,
    }
    return digest("scorecard", slices.VERSIONS["scorecard"], inputs), inputs


def find(ctx: StudyContext, mix: str, point: HookPoint) -> Artifact | None:
    """The scorecard of a lane at a layer, if it has been drawn up."""
    cells = [evaluation.find(ctx, mix, point, expansion) for expansion in ctx.study.saes.expansions]
    present = [cell for cell in cells if cell is not None]
    if len(present) < len(cells):
        return None
    return ctx.store.find("scorecard", _identity(ctx, mix, point, present)[0])


def need(ctx: StudyContext, mix: str, point: HookPoint) -> Artifact:
    """The scorecard of a lane at a layer, which must exist."""
    cells = [evaluation.need(ctx, mix, point, expansion) for expansion in ctx.study.saes.expansions]
    return ctx.store.open("scorecard", _identity(ctx, mix, point, cells)[0])


def draw(ctx: StudyContext, mix: str, point: HookPoint) -> Artifact:
    """All SAEs of a lane at one layer: configuration, metrics and health marks."""
    cells = [evaluation.need(ctx, mix, point, expansion) for expansion in ctx.study.saes.expansions]
    fingerprint, inputs = _identity(ctx, mix, point, cells)
    with ctx.store.draft("scorecard", fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        import pandas as pd

        from sae_pipeline.analysis.health.marks import disagreements, judge
        from sae_pipeline.analysis.health.rubrics import load_rubrics

        described: list[dict[str, Any]] = []
        metrics: list[pd.DataFrame] = []
        for expansion, cell in zip(ctx.study.saes.expansions, cells, strict=True):
            trained = saes.need(ctx, mix, point, expansion)
            described += [_describe(ctx, trained, label) for label in trained.saes]
            if trained.saes:
                frame = pd.read_parquet(cell.file("metrics.parquet"))
                frame.insert(0, "sae_id", [trained.cell.sae_id(label) for label in frame.pop("arm")])
                frame.insert(2, "kind", [ctx.study.held_out[name].kind for name in frame["evaluation_set"]])
                frame.insert(3, "shared_text", [ctx.study.shared_text(mix, name) for name in frame["evaluation_set"]])
                metrics.append(frame)
        table = pd.DataFrame(described).astype(NULLABLE if described else {})
        rows = pd.concat(metrics, ignore_index=True) if metrics else pd.DataFrame()
        table.to_parquet(draft.path / "saes.parquet", index=False)
        rows.to_parquet(draft.path / "sae_metrics.parquet", index=False)
        rubrics = load_rubrics(ctx.study.analysis.rubrics)
        health = judge(rubrics, rows, table, inputs["subject_parameters"])
        health.to_parquet(draft.path / "health.parquet", index=False)
        disputed = disagreements(health)
        disputed.to_parquet(draft.path / "rubric_disagreements.parquet", index=False)
        marks = health.loc[health["rubric"] == rubrics[0].name, "mark"].value_counts().to_dict()
        figures = {"saes": len(table), "marks": {str(mark): int(n) for mark, n in marks.items()}, "rubric_disagreements": len(disputed)}
        if metrics:
            figures |= {f"mean_{name}": float(rows[name].mean()) for name in ("explained_variance", "l0", "dead_share")}
        return draft.publish(figures)


def _describe(ctx: StudyContext, trained: saes.TrainedCell, label: str) -> dict[str, Any]:
    """One row of ``saes``: the whole configuration of an SAE."""
    cell, sae, arm = trained.cell, trained.saes[label], trained.cell.arms[label]
    d_model = activations.need(ctx, cell.mix, cell.point).summary["d_model"]
    shares = {f"share_{name}": ctx.study.mixes[cell.mix].get(name, 0.0) for name in ctx.study.sources}
    d_sae = d_sae_of(cell.expansion, d_model)
    return {
        "sae_id": cell.sae_id(label),
        "mix": cell.mix,
        "layer": cell.point.layer,
        "site": cell.point.site,
        "expansion": float(cell.expansion),
        "d_model": d_model,
        "d_sae": d_sae,
        "arm": label,
        **asdict(arm),
        "sparsity": float(arm.sparsity),
        "learning_rate": sae.summary["learning_rate"],
        "fingerprint": sae.fingerprint,
        "path": str(sae.folder),
        "train_seconds": sae.summary["seconds"],
        "final_loss": sae.summary["final_loss"],
        "final_l0": sae.summary["final_l0"],
        "trunk_steps": sae.summary["trunk_steps"],
        **shares,
    }

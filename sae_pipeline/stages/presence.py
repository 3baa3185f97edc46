"""Whether the store still holds what an asset partition stands for."""

from __future__ import annotations

from sae_pipeline.stages import (
    activations,
    concepts,
    conclusion,
    corpora,
    derived,
    evaluation,
    findings,
    history,
    matching,
    positions,
    reports,
    rubric_review,
    saes,
    scorecards,
    subject,
    tables,
    text,
    versions,
)
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import HookPoint


def present(ctx: StudyContext, lane: str, stage: str, point: HookPoint | None, expansion: float | None) -> bool:
    """True when the artifact can be found, or when it cannot be told because something upstream is missing first.

    ``lane`` is a mix, ``held_out/<set>`` or empty; ``stage`` the last part of the asset's key.
    """
    held_out = lane.removeprefix("held_out/")
    match stage, point, expansion:
        case "subject_model", None, None:
            return subject.find(ctx) is not None
        case _, None, None if lane == "sources":
            return derived.find(ctx, stage) is not None
        case "corpus", None, None:
            return subject.find(ctx) is None or corpora.find(ctx, lane) is not None
        case "activations", HookPoint(), None:
            return corpora.find(ctx, lane) is None or activations.find(ctx, lane, point) is not None
        case "baseline", HookPoint(), None:
            return activations.find(ctx, lane, point) is None or evaluation.find_baseline(ctx, held_out, point) is not None
        case "saes", HookPoint(), float() | int():
            return activations.find(ctx, lane, point) is None or saes.find(ctx, lane, point, expansion) is not None
        case "metrics", HookPoint(), float() | int():
            return saes.find(ctx, lane, point, expansion) is None or evaluation.is_complete(ctx, lane, point, expansion)
        case "scorecard", HookPoint(), None:
            upstream = (evaluation.find(ctx, lane, point, e) for e in ctx.study.saes.expansions)
            return any(cell is None for cell in upstream) or scorecards.find(ctx, lane, point) is not None
        case "positions", HookPoint(), None:
            _, mix, expansion = ctx.study.read_for_positions
            return saes.find(ctx, mix, point, expansion) is None or positions.find(ctx, point) is not None
        case "position_tables", None, None:
            missing = any(positions.find(ctx, point) is None for point in ctx.study.hook_points)
            return missing or positions.find_tables(ctx) is not None
        case "feature_matches", HookPoint(), None:
            evaluated = (evaluation.find(ctx, mix, point, e) for mix in ctx.study.mixes for e in ctx.study.saes.expansions)
            return any(cell is None for cell in evaluated) or matching.find(ctx, point) is not None
        case "layer_matches", None, None:
            return matching.find_layers(ctx) is not None or any(matching.find(ctx, point) is None for point in ctx.study.hook_points)
        case "match_tables", None, None:
            matched = (*(matching.find(ctx, point) for point in ctx.study.hook_points), matching.find_layers(ctx))
            return None in matched or matching.find_tables(ctx) is not None
        case "concepts", HookPoint(), None:
            cells = (saes.find(ctx, mix, point, e) for mix in ctx.study.mixes for e in ctx.study.saes.expansions)
            return any(cell is None for cell in cells) or text.find(ctx) is None or concepts.find(ctx, point) is not None
        case "concept_tables", None, None:
            missing = any(concepts.find(ctx, point) is None for point in ctx.study.hook_points)
            return missing or concepts.find_tables(ctx) is not None
        case "text_tables", None, None:
            return not text.can_be_described(ctx) or text.find(ctx) is not None
        case "metric_tables", None, None:
            return tables.find(ctx) is not None and conclusion.is_published(ctx)
        case "evaluation_history", None, None:
            return history.is_recorded(ctx) and history.is_gathered(ctx)
        case "versions", None, None:
            return bool(versions.copies(ctx))
        case "rubric_review", None, None:
            return tables.find(ctx) is None or rubric_review.is_published(ctx)
        case "findings", None, None:
            return tables.find(ctx) is None or findings.find(ctx) is not None
        case "comparison_report", None, None:
            return findings.find(ctx) is None or reports.is_published(ctx)
    raise ValueError(f"no asset partition is called {lane}/{stage} with hook point {point} and expansion {expansion}")

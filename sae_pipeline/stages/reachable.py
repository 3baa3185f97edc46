"""Every artifact that a study rests on, as far as it has been computed: what lineage tells and what cleaning up keeps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

from sae_pipeline.stages import (
    activations,
    concepts,
    corpora,
    derived,
    evaluation,
    findings,
    foreign,
    history,
    matching,
    positions,
    reports,
    rubric_review,
    saes,
    scorecards,
    sources,
    spelling,
    subject,
    tables,
    text,
)
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact


def artifacts(ctx: StudyContext) -> Iterator[tuple[str, Artifact]]:
    """(what it is in this study, artifact), upstream first; what is not in the store is left out."""
    for what, find in _finders(ctx):
        if (artifact := find()) is not None:
            yield what, artifact
    for mix, point, expansion in product(ctx.study.mixes, ctx.study.hook_points, ctx.study.saes.expansions):
        trained = saes.partial(ctx, mix, point, expansion)
        yield from ((trained.cell.sae_id(label), artifact) for label, artifact in (trained.saes | trained.diverged).items())
        yield from evaluation.found(ctx, trained)
    yield from foreign.found(ctx)


def under_way(ctx: StudyContext) -> Iterator[tuple[str, str]]:
    """(stage, fingerprint) of every SAE that the study asks for: its half-finished draft holds a checkpoint to go on from."""
    for mix, point, expansion in product(ctx.study.mixes, ctx.study.hook_points, ctx.study.saes.expansions):
        yield from ((saes.STAGE, fingerprint) for fingerprint in saes.expected(ctx, mix, point, expansion)[1].values())


def _finders(ctx: StudyContext) -> Iterator[tuple[str, Callable[[], Artifact | None]]]:
    study, points = ctx.study, ctx.study.hook_points
    yield "subject_model", lambda: found.artifact if (found := subject.find(ctx)) else None
    for name in study.sources:
        if not sources.is_external(ctx, name):
            yield f"sources/{name}", partial(derived.find, ctx, name)
    for lane in [*study.mixes, *(f"held_out/{name}" for name in study.held_out)]:
        yield f"{lane}/corpus", partial(corpora.find, ctx, lane)
        yield f"{lane}/text", partial(text.find_lane, ctx, lane)
        for point in points:
            yield f"{lane}/activations {point.key}", partial(activations.find, ctx, lane, point)
    for point in points:
        yield f"spelling {point.key}", partial(spelling.find, ctx, point)
    for name, point in product(study.held_out, points):
        yield f"held_out/{name}/baseline {point.key}", partial(evaluation.find_baseline, ctx, name, point)
    for mix, point in product(study.mixes, points):
        yield f"{mix}/scorecard {point.key}", partial(scorecards.find, ctx, mix, point)
    if study.positions is not None:
        for point in points:
            yield f"positions {point.key}", partial(positions.find, ctx, point)
    if study.matching is not None:
        for point in points:
            yield f"feature_matches {point.key}", partial(matching.find, ctx, point)
        yield "layer_matches", partial(matching.find_layers, ctx)
    if study.concepts is not None:
        for point in points:
            yield f"concepts {point.key}", partial(concepts.find, ctx, point)
    yield "text_tables", partial(text.find, ctx)
    yield "position_tables", partial(positions.find_tables, ctx)
    yield "match_tables", partial(matching.find_tables, ctx)
    yield "concept_tables", partial(concepts.find_tables, ctx)
    yield "metric_tables", partial(tables.find, ctx)
    yield "evaluation_history", partial(history.find, ctx)
    yield "rubric_review", partial(rubric_review.find, ctx)
    yield "findings", partial(findings.find, ctx)
    yield "comparison_report", partial(reports.find, ctx)

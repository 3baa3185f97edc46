"""Everything that a study's tables rest on, as far as it has been computed: text, activations, SAEs, and what was measured on them.

Apart from :mod:`sae_pipeline.stages.reachable`, which adds what is made of the tables: they list these artifacts as their lineage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product

from sae_pipeline.stages import activations, concepts, corpora, derived, evaluation, matching, positions, saes, sources, spelling, subject, text
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact
from sae_pipeline.study import HookPoint


def artifacts(ctx: StudyContext) -> Iterator[tuple[str, Artifact]]:
    """(what it is in this study, artifact), upstream first; what is not in the store is left out."""
    for what, find in _finders(ctx):
        if (artifact := find()) is not None:
            yield what, artifact
    for mix, point, expansion in product(ctx.study.mixes, ctx.study.hook_points, ctx.study.saes.expansions):
        yield from _trained(ctx, mix, point, expansion)


def of_cell(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> Iterator[tuple[str, Artifact]]:
    """The same for one cell: what its SAEs and their metrics rest on, and themselves, without a look at the study's other cells."""
    lanes = [mix, *(f"held_out/{name}" for name in ctx.study.held_out)]
    parts = ("corpus", f"activations {point.key}", f"baseline {point.key}")
    rests_on = {"subject_model", *(f"sources/{name}" for name in ctx.study.sources), *(f"{lane}/{part}" for lane in lanes for part in parts)}
    for what, find in _finders(ctx):
        if what in rests_on and (artifact := find()) is not None:
            yield what, artifact
    yield from _trained(ctx, mix, point, expansion)


def _trained(ctx: StudyContext, mix: str, point: HookPoint, expansion: float) -> Iterator[tuple[str, Artifact]]:
    trained = saes.partial(ctx, mix, point, expansion)
    yield from ((trained.cell.sae_id(label), artifact) for label, artifact in (trained.saes | trained.diverged).items())
    yield from evaluation.found(ctx, trained)


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

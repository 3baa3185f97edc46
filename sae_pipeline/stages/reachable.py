"""Every artifact that a study rests on, as far as it has been computed: what lineage tells and what cleaning up keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
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
from sae_pipeline.store import Artifact, Home, Store
from sae_pipeline.study import HookPoint

Address = tuple[str, str]
"""Stage and fingerprint."""

LEAVES = (spelling.ABSORPTION, rubric_review.STAGE, reports.STAGE, history.STAGE, foreign.TABLES_STAGE)
"""Stages that no other is identified by: what they lack hides nothing."""


def artifacts(ctx: StudyContext) -> Iterator[tuple[str, Artifact]]:
    """(what it is in this study, artifact), upstream first; what is not in the store is left out."""
    for what, find in _finders(ctx):
        if (artifact := find()) is not None:
            yield what, artifact
    for mix, point, expansion in product(ctx.study.mixes, ctx.study.hook_points, ctx.study.saes.expansions):
        yield from _trained(ctx, mix, point, expansion)
    yield from foreign.found(ctx)


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


def asked_for(ctx: StudyContext) -> dict[Address, bool]:
    """Everything that the study asks the store for, and whether it is there; what is not may lie there as a half-finished draft.

    What is made from something that is missing cannot be asked for: its fingerprint is not known.
    """
    asking = _AskingHome(ctx.home.root)
    deque(artifacts(replace(ctx, home=asking)), maxlen=0)  # to its end, for what it asks on the way
    return asking.asked


@dataclass(frozen=True)
class _AskedStore(Store):
    """A store that writes down what it is asked for."""

    asked: dict[Address, bool] = field(default_factory=dict)

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        found = super().find(stage, fingerprint)
        self.asked[stage, fingerprint] = found is not None
        return found


@dataclass(frozen=True)
class _AskingHome(Home):
    """A home whose store writes down what it is asked for."""

    asked: dict[Address, bool] = field(default_factory=dict)

    @property
    def store(self) -> Store:
        store = super().store
        return _AskedStore(store.root, store.shared, self.asked)


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

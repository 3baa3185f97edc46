"""Every artifact that a study rests on, as far as it has been computed: what lineage tells and what cleaning up keeps."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import product

from sae_pipeline.stages import (
    concepts,
    findings,
    foreign,
    history,
    matching,
    positions,
    reports,
    rubric_review,
    scorecards,
    spelling,
    tables,
    text,
    upstream,
)
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, Home, Store

Address = tuple[str, str]
"""Stage and fingerprint."""

LEAVES = (spelling.ABSORPTION, rubric_review.STAGE, reports.STAGE, history.STAGE, foreign.TABLES_STAGE)
"""Stages that no other is identified by: what they lack hides nothing."""


def artifacts(ctx: StudyContext) -> Iterator[tuple[str, Artifact]]:
    """(what it is in this study, artifact), upstream first; what is not in the store is left out."""
    yield from upstream.artifacts(ctx)
    for what, find in _finders(ctx):
        if (artifact := find()) is not None:
            yield what, artifact
    yield from foreign.found(ctx)


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
    """What is made of what the tables rest on."""
    for mix, point in product(ctx.study.mixes, ctx.study.hook_points):
        yield f"{mix}/scorecard {point.key}", partial(scorecards.find, ctx, mix, point)
    yield "text_tables", partial(text.find, ctx)
    yield "position_tables", partial(positions.find_tables, ctx)
    yield "match_tables", partial(matching.find_tables, ctx)
    yield "concept_tables", partial(concepts.find_tables, ctx)
    yield "metric_tables", partial(tables.find, ctx)
    yield "evaluation_history", partial(history.find, ctx)
    yield "rubric_review", partial(rubric_review.find, ctx)
    yield "findings", partial(findings.find, ctx)
    yield "comparison_report", partial(reports.find, ctx)

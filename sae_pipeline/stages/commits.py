"""Which commit a branch of the hub stands for, settled once for a launch and shared by all of its processes.

Every asset opens the study anew. Were each of them to ask the hub, a branch that moves within a run would put different
commits into one comparison. So the first to ask writes the answer into the home, and everyone else reads it there, until
a new launch, or a new look at the source in Dagster, asks again (:func:`sae_pipeline.stages.sources.observe`).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import digest, exclusive, storage_errors, write_json

FOLDER = "commits"


def settled(ctx: StudyContext, kind: str, repository: str, revision: str | None, ask: Callable[[], str]) -> str:
    """The recorded commit of a branch or tag, from ``ask`` when none is recorded.

    Args:
        ctx: the study; its launches are told apart from those of other studies.
        kind: ``dataset`` or ``encoder``.
        repository: hub id.
        revision: branch or tag; None is the default branch.
        ask: asks the hub.
    """
    record = _record(ctx, kind, repository, revision)
    with storage_errors(record.parent, missing=True):
        record.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(record.with_suffix(".lock")):
            try:
                return json.loads(record.read_text())["commit"]
            except (FileNotFoundError, ValueError, KeyError, TypeError):  # not asked yet, or a record that cannot be read
                commit = ask()
            write_json(record, {"kind": kind, "repository": repository, "revision": revision, "commit": commit})
            return commit


def forget(ctx: StudyContext, kind: str, repository: str, revision: str | None) -> None:
    """Have the branch asked for anew, by the next who wants to know."""
    record = _record(ctx, kind, repository, revision)
    with storage_errors(record.parent):
        record.unlink(missing_ok=True)


def _record(ctx: StudyContext, kind: str, repository: str, revision: str | None) -> Path:
    return ctx.home.root / FOLDER / ctx.study.name / f"{digest(kind, repository, revision)}.json"

"""A study against its own earlier self: copies of its warehouse kept for good, and a page on what changed since the last one."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_pipeline.errors import BadInput, StorageError
from sae_pipeline.stages import comparison
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import exclusive, storage_errors


@dataclass(frozen=True)
class Compared:
    """What came of holding a study against its last copy."""

    copy: Path
    """The copy that stands for the study as it is now."""
    new: bool
    """Whether it was made just now."""
    found: dict[str, Any]
    """``page``, ``headline`` and counts; or ``note`` where there was nothing to compare."""


def copies(ctx: StudyContext) -> list[Path]:
    """The warehouses kept of this study, the oldest first."""
    return sorted(ctx.home.versions(ctx.study.name).glob("*.duckdb"))


def compare_with_last(ctx: StudyContext) -> Compared:
    """Compare the study's warehouse with the last copy of it, and keep a copy of this one where they differ.

    Raises:
        StorageError: the study has no warehouse yet.
    """
    current, folder = ctx.home.warehouse(ctx.study.name), ctx.home.versions(ctx.study.name)
    if not current.exists():
        raise StorageError(f"{current}: expected the study's warehouse, found none; run `sae-pipeline run` first")
    with storage_errors(folder, missing=True), exclusive(ctx.home.locks / f"versions-{ctx.study.name}.lock"):
        earlier = copies(ctx)
        if earlier and _contents(earlier[-1]) == _contents(current):
            return Compared(earlier[-1], False, {"note": "nothing changed since the last copy"})
        folder.mkdir(parents=True, exist_ok=True)
        name = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
        found: dict[str, Any] = {"note": "the first copy: the next one is compared with it"}
        if earlier:
            try:
                found = comparison.compare(str(earlier[-1]), str(current), folder / name)
            except BadInput as error:  # no SAE in common, or a copy that an older version of this program wrote
                found = {"note": str(error)}
        copy = next(path for n in range(10_000) if not (path := folder / (f"{name}.duckdb" if n == 0 else f"{name}-{n}.duckdb")).exists())
        draft = folder / ".draft"
        shutil.copyfile(current, draft)
        draft.rename(copy)
    return Compared(copy, True, found)


def _contents(warehouse: Path) -> list[Any]:
    """Which artifacts a warehouse was built from, the recorded evaluations apart: they change nothing that is compared."""
    import duckdb

    with duckdb.connect(str(warehouse), read_only=True) as connection:
        return sorted(connection.execute("SELECT stage, fingerprint FROM contents WHERE stage <> 'history'").fetchall())

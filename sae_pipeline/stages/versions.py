"""A study against its own earlier self: copies of its warehouse kept for good, and a page on what changed since the last one."""

from __future__ import annotations

import logging
import re
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sae_pipeline.errors import BadInput, StorageError
from sae_pipeline.stages import comparison, foreign, history
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import exclusive, storage_errors

logger = logging.getLogger(__name__)

BESIDES = (history.STAGE, foreign.TABLES_STAGE)
"""Stages whose tables a warehouse holds beside the study's own results: recorded evaluations and SAEs made elsewhere change none of what is compared."""


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
    return sorted(ctx.home.versions(ctx.study.name).glob("[!.]*.duckdb"), key=_age)


def _age(copy: Path) -> tuple[str, int]:
    """When a copy was made, and which of several of one second it is."""
    named = re.fullmatch(r"(.+Z)-(\d+)", copy.stem)
    return (named[1], int(named[2])) if named else (copy.stem, 0)


def compare_with_last(ctx: StudyContext) -> Compared:
    """Compare the study's warehouse with the last copy of it, and keep a copy of this one where they differ.

    A copy that cannot be read is left out with a warning: the last one before it is taken.

    Raises:
        StorageError: the study has no warehouse yet, or one that cannot be read.
    """
    current, folder = ctx.home.warehouse(ctx.study.name), ctx.home.versions(ctx.study.name)
    if not current.exists():
        raise StorageError(f"{current}: expected the study's warehouse, found none; run `sae-pipeline run` first")
    with storage_errors(folder, missing=True), exclusive(ctx.home.locks / f"versions-{ctx.study.name}.lock"):
        earlier, contents = _last_readable(ctx), _contents(current)
        if isinstance(contents, str):
            raise StorageError(
                f"{current}: expected the study's warehouse, found a file that DuckDB cannot read ({contents}); close what has it open, or build it "
                "again with `sae-pipeline report STUDY`"
            )
        if earlier is not None and earlier[1] == contents:
            return Compared(earlier[0], False, {"note": "nothing changed since the last copy"})
        folder.mkdir(parents=True, exist_ok=True)
        name = time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime())
        copy = next(path for n in range(10_000) if not (path := folder / (f"{name}.duckdb" if n == 0 else f"{name}-{n}.duckdb")).exists())
        found: dict[str, Any] = {"note": "the first copy: the next one is compared with it"}
        if earlier is not None:
            try:
                found = comparison.compare(str(earlier[0]), str(current), folder / copy.stem)
            except BadInput as error:  # no SAE in common, or a copy that an older version of this program wrote
                found = {"note": str(error)}
        draft = folder / ".draft"
        shutil.copyfile(current, draft)
        draft.rename(copy)
    return Compared(copy, True, found)


def _last_readable(ctx: StudyContext) -> tuple[Path, list[Any]] | None:
    """The last copy that can be read, with what it was built from; None where there is none."""
    for copy in reversed(copies(ctx)):
        contents = _contents(copy)
        if not isinstance(contents, str):
            return copy, contents
        logger.warning(
            "%s: expected a kept copy of the study's warehouse, found a file that DuckDB cannot read (%s); the study is compared without it, and "
            "`sae-pipeline doctor --repair` puts it aside",
            copy,
            contents,
        )
    return None


def _contents(warehouse: Path) -> list[Any] | str:
    """Which artifacts of the study's own a warehouse was built from; why it cannot be read, where it cannot."""
    import duckdb

    try:
        with duckdb.connect(str(warehouse), read_only=True) as connection:
            found = connection.execute("SELECT stage, fingerprint FROM contents").fetchall()
    except duckdb.CatalogException:  # of an older version of this program, which did not say
        return []
    except duckdb.Error as error:
        return str(error).splitlines()[0]
    return sorted(row for row in found if row[0] not in BESIDES)

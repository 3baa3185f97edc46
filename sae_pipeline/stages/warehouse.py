"""The study's ``warehouse.duckdb``: every table of its artifacts in one file, built anew in one rename.

The file says itself which artifacts it holds (table ``contents``), so a copy that lacks something is told from a whole one.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from sae_pipeline.errors import StorageError
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, flush, storage_errors


def publish(ctx: StudyContext, artifacts: list[Artifact]) -> Path:
    """Write the Parquet files of the artifacts as tables, unless the warehouse holds just these already."""
    import duckdb

    target = ctx.home.warehouse(ctx.study.name)
    if holds(ctx, artifacts):
        return target
    with storage_errors(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary = target.with_name(f".{target.name}")
        _remove(temporary)  # of a process that was killed
        try:
            with duckdb.connect(str(temporary)) as connection:
                connection.execute("CREATE TABLE contents (stage VARCHAR, fingerprint VARCHAR)")
                connection.executemany("INSERT INTO contents VALUES (?, ?)", [[artifact.stage, artifact.fingerprint] for artifact in artifacts])
                for artifact in artifacts:
                    for name in artifact.manifest["files"]:
                        if name.endswith(".parquet"):
                            connection.execute(f'CREATE TABLE "{Path(name).stem}" AS SELECT * FROM read_parquet(?)', [str(artifact.file(name))])
            flush(temporary)
        except (duckdb.OperationalError, duckdb.FatalException) as error:  # no room, or no right to write
            _remove(temporary)
            raise StorageError(
                f"{target}: expected to write the warehouse, found: {str(error).splitlines()[0]}; free space or give the right to write there, then run again (finished work is kept)"
            ) from error
        os.replace(temporary, target)
    return target


def _remove(unfinished: Path) -> None:
    """Remove a warehouse in the making, with DuckDB's files beside it."""
    for file in unfinished.parent.glob(f"{unfinished.name}*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()


def holds(ctx: StudyContext, artifacts: list[Artifact]) -> bool:
    """Whether the warehouse was built from exactly these artifacts."""
    import duckdb

    target = ctx.home.warehouse(ctx.study.name)
    if not target.exists():
        return False
    try:
        with duckdb.connect(str(target), read_only=True) as connection:
            found = connection.execute("SELECT stage, fingerprint FROM contents").fetchall()
    except duckdb.Error:  # cut short, or from another version
        return False
    return sorted(found) == sorted((artifact.stage, artifact.fingerprint) for artifact in artifacts)

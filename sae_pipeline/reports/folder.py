"""The folder of a report that a user names: it takes the place of an earlier report and of nothing else."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sae_pipeline.errors import BadInput, StorageError
from sae_pipeline.store.locks import exclusive

PAGE = "index.html"


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write a report into, which becomes ``folder`` when all has been written.

    It lies beside ``folder`` under a hidden name, and one report at a time is written there: what is found under that name is
    left of a writer that was killed, and is removed.

    Raises:
        BadInput: ``folder`` holds other files than an earlier report's, or cannot be written.
        StorageError: the disk is full.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / PAGE).exists() or not any(folder.iterdir()))):
        raise BadInput(f"{folder}: expected a new folder or one with an earlier report, found other files; choose another with --to")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(folder.parent / f".{folder.name}.lock", keep=False):
            fresh = folder.parent / f".{folder.name}.unfinished"
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            try:
                yield fresh
                shutil.rmtree(folder, ignore_errors=True)
                fresh.rename(folder)
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(f"{folder}: expected room to write, found the disk full; free space or choose another place with --to") from error
        raise BadInput(f"{folder}: expected a folder that can be written, found: {error.strerror}; choose another with --to") from error

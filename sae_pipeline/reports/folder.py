"""The folder of a report that a user names: it takes the place of an earlier report and of nothing else."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sae_pipeline.errors import BadInput
from sae_pipeline.store import storage_errors

PAGE = "index.html"


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write a report into, which becomes ``folder`` when all has been written.

    Raises:
        BadInput: ``folder`` holds other files than an earlier report's.
        StorageError: it cannot be written.
    """
    if folder.exists() and not (folder.is_dir() and ((folder / PAGE).exists() or not any(folder.iterdir()))):
        raise BadInput(f"{folder}: expected a new folder or one with an earlier report, found other files; choose another with --to")
    with storage_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as made:
            fresh = Path(made) / "report"
            fresh.mkdir()
            yield fresh
            shutil.rmtree(folder, ignore_errors=True)
            fresh.rename(folder)

"""The folder of a report: what lies in it, and that it takes the place of an earlier report and of nothing else."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from sae_pipeline.errors import BadInput, StorageError
from sae_pipeline.store.locks import exclusive

PAGE = "index.html"
MARKDOWN = "report.md"
FINDINGS = "findings.json"
FIGURES = "figures"
FEATURES = "features"

FOLDERS = (FIGURES, FEATURES)
WRITTEN = (PAGE, MARKDOWN, FINDINGS, f"{FIGURES}/*.png", f"{FIGURES}/*.csv", f"{FEATURES}/*.html")
"""The folders and files that a report writes."""

MARK = '<meta name="generator" content="sae-pipeline">'
"""In the head of every page of ours: an ``index.html`` without it is somebody's own."""

EARLIER = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-"
"""In the head of pages that were written before there was a mark."""

HEAD_BYTES = 4096
"""The mark stands within as many bytes of a page."""


@contextmanager
def report_folder(folder: Path) -> Iterator[Path]:
    """An empty folder to write a report into, which becomes ``folder`` when all has been written.

    It lies beside ``folder`` under a hidden name, and one report at a time is written there: what is found under that name is
    left of a writer that was killed, and is removed.

    Raises:
        BadInput: ``folder`` holds anything that no report wrote, is the one this process runs in, or cannot be written.
        StorageError: the disk is full.
    """
    folder = Path(os.path.realpath(folder))
    with _refusals(folder):
        _check(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(folder.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    with exclusive(folder.parent / f".{folder.name}.lock", keep=False):
        fresh = folder.parent / f".{folder.name}.unfinished"
        with _refusals(folder):
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
        try:
            with _disk_full(folder):
                yield fresh
            with _refusals(folder):
                _check(folder)  # again: files may have come while the report was made
                if folder.exists():
                    shutil.rmtree(folder)
                fresh.rename(folder)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)


def _check(folder: Path) -> None:
    """Refuse a folder whose place a report may not take."""
    if Path.cwd().is_relative_to(folder):
        # A shell that stands in a folder that was replaced sees nothing of the new one.
        raise BadInput(f"{folder}: expected a folder for the report alone, found the one this command runs in; name a folder within it with --to")
    if folder.exists() and (found := _foreign(folder)):
        raise BadInput(f"{folder}: expected a new folder or one with an earlier report and nothing else, found {found}; choose another with --to")


def _foreign(folder: Path) -> str | None:
    """Something that no report wrote, in words."""
    if not folder.is_dir():
        return "a file"
    if not any(folder.iterdir()):
        return None
    page = folder / PAGE
    if not page.is_file():
        return "other files"
    with page.open("rb") as file:
        head = file.read(HEAD_BYTES).decode(errors="replace")
    if MARK not in head and EARLIER not in head:
        return f"an {PAGE} that no report wrote"
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not (name in FOLDERS if path.is_dir() and not path.is_symlink() else any(fnmatchcase(name, written) for written in WRITTEN)):
            return name
    return None


@contextmanager
def _refusals(folder: Path) -> Iterator[None]:
    """The operating system's refusals to make or replace ``folder`` in one sentence."""
    try:
        with _disk_full(folder):
            yield
    except OSError as error:
        raise BadInput(f"{folder}: expected a folder that can be written, found: {error.strerror}; choose another with --to") from error


@contextmanager
def _disk_full(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise StorageError(f"{folder}: expected room to write, found the disk full; free space or choose another place with --to") from error

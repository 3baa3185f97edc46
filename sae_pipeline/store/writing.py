"""Writing a file so that a reader sees the old one or the new one, even after a crash; and what is said where it cannot be written."""

from __future__ import annotations

import errno
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sae_pipeline.errors import StorageError


def write_atomically(path: Path, content: bytes) -> None:
    """Write through a flushed sibling and a rename.

    The sibling's name starts with a dot: what a killed process leaves behind never enters a published artifact.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # not by process: machines with one home may have equal numbers
    try:
        temporary.write_bytes(content)
        flush(temporary)
        os.replace(temporary, path)
    except OSError:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    flush(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, see :func:`write_atomically`."""
    write_atomically(path, json.dumps(value, indent=1, sort_keys=True).encode())


def flush(path: Path) -> None:
    """fsync a file or folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def storage_errors(path: Path, *, missing: bool = False) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence that says what to do.

    ``missing`` also covers a parent that does not exist, which is the user's doing only where a home is set up.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{error.filename or path}: expected room to write, found the disk full; free space or point SAE_HOME elsewhere, then run again (finished work is kept)"
            ) from error
        if error.errno == errno.EFBIG:
            raise StorageError(
                f"{error.filename or path}: expected a file that the file system can hold, found it too large; lower the study's token budgets"
            ) from error
        if error.errno == errno.EMFILE:
            raise StorageError(
                f"{error.filename or path}: expected to open one more file, found that this process may not; raise its limit, for example with `ulimit -n 4096`, and run again"
            ) from error
        if error.errno in (errno.EISDIR, errno.ENOTDIR, errno.EEXIST):
            kinds = ("a file", "a folder") if error.errno == errno.EISDIR else ("a folder that can be written", "a file in its place")
            raise StorageError(
                f"{error.filename or path}: expected {kinds[0]}, found {kinds[1]}; move that away or choose another place with SAE_HOME"
            ) from error
        refused = (errno.EACCES, errno.EPERM, errno.EROFS)
        if error.errno in refused or (missing and error.errno == errno.ENOENT):
            raise StorageError(
                f"{error.filename or path}: expected a folder that can be written, found: {error.strerror}; choose another with SAE_HOME"
            ) from error
        if error.errno in (errno.EIO, errno.ESTALE) or (error.errno == errno.ENOENT and not path.parent.exists()):
            raise StorageError(
                f"{path}: expected the folder that this run works in, found it gone ({error.strerror}); see that its disk is there or choose another place with SAE_HOME, then run again (finished work is kept)"
            ) from error
        raise

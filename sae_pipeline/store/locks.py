"""File locks that the kernel releases when the holder dies, however it dies."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sae_pipeline.store.writing import storage_errors


@contextmanager
def exclusive(path: Path, *, keep: bool = True) -> Iterator[None]:
    """Hold the lock file ``path``, waiting for as long as another process holds it; ``keep=False`` removes it afterwards."""
    with lease([path]):
        try:
            yield
        finally:
            if not keep:
                path.unlink(missing_ok=True)


@contextmanager
def lease(paths: Sequence[Path], poll_seconds: float = 0.2) -> Iterator[Path]:
    """Hold whichever of several lock files is free first, and say which.

    Polls, because flock cannot wait for one of several; the interval is short against any work worth a lease.
    """
    for path in paths:
        with storage_errors(path.parent, missing=True):
            path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        for path in paths:
            with storage_errors(path):
                descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                continue
            if not _is_still(path, descriptor):  # its last holder removed it between our opening and our locking it
                os.close(descriptor)
                continue
            try:
                yield path
            finally:
                os.close(descriptor)
            return
        time.sleep(poll_seconds)


def remove_idle(path: Path) -> None:
    """Remove a lock file unless some process holds it; who waits for it makes a new one."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if _is_still(path, descriptor):
            path.unlink(missing_ok=True)
    except BlockingIOError:
        return
    finally:
        os.close(descriptor)


def _is_still(path: Path, descriptor: int) -> bool:
    """Whether the path names the open file, rather than none or a newer one."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def is_held(path: Path) -> bool:
    """Whether some process holds the lock file; False when there is no such file."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False

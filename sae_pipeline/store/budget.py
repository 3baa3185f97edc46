"""The disk budget: how much the store of a home may hold, and what makes room in it.

With a store that machines share, a home's artifacts are copies of what lies there, and the one used longest ago goes first.
Nothing goes that a living process may be reading: what was used since this process or a living launcher of this home
began, or within the last hour, stays; and a process goes on using what it has read once for as long as it lives. Without a
shared store nothing goes by itself.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from sae_pipeline.errors import BadInput, SharedStoreError, StorageError
from sae_pipeline.store.damage import MANIFEST
from sae_pipeline.store.locks import exclusive, is_held
from sae_pipeline.store.shared import SharedStore

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
IDLE_SECONDS = 3_600.0
"""Seconds for which what was used stays, whoever used it: a notebook and the daemon hold no launcher's lock."""
USES_PER_IDLE_SECONDS = 4
"""A process says this often in that time that it is still using what it has read."""

_began = time.time()
_in_use: set[Path] = set()
"""Artifacts that this process has read."""


def use(folder: Path) -> None:
    """Note that this process reads an artifact, now and for as long as it lives: a long training reads by path and asks no more."""
    _in_use.add(folder)
    with suppress(OSError):  # of somebody else's home, which is read
        os.utime(folder)
    _keep_using(os.getpid())


def use_again() -> None:
    """Note that this process may still be reading whatever it has read."""
    for folder in list(_in_use):
        try:
            os.utime(folder)
        except FileNotFoundError:
            _in_use.discard(folder)
        except OSError:  # as above
            continue


@cache
def _keep_using(process: int) -> None:
    """One thread per process, and a new one in a child: threads do not survive a fork."""

    def for_ever() -> None:
        while True:
            time.sleep(IDLE_SECONDS / USES_PER_IDLE_SECONDS)
            use_again()

    threading.Thread(target=for_ever, name="artifacts in use", daemon=True).start()


def disk_budget() -> int | None:
    """Bytes that ``SAE_DISK_BUDGET`` allows; None where it is not set.

    Raises:
        BadInput: it is no size.
    """
    text = os.environ.get("SAE_DISK_BUDGET", "").strip()
    if not text:
        return None
    found = re.fullmatch(r"(\d{1,18}(?:\.\d+)?)\s*([A-Za-z]*)", text)
    if found is None or found[2].upper() not in UNITS:
        raise BadInput(f"SAE_DISK_BUDGET: expected a size such as 200GB, 1.5TB or 500GiB, found '{text}'")
    return int(float(found[1]) * UNITS[found[2].upper()])


def stored_bytes(root: Path) -> int:
    """Bytes of all that lies below a folder; of a home's store these are artifacts, drafts, spools and what is in quarantine."""
    total = 0
    for folder, _, files in os.walk(root):
        for name in files:
            with suppress(FileNotFoundError):  # of a draft that was published in the meantime
                total += os.lstat(os.path.join(folder, name)).st_size
    return total


def room(root: Path, shared: SharedStore | None) -> int | None:
    """Bytes that may still be written, counting what would go to make room; None without a budget."""
    budget = disk_budget()
    return None if budget is None else budget - stored_bytes(root) + sum(stored_bytes(folder) for _, folder in idle(root, shared))


def make_room(root: Path, shared: SharedStore | None, wanted: int = 0) -> None:
    """See that the store holds no more than its budget once ``wanted`` more bytes have been written. A shared store that is away makes no room.

    Raises:
        StorageError: nothing is left that may go.
    """
    budget = disk_budget()
    if budget is None or stored_bytes(root) + wanted <= budget:
        return
    with exclusive(root.parent / "locks" / "room.lock"):  # of two processes the second finds the room that the first made
        used = stored_bytes(root)
        with suppress(SharedStoreError):
            for last, folder in idle(root, shared):
                if used + wanted <= budget:
                    break
                if shared is not None and _is_a_copy(shared, folder) and _last_used(folder) == last:
                    size = stored_bytes(folder)
                    discard(folder)
                    used -= size
        if used + wanted > budget:
            raise StorageError(
                f"{root}: expected to keep within SAE_DISK_BUDGET={os.environ['SAE_DISK_BUDGET']}, found that {(used + wanted) / 1e9:.3g} GB would be held; "
                "raise it, remove what no study needs with `sae-pipeline gc STUDY…`, or shrink the study"
            )


def discard(folder: Path) -> None:
    """Remove an artifact's folder from a home, at once for every reader; one that is gone already is no error."""
    gone = folder.parents[1] / ".partial" / folder.parent.name / f"{folder.name}.{uuid.uuid4().hex}"
    gone.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        os.replace(folder, gone)
        shutil.rmtree(gone)


def idle(root: Path, shared: SharedStore | None) -> Iterator[tuple[float, Path]]:
    """(time of its last use, folder) of the artifacts that the shared store lists and that nobody is using, the one used longest ago first."""
    if shared is None:
        return
    launchers = [lock for lock in (root.parent / "locks").glob("launcher-*.lock") if is_held(lock)]
    before = min([_began, time.time() - IDLE_SECONDS, *map(_last_used, launchers)])
    used = ((_last_used(folder), folder) for stage, name in shared.listing() if (folder := root / stage / name))
    yield from sorted((last, folder) for last, folder in used if last < before)


def _last_used(path: Path) -> float:
    """Seconds since the epoch; of what is gone in the meantime, infinitely many."""
    try:
        return path.stat().st_mtime
    except (FileNotFoundError, NotADirectoryError):
        return math.inf


def _is_a_copy(shared: SharedStore, folder: Path) -> bool:
    """Whether the shared store holds the very same artifact with every file."""
    found = shared.ask(folder.parent.name, folder.name)
    try:
        return found is not None and found.is_the(json.loads((folder / MANIFEST).read_text())) and shared.is_complete(found)
    except (OSError, ValueError, KeyError, TypeError):
        return False

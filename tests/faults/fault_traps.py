"""What happens inside a disturbed run, in its own process: a trap at an exact place, rights taken away, a clock that does not wait."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from fnmatch import fnmatch
from typing import Any

EVENTS = {"open": "write", "os.rename": "rename", "os.remove": "remove", "os.mkdir": "mkdir"}
"""Operations of the interpreter that a trap can wait for, by the names under which it announces them."""

WRITING = os.O_WRONLY | os.O_RDWR


@dataclass(frozen=True)
class Trap:
    """Acts just before the n-th operation on a path, whoever asks for it: the interpreter announces each to its audit hooks."""

    operation: str
    """``write`` (a file is opened to be written), ``rename``, ``remove``, ``mkdir``, or ``any`` of them."""
    pattern: str
    """Of the path; of a rename it is the new one."""
    act: int | str
    """A signal to die of; or, as ``umount PATH``, a disk to take away; or the number of an error, which this operation and those after it meet."""
    nth: int = 1

    def __call__(self) -> None:
        seen, sprung = 0, False

        def hook(event: str, details: tuple[Any, ...]) -> None:
            nonlocal seen, sprung
            if event not in EVENTS or self.operation not in ("any", EVENTS[event]):
                return
            path = str(details[1 if event == "os.rename" else 0])
            if (event == "open" and not _writes(*details[1:3])) or not fnmatch(path, self.pattern):
                return
            seen += 1
            if seen < self.nth:
                return
            if isinstance(self.act, signal.Signals):
                if not sprung:
                    sprung = True
                    os.kill(os.getpid(), self.act)
            elif isinstance(self.act, int):
                raise OSError(self.act, os.strerror(self.act), path)
            elif not sprung:
                sprung = True
                subprocess.run(self.act.split(), check=True)

        sys.addaudithook(hook)


def _writes(mode: str | None, flags: int) -> bool:
    return bool(set(mode or "") & set("wax+")) or bool(mode is None and flags & WRITING)


def without_rights() -> None:
    """Take away the capabilities that let root read and write whatever the permissions of a file say (capset(2))."""
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    if ctypes.CDLL(None, use_errno=True).capset(header, (ctypes.c_uint32 * 6)()):
        raise OSError(ctypes.get_errno(), "capset")


def without_pauses() -> None:
    """Pauses between attempts at a hub end at once."""
    sleep = time.sleep
    time.sleep = lambda seconds: sleep(min(seconds, 0.005))

"""The command line in processes of its own that can be killed, each ready at once: what a run imports is imported one time.

A server process holds the engine and its libraries; every run is a fork of it, which has computed nothing before. What is to
happen inside a run (see ``fault_traps``) is installed there before the command begins.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

LONGEST_RUN = 240.0
"""Seconds after which a run that should have ended is called stuck."""

PROGRESS = re.compile(r"\S+: \d+ to run")

Disturbance = Callable[[], None]
"""Called in the process of a run before its command begins."""

_servers = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Seen:
    """What somebody who gave a command has seen of it."""

    code: int
    """Exit code; minus the number of the signal that killed it."""
    output: str
    error: str

    @property
    def sentences(self) -> str:
        """What it said, apart from its progress."""
        return "\n".join(line for line in self.error.splitlines() if not PROGRESS.fullmatch(line))

    @property
    def answer(self) -> dict[str, Any]:
        """The JSON object of its last line."""
        found: dict[str, Any] = json.loads(self.output.strip().splitlines()[-1])
        return found


def start_server(**environment: str) -> None:
    """Start the process that runs are forks of, with these variables; libraries read theirs when they are imported."""
    from multiprocessing import forkserver

    before = os.environ.copy()
    os.environ.update(environment)
    try:
        _servers.set_forkserver_preload(["fault_imports", "pytest"])  # each process imports its parent's main module
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)


def run(home: Path, *arguments: str, disturbances: Sequence[Disturbance] = ()) -> Seen:
    """Run a command of ``sae-pipeline`` on a home to its end, whatever that is."""
    with TemporaryDirectory() as folder:
        process = _servers.Process(target=_obey, args=(home, arguments, disturbances, folder))
        process.start()
        process.join(LONGEST_RUN)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise TimeoutError(f"{' '.join(arguments)} did not end: {(Path(folder) / 'error').read_text()}")
        return Seen(process.exitcode, *((Path(folder) / name).read_text() for name in ("output", "error")))


def _obey(home: Path, arguments: Sequence[str], disturbances: Sequence[Disturbance], folder: str) -> None:
    for number, name in ((1, "output"), (2, "error")):
        os.dup2(os.open(Path(folder) / name, os.O_WRONLY | os.O_CREAT), number)
    warnings.simplefilter("ignore")
    os.environ["SAE_HOME"] = str(home)
    sys.argv = ["sae-pipeline", *arguments]
    from sae_pipeline.cli import main

    for disturb in disturbances:
        disturb()
    main()

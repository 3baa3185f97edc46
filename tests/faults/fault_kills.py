"""Processes that are killed, or asked to stop, at every stage."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from fault_cases import KILLED, STOPPED, Case, trapped
from fault_runs import Disturbance
from fault_study import Place
from fault_traps import Trap

KILL, TERMINATE, INTERRUPT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
DEATHS = 5

ONE_FOLDER_EACH = {
    "subject": "the subject model",
    "baselines": "baselines",
    "evaluations": "the evaluation of an SAE",
    "scorecard": "a scorecard",
    "matching": "matches of features",
    "concepts": "concepts",
    "positions": "positions",
    "text": "the description of the text",
    "tables": "the tables",
    "findings": "findings",
}
"""Stages whose artifact appears in one rename, by what the table calls it."""

READ_THERE = {"evaluations": ("store/metrics",)}
"""What else must be missing for a stage's artifact to be asked for."""


@dataclass(frozen=True)
class KilledInEventLog:
    """``kill -9`` in the midst of a transaction of Dagster's event log, at its n-th event."""

    nth: int

    def __call__(self) -> None:
        from sqlalchemy import Engine, event

        seen = 0

        def written(connection: object, cursor: object, statement: str, *_: object) -> None:
            nonlocal seen
            seen += statement.startswith("INSERT INTO event_logs")
            if seen == self.nth:
                os.kill(os.getpid(), KILL)

        event.listen(Engine, "after_cursor_execute", written)


@contextmanager
def in_event_log(place: Place) -> Iterator[Sequence[Disturbance]]:
    yield [KilledInEventLog(place.draw.randint(1, 25))]


@contextmanager
def again_and_again(place: Place) -> Iterator[Sequence[Disturbance]]:
    """Run after run is killed, the last of them within the case's own run."""
    for _ in range(DEATHS - 1):
        assert place.run(Trap("any", f"{place.root}/*", KILL, place.draw.randint(50, 150))).code == KILLED
    yield [Trap("any", f"{place.root}/*", KILL, place.draw.randint(50, 150))]


def killed(name: str, redo: Sequence[str], operation: str, pattern: str, between: tuple[int, int] = (1, 1), **more: bool) -> Case:
    return Case(name=f"kill -9 {name}", kind="kill", redo=redo, disturb=trapped(operation, pattern, KILL, between), code=KILLED, **more)


CASES = [
    *(
        killed(f"between the manifest of {called} and its rename", [f"store/{stage}", *READ_THERE.get(stage, ())], "rename", f"store/{stage}/*")
        for stage, called in ONE_FOLDER_EACH.items()
    ),
    killed("while a hub's rows are kept", ["store/spool", "store/corpus"], "rename", "store/spool/*/journal.json"),
    killed("while a corpus is packed", ["store/corpus"], "rename", "store/.partial/corpus/*/.journal.json", (1, 2)),
    killed("between two shards of activations", ["store/activations"], "write", "store/.partial/activations/*/*", (3, 14)),
    killed("while a checkpoint is written", ["store/saes"], "rename", "store/.partial/saes/*/checkpoint.safetensors", (1, 6)),
    killed("when the first of two arms is published", ["store/saes"], "rename", "store/saes/*", (2, 2)),
    killed("while an evaluation is recorded for good", ["studies/toy/history/records"], "rename", "studies/toy/history/records/*", remeasured=True),
    killed("before the new warehouse takes the old one's place", ["studies/toy/warehouse.duckdb"], "rename", "studies/toy/warehouse.duckdb"),
    killed("while the ids of dense latents are written", ["store/tables"], "rename", "studies/toy/dense_latents.json"),
    killed("while figures are drawn", ["store/report"], "write", "store/.partial/report/*", (1, 8)),
    killed("when the old report is away and the new one not there", ["store/report"], "rename", "studies/toy/report"),
    Case(name="kill -9 within a transaction of the event log", kind="kill", redo=["store/saes", "store/findings"], disturb=in_event_log, code=KILLED),
    Case(
        name=f"kill -9 anywhere, {DEATHS} times, in a study computed from nothing",
        kind="kill", redo=["*"], disturb=again_and_again, code=KILLED, remeasured=True,
    ),
    Case(
        name="SIGTERM while SAEs are trained", kind="kill", redo=["store/saes"], code=STOPPED, told="stopped; finished work is kept",
        disturb=trapped("rename", "store/.partial/saes/*/checkpoint.safetensors", TERMINATE, (1, 5)),
    ),
    Case(
        name="Ctrl-C while a corpus is packed", kind="kill", redo=["store/corpus"], code=STOPPED, told="stopped; finished work is kept",
        disturb=trapped("rename", "store/.partial/corpus/*/.journal.json", INTERRUPT),
    ),
]  # fmt: skip

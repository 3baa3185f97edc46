"""A hub that is gone or troubled, and a disk that is taken away."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from fault_cases import Case, Disturb, mounted
from fault_runs import Disturbance
from fault_study import Place
from fault_traps import Trap, without_pauses
from loopback_hub import Faults, untroubled

STREAMED = ["store/spool", "store/corpus"]


def troubled(files: Faults = untroubled, other: Faults = untroubled) -> Disturb:
    """What goes wrong with the requests that reach the hub."""

    @contextmanager
    def disturb(place: Place) -> Iterator[Sequence[Disturbance]]:
        with place.hub.trouble(files, other) as seen:
            yield [without_pauses]
            assert seen, "the hub was not asked"

    return disturb


def unmounted(operation: str, pattern: str) -> Disturb:
    """The home lies on a disk of its own that goes away at such an operation, and is there again afterwards."""

    @contextmanager
    def disturb(place: Place) -> Iterator[Sequence[Disturbance]]:
        aside = place.root.with_name("aside")
        place.root.rename(aside)
        place.root.mkdir()
        with mounted("--bind", str(aside), str(place.root)):
            yield [Trap(operation, f"{place.root}/{pattern}", f"umount -l {place.root}")]
        shutil.rmtree(place.root)  # what the run has left where the disk had been
        aside.rename(place.root)

    return disturb


def first(count: int, fault: str) -> Faults:
    """The first requests go wrong, the others do not."""
    return lambda request: fault if request < count else None


def from_(number: int, fault: str) -> Faults:
    """All requests from one on go wrong."""
    return lambda request: fault if request >= number else None


GONE = "run again: the download goes on from there"

CASES = [
    Case(name="the hub is gone", kind="disconnect", redo=STREAMED, disturb=troubled(from_(0, "drop"), from_(0, "drop")), code=1, told=GONE),
    Case(name="the hub goes away after the first file", kind="disconnect", redo=STREAMED, disturb=troubled(from_(2, "drop"), from_(12, "drop")), code=1, told=GONE),
    Case(name="the hub answers 500 from the third request on", kind="disconnect", redo=STREAMED, disturb=troubled(from_(2, "500"), from_(12, "500")), code=1, told=GONE),
    Case(name="the hub answers 503 twice, then as it should", kind="disconnect", redo=STREAMED, disturb=troubled(first(2, "503"), first(1, "503")), code=0),
    Case(name="the hub cuts an answer in half, then does not", kind="disconnect", redo=STREAMED, disturb=troubled(first(2, "truncate")), code=0),
    Case(name="the hub asks to wait, then answers", kind="disconnect", redo=STREAMED, disturb=troubled(first(1, "429")), code=0),
    Case(
        name="the home's disk is taken away while activations are kept", kind="disconnect", redo=["store/activations"], code=1, told="SAE_HOME",
        disturb=unmounted("write", "store/.partial/activations/*/.shard-00003*"),
    ),
    Case(
        name="the home's disk is taken away while the report is written", kind="disconnect", redo=["store/report"], code=1, told="SAE_HOME",
        disturb=unmounted("write", "store/.partial/report/*"),
    ),
]  # fmt: skip

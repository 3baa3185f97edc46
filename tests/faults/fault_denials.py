"""Files that may not be read or written, and processes that may not have more."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

from fault_cases import Case, forbidden, trapped
from fault_study import Place

NOT_WRITTEN = "expected a folder that can be written, found: Permission denied"


def below(name: str) -> Callable[[Place], Path]:
    """The first file or folder of the home of such a name."""
    return lambda place: next(iter(sorted(place.root.glob(name))))


def recipes(place: Place) -> Path:
    """A source's file."""
    return place.study.parent / "recipes.jsonl"


CASES = [
    Case(
        name="the folder of SAEs may not be written", kind="deny", redo=["store/saes/*"], disturb=forbidden(below("store/saes"), 0o555), code=1,
        told=NOT_WRITTEN,
    ),
    Case(
        name="nothing half finished may be written", kind="deny", redo=["store/metrics"], disturb=forbidden(below("store/.partial/metrics"), 0o555), code=1,
        told=NOT_WRITTEN,
    ),
    Case(
        name="the study's folder may not be written", kind="deny", redo=["studies/toy/warehouse.duckdb"], code=1,
        told="expected to write the warehouse, found:",
        disturb=forbidden(below("studies/toy"), 0o555),
    ),
    Case(
        name="the report may not be replaced", kind="deny", redo=["store/report"], disturb=forbidden(below("studies/toy"), 0o555), code=1,
        told=NOT_WRITTEN,
    ),
    Case(
        name="the home's locks may not be written", kind="deny", redo=["store/findings"], disturb=forbidden(below("locks"), 0o555), code=1,
        told=NOT_WRITTEN,
    ),
    Case(
        name="Dagster's event log may not be written", kind="deny", redo=["store/findings"], code=1,
        disturb=forbidden(below("dagster/history/runs/index.db"), 0o444), told="expected an event log that can be read and written, found:",
    ),
    Case(
        name="a corpus may not be read", kind="deny", redo=["store/activations"], disturb=forbidden(below("store/corpus/*/tokens.safetensors"), 0o000),
        code=0,
    ),
    Case(
        name="the manifest of an SAE may not be read", kind="deny", disturb=forbidden(below("store/saes/*/manifest.json"), 0o000), code=1,
        told="expected a readable artifact, found Permission denied",
    ),
    Case(
        name="a source file may not be read", kind="deny", redo=["store/corpus"], disturb=forbidden(recipes, 0o000), code=2, told="recipes.jsonl",
    ),
    Case(
        name="a process may not open more files", kind="deny", redo=["store/corpus"], code=1, told="raise its limit, for example with `ulimit -n 4096`",
        disturb=trapped("write", "store/.partial/corpus/*", errno.EMFILE, (2, 4)),
    ),
]  # fmt: skip

"""Disks that fill up, and files that become too large."""

from __future__ import annotations

import errno

from fault_cases import Case, full, trapped
from fault_kills import READ_THERE

FULL = "found the disk full; free space"

CASES = [
    *(
        Case(
            name=f"the disk of the store fills up {when}", kind="fill", redo=[f"store/{stage}", *READ_THERE.get(stage, ())], disturb=full("store", 0.5), code=1, told="free space",
        )
        for stage, when in {
            "corpus": "while a corpus is packed",
            "activations": "while activations are kept",
            "saes": "while SAEs are trained",
            "evaluations": "while SAEs are evaluated",
        }.items()
    ),
    Case(
        name="the disk of the store fills up while a hub's rows are kept", kind="fill", redo=["store/spool", "store/corpus"],
        disturb=full("store", 0.3), code=1, told=FULL,
    ),
    Case(
        name="no room for the warehouse", kind="fill", redo=["studies/toy/warehouse.duckdb"], disturb=full("studies", 0.5), code=1,
        told="free space",
    ),
    Case(
        name="no room for the copy of the report", kind="fill", redo=["studies/toy/report"], disturb=full("studies", 0.5), code=1, told=FULL,
    ),
    Case(
        name="no room for Dagster's event log", kind="fill", redo=["store/corpus"], disturb=full("dagster", 0.2), code=1,
        told="expected an event log that can be read and written, found:",
    ),
    Case(
        name="the disk is full when findings are flushed", kind="fill", redo=["store/findings"], code=1, told=FULL,
        disturb=trapped("write", "store/.partial/findings/*", errno.ENOSPC, (1, 3)),
    ),
    Case(
        name="the user's quota is reached at a checkpoint", kind="fill", redo=["store/saes"], code=1, told=FULL,
        disturb=trapped("write", "store/.partial/saes/*", errno.EDQUOT, (2, 6)),
    ),
    Case(
        name="a file grows beyond what the file system can hold", kind="fill", redo=["store/activations"], code=1,
        told="found it too large; lower the study's token budgets", disturb=trapped("write", "store/.partial/activations/*", errno.EFBIG, (2, 6)),
    ),
]  # fmt: skip

"""`sae-pipeline ui` can be reached from this machine alone."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from dagster_ui import DagsterUI
from small_study import SmallStudy

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="listening sockets are read from /proc")]

LISTENING = "0A"
LOOPBACK = ("0100007F", "00000000000000000000000001000000")
"""127.0.0.1 and ::1 as /proc/net writes them."""


def addresses(group: int) -> set[str]:
    """Addresses at which the processes of a group listen, as /proc/net writes them."""
    members = subprocess.run(["ps", "-eo", "pid=,pgid="], capture_output=True, text=True, check=True).stdout.split()
    processes = [pid for pid, pgid in zip(members[::2], members[1::2], strict=True) if pgid == str(group)]
    sockets = set()
    for process in processes:
        for descriptor in Path(f"/proc/{process}/fd").glob("*"):
            target = os.readlink(descriptor) if descriptor.is_symlink() else ""
            sockets |= {target.removeprefix("socket:[").removesuffix("]")} if target.startswith("socket:") else set()
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    return {row[1].partition(":")[0] for row in rows if row[3] == LISTENING and row[9] in sockets}


def test_every_socket_of_the_ui_is_on_the_loopback(small_study: SmallStudy) -> None:
    home = small_study.path.parent / "home"
    home.mkdir()
    server = DagsterUI(small_study.write(), home)
    try:
        found = addresses(server.process.pid)
    finally:
        left = server.stop()
    assert found
    assert found <= set(LOOPBACK)
    assert left == []

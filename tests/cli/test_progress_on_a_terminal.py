"""What is shown on a real terminal while a launch is under way, where bars take the place of standard error."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

# What `run` does around a launch: bars on the terminal, and Dagster kept from repeating what it then raises.
LAUNCH = """
import sys, time
from pathlib import Path
from sae_pipeline.launcher.instance import event_log_errors
from sae_pipeline.progress import Track
from sae_pipeline.store import Home
from sae_pipeline.terminal import show_progress

with show_progress(quiet=False) as announce, event_log_errors(Home(Path(sys.argv[1]))):
    announce("toy/MORE/corpus", 2)
    print("a line of a library's", file=sys.stderr)
    sys.stderr.write("Exception while writing logger call to event log: no room\\n")
    time.sleep(0.5)  # the bars are drawn again in the meantime
print("the launch has ended")
"""


def on_a_terminal(*command: str) -> str:
    """All that a command writes to a terminal of its own, without colours and movements; it must end."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, env=os.environ | {"TERM": "xterm"})
    os.close(theirs)
    shown = b""
    try:
        process.wait(60)
        while chunk := _read(ours):
            shown += chunk
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65_536)
    except OSError:  # Linux says so where the last writer is gone
        return b""


def test_a_launch_announces_its_assets_and_ends(tmp_path: Path) -> None:
    shown = on_a_terminal(sys.executable, "-c", LAUNCH, str(tmp_path / "home"))
    assert "toy/MORE/corpus: 2 to run" in shown
    assert "a line of a library's" in shown
    assert "writing logger call" not in shown
    assert "the launch has ended" in shown

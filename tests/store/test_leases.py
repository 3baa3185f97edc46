"""One machine at a time makes an artifact: what a holder that lives, dies, sleeps and comes back does to the others."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest
from shared_machines import LONG_PATIENCE, PATIENCE, publish

from sae_pipeline.store import Artifact, Store
from sae_pipeline.store.leases import Leases
from sae_pipeline.store.remote import Remote

# A machine of its own: takes the draft, says so, waits for a line, fills it and says what it came to.
OTHER_MACHINE = """
import sys
from pathlib import Path
from sae_pipeline.store import Artifact, Store
from sae_pipeline.store.shared import SharedStore
with Store(Path(sys.argv[1]), SharedStore(sys.argv[2], float(sys.argv[3]))).draft("toy", "f1", {}) as draft:
    print("taken", flush=True)
    sys.stdin.readline()
    (draft.path / "data.txt").write_text("late")
    print(draft.publish({}).file("data.txt").read_text(), flush=True)
"""


class TestAMachineThatStops:
    def start(self, tmp_path: Path, url: str, patience: float = PATIENCE) -> subprocess.Popen[str]:
        line = [sys.executable, "-c", OTHER_MACHINE, str(tmp_path / "other"), url, str(patience)]
        process = subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "taken\n"
        return process

    def test_work_of_a_killed_machine_is_taken_over(self, machine: Callable[[str], Store], tmp_path: Path, url: str) -> None:
        process = self.start(tmp_path, url)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        publish(machine("a"), files={"data.txt": b"mine"})
        shared = machine("a").shared
        assert shared is not None
        assert not shared.remote.listing("leases")

    @pytest.mark.slow
    def test_a_machine_that_lives_is_waited_for_however_long_it_takes(self, machine: Callable[..., Store], tmp_path: Path, url: str) -> None:
        process = self.start(tmp_path, url, LONG_PATIENCE)
        threading.Timer(1.5 * LONG_PATIENCE, lambda: process.stdin.write("go\n") and process.stdin.flush()).start()  # type: ignore[union-attr]
        with machine("a", LONG_PATIENCE).draft("toy", "f1", {}) as draft:
            assert isinstance(draft, Artifact)
            assert draft.file("data.txt").read_text() == "late"
        assert process.communicate()[0] == "late\n"

    def test_a_machine_that_was_given_up_and_comes_back_does_no_harm(self, machine: Callable[[str], Store], tmp_path: Path, url: str) -> None:
        process = self.start(tmp_path, url)
        process.send_signal(signal.SIGSTOP)
        publish(machine("a"), files={"data.txt": b"mine"})
        process.send_signal(signal.SIGCONT)
        assert process.communicate("go\n")[0] == "mine\n"
        assert process.returncode == 0
        found = machine("b").find("toy", "f1")
        assert found is not None
        assert found.file("data.txt").read_bytes() == b"mine"


class TestLeases:
    @pytest.fixture
    def machine(self, tmp_path: Path) -> Callable[..., Leases]:
        """The leases of a new machine."""
        (tmp_path / "shared").mkdir()
        return lambda patience=LONG_PATIENCE: Leases(Remote((tmp_path / "shared").as_uri(), patience), patience)

    def test_one_that_comes_back_leaves_what_another_holds_by_then(self, machine: Callable[..., Leases], tmp_path: Path) -> None:
        late, other = machine(), machine()
        lease = tmp_path / "shared" / "leases" / "toy" / "f1.1"
        with ExitStack() as held:
            with late.hold("toy", "f1"):
                other.remove(late._held)  # given up: taken over, finished, removed, and taken anew
                held.enter_context(other.hold("toy", "f1"))
                content = lease.read_bytes()
            assert lease.read_bytes() == content
        assert not lease.exists()

    def test_without_waiting_it_is_left_to_the_living_and_taken_from_the_dead(self, machine: Callable[..., Leases], tmp_path: Path) -> None:
        folder = tmp_path / "shared" / "leases" / "toy"
        with machine().hold("toy", "f1"), machine().hold("toy", "f1", wait=False):
            assert [path.name for path in folder.iterdir()] == ["f1.1"]
        (folder / "f2.1").write_text("nobody")
        with machine(0.5).hold("toy", "f2", wait=False):
            assert sorted(path.name for path in folder.iterdir()) == ["f2.1", "f2.2"]
        assert not list(folder.iterdir())

"""Two machines with homes of their own and one store compute one study together: each artifact once, and what a lone machine finds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
import pytest
from s3_server import S3Server
from small_study import SmallStudy

from sae_pipeline.store import Home, file_sha256
from sae_pipeline.store.shared import SharedStore

pytestmark = pytest.mark.slow

MEASURED = frozenset({"seconds", "created", "path", "libraries", "train_seconds", "tokens_per_second", "resident_bytes"})
"""Columns that say when, how fast and where something was made."""
FOLLOWS = "contents"
"""Table of the fingerprints of tables, which hold what was measured."""
PATIENCE = "20"


class Machine:
    """A home, and the runs that are started on it."""

    def __init__(self, root: Path, server: S3Server | None, prefix: Sequence[str] = (), address: str | None = None) -> None:
        self.home, self._prefix = Home(root), prefix
        self.environment = {**os.environ, "SAE_HOME": str(root), "PYTHONWARNINGS": "ignore", "SAE_LEASE_SECONDS": PATIENCE, "OMP_NUM_THREADS": "1"}
        if server is not None:
            self.environment |= server.environment(address) | {"SAE_STORE": f"s3://{server.bucket}/sae"}

    def start(self, study: str) -> subprocess.Popen[str]:
        line = [*self._prefix, sys.executable, "-c", "from sae_pipeline.cli import main; main()", "run", study, "--json"]
        return subprocess.Popen(line, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def run(self, study: str) -> dict[str, Any]:
        return ended(self.start(study))

    def tables(self) -> dict[str, pd.DataFrame]:
        with duckdb.connect(str(self.home.warehouse("toy")), read_only=True) as warehouse:
            return {name: warehouse.table(name).df() for (name,) in warehouse.execute("SHOW TABLES").fetchall()}


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    out, error = process.communicate(timeout=900)
    assert process.returncode == 0, error
    answer: dict[str, Any] = json.loads(out.strip().splitlines()[-1])
    return answer


def assert_same(one: dict[str, pd.DataFrame], other: dict[str, pd.DataFrame], without: frozenset[str] = frozenset()) -> None:
    assert one.keys() == other.keys()
    for name, frame in one.items():
        left, right = (table.drop(columns=[c for c in table if c in without]) for table in (frame, other[name]))
        by = [column for column in left if left[column].map(type).isin((str, int, float, bool)).all()]
        pd.testing.assert_frame_equal(
            left.sort_values(by, ignore_index=True), right.sort_values(by, ignore_index=True), check_exact=True, obj=f"table {name}"
        )


def weights(store: SharedStore, into: Path) -> dict[str, str]:
    """Checksum of the weights of every SAE that the shared store holds."""
    found = {}
    for stage, fingerprint in store.listing():
        if stage == "saes":
            artifact = store.ask(stage, fingerprint)
            assert artifact is not None
            store.remote.download({artifact.keys["sae_weights.safetensors"]: into / fingerprint})
            found[fingerprint] = file_sha256(into / fingerprint)
    return found


@pytest.fixture(scope="module")
def study(small_study_data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The toy study on one layer."""

    def smaller(data: dict[str, Any]) -> None:
        data["activations"]["layers"] = [0]

    return SmallStudy(tmp_path_factory.mktemp("study") / "toy.yaml", small_study_data).write(smaller)


@pytest.fixture(scope="module")
def alone(study: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Machine, dict[str, Any]]:
    """A machine that shares nothing, and what its run said."""
    machine = Machine(tmp_path_factory.mktemp("alone"), None)
    return machine, machine.run(study)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    server = S3Server(tmp_path / "s3.log")
    yield from serving(server, monkeypatch)


def serving(server: S3Server, monkeypatch: pytest.MonkeyPatch, address: str | None = None) -> Iterator[S3Server]:
    """Start a server and point this process at it."""
    server.start()
    server.point(monkeypatch, address)
    yield server
    server.stop()


def assert_as_alone(machines: Sequence[Machine], alone: Machine, tmp_path: Path) -> None:
    """Every machine's tables are the lone machine's, and so is every SAE, bit for bit."""
    found = [machine.tables() for machine in machines]
    for tables in found[1:]:
        assert_same(found[0], tables)
    by_itself = alone.tables()
    by_itself.pop(FOLLOWS)
    assert_same({name: table for name, table in found[0].items() if name != FOLLOWS}, by_itself, MEASURED)
    assert weights(SharedStore(machines[0].environment["SAE_STORE"]), tmp_path) == {
        artifact.fingerprint: file_sha256(artifact.file("sae_weights.safetensors"))
        for artifact in alone.home.store.artifacts()
        if artifact.stage == "saes"
    }


def wait_for(published: int, store: SharedStore, processes: Sequence[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 600
    while len(store.remote.listing("manifests")) < published:
        assert all(process.poll() is None for process in processes), "a run ended too soon"
        assert time.monotonic() < deadline
        time.sleep(0.1)


def assert_each_made_once(answers: Sequence[dict[str, Any]], alone: dict[str, Any]) -> None:
    assert [answer["failed"] for answer in answers] == [0] * len(answers)
    counts = sum((Counter(answer["computed_by_asset"]) for answer in answers), Counter())
    assert counts == Counter(alone["computed_by_asset"])
    assert all(answer["computed"] for answer in answers)


def test_two_machines_compute_one_study_together(study: str, alone: tuple[Machine, dict[str, Any]], server: S3Server, tmp_path: Path) -> None:
    machines = [Machine(tmp_path / name, server) for name in "ab"]
    assert_each_made_once([ended(process) for process in [machine.start(study) for machine in machines]], alone[1])
    assert_as_alone(machines, alone[0], tmp_path)
    store = SharedStore(f"s3://{server.bucket}/sae")
    assert not store.remote.listing("leases")
    assert not store.remote.listing("heartbeats")

    # A third machine that comes when all is done computes nothing and says the same; once it has, it asks for little.
    third = Machine(tmp_path / "c", server)
    assert third.run(study)["computed"] == 0
    assert_same(third.tables(), machines[0].tables())
    assert not list(third.home.store.root.glob("activations/*/*.safetensors")), "what nobody reads was fetched"
    before = len(server.requests())
    again = third.run(study)
    assert (again["launched"], again["computed"]) == (0, 0)
    assert len(server.requests()) - before < 20


def test_a_machine_that_is_killed_is_taken_over_from(study: str, alone: tuple[Machine, dict[str, Any]], server: S3Server, tmp_path: Path) -> None:
    machines = [Machine(tmp_path / name, server) for name in "ab"]
    processes = [machine.start(study) for machine in machines]
    wait_for(8, SharedStore(f"s3://{server.bucket}/sae"), processes)
    processes[0].send_signal(signal.SIGKILL)
    processes[0].communicate()
    assert ended(processes[1])["failed"] == 0
    assert_as_alone(machines[1:], alone[0], tmp_path)
    back = machines[0].run(study)
    assert (back["computed"], back["failed"]) == (0, 0)
    assert_same(machines[0].tables(), machines[1].tables())


@pytest.fixture
def network() -> Iterator[str]:
    """Namespaces for a server, two machines and this process, each joined to the server's by a pair of virtual cables; their common name."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the command ip")
    name = uuid.uuid4().hex[:6]
    try:
        for place in "sab":
            ip("netns", "add", f"{name}{place}")
            ip("-n", f"{name}{place}", "link", "set", "lo", "up")
        for number, place in enumerate("abr"):
            ip("link", "add", f"{name}{place}0", "type", "veth", "peer", "name", f"{name}{place}1")
            inside = [] if place == "r" else ["-n", f"{name}{place}"]
            if inside:
                ip("link", "set", f"{name}{place}0", "netns", f"{name}{place}")
            ip("link", "set", f"{name}{place}1", "netns", f"{name}s")
            ip(*inside, "address", "add", f"10.213.{number}.2/24", "dev", f"{name}{place}0")
            ip("-n", f"{name}s", "address", "add", f"10.213.{number}.1/24", "dev", f"{name}{place}1")
            ip(*inside, "link", "set", f"{name}{place}0", "up")
            ip("-n", f"{name}s", "link", "set", f"{name}{place}1", "up")
    except subprocess.CalledProcessError as error:
        remove(name)
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    yield name
    remove(name)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)


def remove(name: str) -> None:
    """A cable goes with either of its ends."""
    for place in "sab":
        subprocess.run(["ip", "netns", "delete", f"{name}{place}"], capture_output=True)
    subprocess.run(["ip", "link", "delete", f"{name}r0"], capture_output=True)


def test_two_machines_on_a_network_of_which_one_is_cut_off_for_a_while(
    study: str, alone: tuple[Machine, dict[str, Any]], network: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = S3Server(tmp_path / "s3.log", host="0.0.0.0", prefix=("ip", "netns", "exec", f"{network}s"))
    for _ in serving(server, monkeypatch, "10.213.2.1"):
        machines = [
            Machine(tmp_path / place, server, ("ip", "netns", "exec", f"{network}{place}"), f"10.213.{number}.1") for number, place in enumerate("ab")
        ]
        processes = [machine.start(study) for machine in machines]
        wait_for(6, SharedStore(f"s3://{server.bucket}/sae"), processes)
        ip("-n", f"{network}s", "link", "set", f"{network}a1", "down")
        time.sleep(4)
        ip("-n", f"{network}s", "link", "set", f"{network}a1", "up")
        assert_each_made_once([ended(process) for process in processes], alone[1])
        assert_as_alone(machines, alone[0], tmp_path)

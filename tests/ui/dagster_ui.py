"""Drives what `sae-pipeline ui` starts: its process group and its GraphQL endpoint."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-W", "ignore", "-c", "from sae_pipeline.cli import main; main()"]


def patiently(what: str, look: Callable[[], Any], seconds: float = 180) -> Any:
    """The first true answer of ``look``; fails with ``what`` was waited for when there is none in time."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if answer := look():
            return answer
        time.sleep(0.5)
    raise AssertionError(f"{what}: not within {seconds:.0f} s")


def choose_partition(page: Any, *dimensions: str) -> Any:
    """Open an asset's launch dialog and choose one partition by clicks; the dialog."""
    page.get_by_role("button", name="Materialize").first.click()
    dialog = page.get_by_role("dialog")
    for dimension in dimensions:
        dialog.get_by_text("Select a partition or create one").first.click()
        page.get_by_title(dimension, exact=True).last.click()
        page.keyboard.press("Escape")  # closes the list and leaves the dialog
    dialog.get_by_text("1 partition", exact=True).wait_for()
    return dialog


class DagsterUI:
    """`sae-pipeline ui` as a process group of its own, and questions to its GraphQL endpoint."""

    def __init__(self, study: str, home: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = home / "ui.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*COMMAND, "ui", study, "--port", str(port)],
                env=os.environ | {"SAE_HOME": str(home), "PYTHONWARNINGS": "ignore", "OMP_WAIT_POLICY": "PASSIVE"},
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # a job in the background ignores it
            )  # fmt: skip
        patiently("the UI answers", self._answers, 120)

    def _answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return bool(self.ask("{workspaceOrError{... on Workspace{locationEntries{loadStatus}}}}")["workspaceOrError"]["locationEntries"])
        except OSError:
            return False

    def stop(self) -> list[str]:
        """Interrupt the whole group, as Ctrl-C does; the command lines that are left of it after that."""
        os.killpg(self.process.pid, signal.SIGINT)
        try:
            patiently("the UI ends", lambda: self.process.poll() is not None and not self._group(), 40)
        except AssertionError:
            left = self._group()
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            return left or ["sae-pipeline ui"]
        return []

    def _group(self) -> list[str]:
        table = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
        rows = [line.split(None, 2) for line in table.splitlines()]
        return [row[2] for row in rows if row[0] == str(self.process.pid) and not row[1].startswith("Z")]

    # ------------------------------------------------------------------------------------------- GraphQL

    def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of one GraphQL answer."""
        body = json.dumps({"query": query, "variables": variables}).encode()
        request = urllib.request.Request(f"{self.url}/graphql", body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as response:
            answer = json.load(response)
        assert not answer.get("errors"), answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def materialization(self, *path: str) -> dict[str, Any]:
        """Of the asset's latest materialisation: ``run``, ``partition``, the integer entries of its metadata."""
        query = """query($key: AssetKeyInput!) {assetOrError(assetKey: $key) {... on Asset {assetMaterializations(limit: 1) {
            runId partition metadataEntries {label ... on IntMetadataEntry {intValue}}}}}}"""
        (latest,) = self.ask(query, key={"path": path})["assetOrError"]["assetMaterializations"]
        return {"run": latest["runId"], "partition": latest["partition"]} | {e["label"]: e.get("intValue") for e in latest["metadataEntries"]}

    def runs(self, since: float) -> list[dict[str, Any]]:
        """Runs created after ``since`` (seconds of the epoch): ``id``, ``status``, ``assets`` without the study's name."""
        query = "{runsOrError(limit: 200) {... on Runs {results {runId status creationTime assetSelection {path}}}}}"
        return [
            {"id": run["runId"], "status": run["status"], "assets": ["/".join(asset["path"][1:]) for asset in run["assetSelection"] or ()]}
            for run in self.ask(query)["runsOrError"]["results"]
            if run["creationTime"] > since
        ]

    def ticks(self, since: float) -> list[dict[str, Any]]:
        """Finished ticks of the sensor `rerun_stale` that began after ``since``."""
        query = """query($sensor: SensorSelector!) {sensorOrError(sensorSelector: $sensor) {... on Sensor {sensorState {
            ticks(limit: 50) {status timestamp error {message}}}}}}"""
        (location,) = self.ask("{repositoriesOrError {... on RepositoryConnection {nodes {name location {name}}}}}")["repositoriesOrError"]["nodes"]
        sensor = {"repositoryLocationName": location["location"]["name"], "repositoryName": location["name"], "sensorName": "rerun_stale"}
        ticks = self.ask(query, sensor=sensor)["sensorOrError"]["sensorState"]["ticks"]
        assert not any(tick["error"] for tick in ticks), ticks
        return [tick for tick in ticks if tick["timestamp"] > since and tick["status"] in ("SKIPPED", "SUCCESS")]

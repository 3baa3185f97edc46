"""Run after run of a study in one process, which says after each what it holds: ``python soak_runs.py STUDY HOME RUNS``.

Prints one JSON object: ``runs``, and ``forgotten`` with what is left when every run was forgotten that may be. Three of four runs train an SAE with a seed of its own and compute all that follows from it; every fourth finds nothing to do.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import tempfile
import threading
from datetime import timedelta
from pathlib import Path
from typing import Any

import yaml
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.launcher import open_instance
from sae_pipeline.launcher.forgetting import forget_runs
from sae_pipeline.store import Home


def main(study: Path, home: Path, runs: int) -> None:
    os.environ["SAE_HOME"] = str(home)
    data = yaml.safe_load(study.read_text())
    found = []
    for number in range(runs):
        if number % 4 != 3:
            data["saes"]["arms"][0]["seeds"] = [number]
            study.write_text(yaml.safe_dump(data, sort_keys=False))
        result = CliRunner().invoke(app, ["run", str(study), "--json"])
        assert result.exit_code == 0, result.output
        answer = json.loads(result.stdout.strip().splitlines()[-1])
        found.append({"launched": answer["launched"], "computed": answer["computed"]} | held(home))
    forgotten = forget_runs(open_instance(Home(home)), Home(home), older_than=timedelta())
    again = CliRunner().invoke(app, ["run", str(study), "--json"])
    ended = {"forgotten": forgotten, "launched_again": json.loads(again.stdout.strip().splitlines()[-1])["launched"]}
    print(json.dumps({"runs": found, "forgotten": ended | held(home)}))


def held(home: Path) -> dict[str, Any]:
    """Memory that no file stands behind (MiB), open files and threads of this process; files that are left over; what Dagster has written."""
    gc.collect()
    anonymous = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    places = (home / "store/.partial", home / "locks", Path(tempfile.gettempdir()))
    logged = [path for path in (home / "dagster").rglob("*") if path.is_file()]
    return {
        "anonymous_mib": int(anonymous.split()[1]) / 1024,
        "open_files": len(os.listdir("/proc/self/fd")),
        "threads": len(os.listdir("/proc/self/task")),
        "python_threads": threading.active_count(),
        "left_over": sorted(path.name for place in places for path in place.rglob("*") if path.is_file()),
        "logged_bytes": sum(path.stat().st_size for path in logged),
        "logged_files": len(logged),
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))

"""What orchestration costs: a study of many small cells run from nothing, and run again when nothing changed.

    python benchmarks/orchestrate.py                          # 1,000 cells, 2,087 Dagster runs
    python benchmarks/orchestrate.py --cells 40               # minutes
    python benchmarks/orchestrate.py --json | tail -n 1       # the same figures as one object
    python benchmarks/orchestrate.py --render benchmarks/results/orchestrate.json

The cells are real (text, activations, a trained SAE, its metrics) and as small as they can be, so that what is left is
mostly Dagster and the store. The limit beside it is an empty Dagster run on the same machine, right before and after.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from program import Found, empty_folder, options, run, say
from side_by_side import REPOSITORY, machine

MIXES, LAYERS = 5, 4
EMPTY_RUNS = 20
EMPTY = """
import json, sys, time
import dagster as dg

@dg.asset
def empty() -> None: ...

with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
    job = dg.Definitions(assets=[empty]).resolve_implicit_global_asset_job_def()
    quiet = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
    seconds = []
    for _ in range(int(sys.argv[2]) + 1):
        started = time.perf_counter()
        job.execute_in_process(instance=instance, run_config=quiet)
        seconds.append(time.perf_counter() - started)
print(json.dumps(seconds[1:]))
"""
IMPORTS = """
import json, time
started = time.perf_counter()
import dagster
dagster_seconds = time.perf_counter() - started
import sae_pipeline.definitions
print(json.dumps([dagster_seconds, time.perf_counter() - started]))
"""

CONDITIONS = {
    "first run": "sae-pipeline run from an empty home, in one process",
    "work": "the time that the artifacts took to make, by their manifests",
    "overhead a cell": "the rest of the first run, divided by the cells: runs of Dagster, what is stale, reading and publishing",
    "second run": "the same command again, interpreter and imports included; it launches and computes nothing",
    "empty Dagster run": f"execute_in_process of an asset that does nothing, median of {2 * EMPTY_RUNS} before and after",
    "definitions": "importing sae_pipeline.definitions in a fresh interpreter, the quickstart's graph included; median of 5",
}


def main() -> None:
    """Parse, measure, print."""
    parser = options(__doc__, "folder for the study's home, emptied and removed")
    parser.add_argument("--cells", type=int, default=1_000, help=f"a multiple of {MIXES * LAYERS}")
    arguments = parser.parse_args()
    if arguments.cells < MIXES * LAYERS or arguments.cells % (MIXES * LAYERS):
        parser.error(f"--cells: expected a multiple of {MIXES * LAYERS} (mixes x layers), found {arguments.cells}; choose one")

    def measured() -> Found:
        with empty_folder(arguments.scratch / "orchestrate") as folder:
            return measure(arguments, folder)

    run(arguments, measured, rendered)


def study(cells: int) -> dict[str, Any]:
    """A study of that many cells with one small arm each."""
    shares = [n / (MIXES - 1) for n in range(MIXES)]
    return {
        "name": "orchestrate",
        "subject": {
            "model": "bundled",
            "bundled": {"d_model": 32, "n_layers": LAYERS, "n_heads": 2, "vocab_size": 512, "tokens": 300_000, "learning_rate": 0.004},
        },
        "sources": {"prose": {"kind": "installed_docs", "packages": ["networkx"]}, "code": {"kind": "installed_code", "packages": ["networkx"]}},
        "mixes": {f"M{n}": {name: share for name, share in (("prose", 1 - part), ("code", part)) if share} for n, part in enumerate(shares)},
        "held_out": {"prose": {"shares": {"prose": 1.0}, "kind": "in_sample", "tokens": 1_000}},
        "activations": {"layers": list(range(LAYERS)), "context_length": 32, "tokens": 2_000},
        "saes": {
            "expansions": [1 + n / 16 for n in range(cells // (MIXES * LAYERS))],
            "arms": [{"architecture": "topk", "k": 2, "tokens": 1_000, "batch_size": 250}],
        },
        "evaluation": {"ce_tokens": 500},
        "analysis": {"bootstrap_samples": 200},
    }


def measure(arguments: argparse.Namespace, folder: Path) -> Found:
    """Both runs of the study between two series of empty Dagster runs."""
    file, home = folder / "orchestrate.yaml", folder / "home"
    file.write_text(yaml.safe_dump(study(arguments.cells)))
    empty = _empty_runs(folder / "before")
    say(f"running a study of {arguments.cells} cells from nothing")
    first = _run(file, home)
    work = sum(json.loads(manifest.read_text())["seconds"] for manifest in home.glob("store/*/*/manifest.json"))
    say("running it again")
    second = _run(file, home)
    empty += _empty_runs(folder / "after")
    imports = [json.loads(_python(["-W", "ignore", "-c", IMPORTS])) for _ in range(5)]
    if first["failed"] or second["launched"] or second["computed"]:
        raise SystemExit(f"expected a first run without failure and a second that does nothing, found {first} and {second}")
    return {
        "benchmark": "orchestrate",
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        "conditions": CONDITIONS,
        "cells": arguments.cells,
        "runs": first["launched"],
        "first_seconds": first["command_seconds"],
        "work_seconds": round(work, 3),
        "overhead_seconds_per_cell": (first["command_seconds"] - work) / arguments.cells,
        "overhead_seconds_per_run": (first["command_seconds"] - work) / first["launched"],
        "empty_run_seconds": statistics.median(empty),
        "second_seconds": second["command_seconds"],
        "import_seconds": statistics.median(total for _, total in imports),
        "import_times_dagster": statistics.median(total / dagster for dagster, total in imports),
    }


def rendered(found: Found) -> str:
    """The table, with what each row is."""
    rows = [
        ("first run", f"{found['first_seconds']:,.0f} s, {found['runs']:,} runs of Dagster"),
        ("work", f"{found['work_seconds']:,.0f} s"),
        ("overhead a cell", f"{found['overhead_seconds_per_cell']:.2f} s ({found['overhead_seconds_per_run']:.2f} s a run)"),
        ("empty Dagster run", f"{found['empty_run_seconds']:.2f} s"),
        ("second run", f"{found['second_seconds']:.1f} s"),
        ("definitions", f"{found['import_seconds']:.2f} s, {found['import_times_dagster']:.2f} times `import dagster`"),
    ]
    about = found["machine"]
    lines = [f"{found['cells']:,} cells; {found['date']}, {about['cpu']}, {about['cores']} cores", ""]
    lines += [f"{name:<18} {value}" for name, value in rows]
    return "\n".join([*lines, "", *(f"{name}: {text}" for name, text in found["conditions"].items())])


def _run(file: Path, home: Path) -> dict[str, Any]:
    started = time.perf_counter()
    printed = _python(["-c", "from sae_pipeline.cli import main; main()", "run", str(file), "--json"], SAE_HOME=str(home))
    return json.loads(printed.strip().splitlines()[-1]) | {"command_seconds": round(time.perf_counter() - started, 3)}


def _empty_runs(folder: Path) -> list[float]:
    folder.mkdir()
    return json.loads(_python(["-W", "ignore", "-c", EMPTY, str(folder), str(EMPTY_RUNS)], DAGSTER_DISABLE_TELEMETRY="1"))


def _python(arguments: list[str], **variables: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "PYTHONWARNINGS": "ignore"} | variables
    finished = subprocess.run([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if finished.returncode:
        raise SystemExit(f"{' '.join(arguments[-3:])}: expected exit code 0, found {finished.returncode}; what it said is above")
    return finished.stdout


if __name__ == "__main__":
    main()

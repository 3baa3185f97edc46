"""Running a benchmark program as its users do, and what holds for all of them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[2] / "benchmarks"

Run = tuple[dict[str, Any], str, Path]
"""The object on the last line, the table above it, and the scratch folder; the file that was written lies beside that."""


def answered(program: Path, *options: str) -> tuple[dict[str, Any], str]:
    """The object on the last line of a program's output, and the table above it."""
    finished = subprocess.run([sys.executable, str(program), *options, "--json"], capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    table, _, last = finished.stdout.strip().rpartition("\n")
    return json.loads(last), table


def ran(program: Path, folder: Path, *options: str) -> Run:
    """A run of ours alone."""
    found, table = answered(program, *options, "--peers", "--scratch", str(folder / "work"), "--output", str(folder / "found.json"))
    return found, table, folder / "work"


def assert_the_file_gives_the_same_table(program: Path, run: Run) -> None:
    """The file holds the same object, date included."""
    found, table, scratch = run
    file = scratch.parent / "found.json"
    assert json.loads(file.read_text()) == found
    again = subprocess.run([sys.executable, str(program), "--render", str(file)], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == table.strip()


def assert_ours_alone(found: dict[str, Any]) -> None:
    """Without a peer there is no ratio, and nothing stands in for it."""
    assert found["peers"] == {}
    assert found["ratio_to_best_peer"] is None
    assert found["ours"]["tokens_per_second"] > 0
    assert found["ours"]["peak_mib"] >= found["ours"]["loaded_mib"] > 0

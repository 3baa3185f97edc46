"""The benchmark of orchestration runs a small study twice and prints the object that it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_runs import FOLDER, answered, assert_the_file_gives_the_same_table

PROGRAM = FOLDER / "orchestrate.py"


@pytest.mark.release
def test_a_small_study_has_every_figure_and_the_second_run_costs_less(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch" / "work"
    found, table = answered(PROGRAM, "--cells", "20", "--scratch", str(scratch), "--output", str(tmp_path / "scratch" / "found.json"))
    assert found["cells"] == 20
    # Cells are trained and evaluated: two runs each, beside those of corpora, layers and tables.
    assert found["runs"] > 2 * 20
    assert 0 < found["overhead_seconds_per_cell"] < found["first_seconds"] / 20
    assert 0 < found["second_seconds"] < found["first_seconds"]
    assert found["import_times_dagster"] > 1
    assert not any(scratch.iterdir())
    assert_the_file_gives_the_same_table(PROGRAM, (found, table, scratch))


def test_a_number_of_cells_that_does_not_fit_is_refused() -> None:
    refused = subprocess.run([sys.executable, str(PROGRAM), "--cells", "30"], capture_output=True, text=True, check=False)
    assert refused.returncode == 2
    assert "expected a multiple of 20 (mixes x layers), found 30" in refused.stderr

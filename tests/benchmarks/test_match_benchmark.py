"""The matching benchmark runs on few latents and prints the object that it promises, and refuses to compare different results."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmark_runs import Run, assert_the_file_gives_the_same_table

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "match.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("scratch")
    options = ["--quick", "--large", "--scratch", str(folder / "work"), "--json", "--output", str(folder / "found.json")]
    finished = subprocess.run([sys.executable, str(PROGRAM), *options], capture_output=True, text=True, check=True)
    table, _, last = finished.stdout.strip().rpartition("\n")
    return json.loads(last), table, folder / "work"


@pytest.mark.slow
def test_every_size_has_both_kinds_and_the_large_one_is_ours_alone(run: Run) -> None:
    rows = run[0]["rows"]
    assert [(row["n"], row["dictionaries"], row["scipy"] is None) for row in rows] == [
        (1_100, "related", False), (1_100, "unrelated", False), (1_200, "related", True), (1_200, "unrelated", True),
    ]  # fmt: skip
    assert all(row["ours"]["seconds"] > 0 and row["ours"]["peak_mib"] > 0 and row["ours"]["exact"] for row in rows)


@pytest.mark.slow
def test_ratios_are_given_where_both_tools_ran_and_totals_agree(run: Run) -> None:
    """With one round the median of the ratios is the ratio of the times."""
    for row in run[0]["rows"][:2]:
        assert row["ours_is_times_faster"] == pytest.approx(row["scipy"]["seconds"] / row["ours"]["seconds"])
        assert row["ours"]["total"] == pytest.approx(row["scipy"]["total"], rel=1e-6)
    assert all(row["ours_is_times_faster"] is None for row in run[0]["rows"][2:])


@pytest.mark.slow
def test_the_table_says_what_was_compared_and_nothing_is_left_on_disk(run: Run) -> None:
    _, table, scratch = run
    assert "linear_sum_assignment" in table
    assert not any(scratch.iterdir())


@pytest.mark.slow
def test_the_table_can_be_printed_again_from_the_file(run: Run) -> None:
    assert_the_file_gives_the_same_table(PROGRAM, run)


def test_results_that_differ_are_not_compared() -> None:
    from match import check_same

    check_same("related", 4096, 1000.0001, 1000.0)
    with pytest.raises(SystemExit, match="expected the total 1000 of linear_sum_assignment"):
        check_same("related", 4096, 999.9, 1000.0)


def test_related_dictionaries_share_what_they_should() -> None:
    """Half of the latents, at a cosine of 1/sqrt(1 + 0.7²) = 0.82; the nearest of the others is chance, in 256 dimensions below 0.4."""
    script = (
        f"import sys; sys.path.insert(0, {str(PROGRAM.parent / 'workers')!r})\n"
        "from dictionaries import dictionaries\n"
        "a, b = dictionaries('related', 400, 256)\n"
        "best = (a @ b.T).amax(1)\n"
        "print(float(best[:200].mean()), float(best[200:].max()), float(dictionaries('unrelated', 400, 256)[1].norm(dim=1).max()))\n"
    )
    common, others, norm = map(float, subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())
    assert common == pytest.approx(1.49**-0.5, abs=0.01)
    assert others < 0.4
    assert norm == pytest.approx(1)

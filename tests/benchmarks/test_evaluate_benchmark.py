"""The evaluation benchmark runs on a tiny model and prints the object that it promises, and says how to build a peer that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_runs import Run, assert_ours_alone, assert_the_file_gives_the_same_table, ran

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "evaluate.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(PROGRAM, tmp_path_factory.mktemp("scratch"), "--quick", "--memory")


def test_the_last_line_holds_every_promised_figure(run: Run) -> None:
    found, _, _ = run
    assert_ours_alone(found)
    assert found["fraction_of_limit"] > 0
    assert [(part["saes"], part["baseline_counted"]) for part in found["cases"].values()] == [(1, False), (1, True), (4, False), (4, True)]


def test_what_is_counted_is_only_added_to_what_is_not(run: Run) -> None:
    """The baseline takes time, so with it a case takes longer."""
    cases = run[0]["cases"]
    for case in ("one", "four"):
        assert cases[f"{case}_from_ids"]["ours"]["seconds"] > cases[case]["ours"]["seconds"]


def test_memory_is_measured_on_both_sizes(run: Run) -> None:
    memory = run[0]["memory"]
    small, large = memory["sizes"]
    assert large["tokens"] > 9 * small["tokens"] > 18_000
    assert memory["ratio"] == large["anonymous_mib"] / small["anonymous_mib"]
    assert all(each["baseline_anonymous_mib"] > 0 for each in memory["sizes"])


def test_the_table_says_what_was_compared_and_nothing_is_left_on_disk(run: Run) -> None:
    """Conditions stand below the table; model, SAEs and activations are gone."""
    _, table, scratch = run
    assert "one clean forward pass with logits" in table
    assert "4 SAEs of a layer, from token ids: ours" in table
    assert not any(scratch.iterdir())


def test_the_table_can_be_printed_again_from_the_file(run: Run) -> None:
    assert_the_file_gives_the_same_table(PROGRAM, run)


def test_tools_that_measured_something_else_are_not_compared() -> None:
    from evaluate import check_same

    check_same({"sae-0": {"l0": 32.0}}, {"sae-0": {"l0": 32.0}})
    with pytest.raises(SystemExit, match="expected l0 32 as ours"):
        check_same({"sae-0": {"l0": 32.0}}, {"sae-0": {"l0": 31.0}})


def test_the_missing_peer_is_reported_with_the_command_that_builds_it() -> None:
    """Never left out in silence."""
    from evaluate import peers_missing

    assert "python benchmarks/evaluate.py --build-peers" in peers_missing(["sae-lens"])["sae-lens"]["missing"]

"""The harvesting benchmark runs on a tiny model and prints the object that it promises, and says how to build a peer that is missing."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_runs import Run, assert_ours_alone, assert_the_file_gives_the_same_table, ran

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "harvest.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return ran(
        PROGRAM,
        tmp_path_factory.mktemp("scratch"),
        "--shape",
        "tiny",
        "--rounds",
        "1",
        "--precisions",
        "bfloat16",
        "--contexts",
        "16",
        "--stream-tokens",
        "9000",
    )


@pytest.mark.slow
def test_the_last_line_holds_every_promised_figure(run: Run) -> None:
    found, _, _ = run
    assert_ours_alone(found)
    assert 0 < found["fraction_of_limit"] < 2
    assert {"warm", "cold"} <= found["stream"].keys()
    assert found["stream"]["tokens"] >= 9_000
    assert found["layers"] == [0, 1, 2, 3]


@pytest.mark.slow
def test_bytes_per_token_are_two_per_value_and_one_number(run: Run) -> None:
    """32 values in bfloat16 and the document in int32, beside a header of a page per shard."""
    found, _, _ = run
    assert 2 * 32 + 4 <= found["bytes_per_token"] < 2 * 32 + 4 + 1
    assert found["overhead_of_two_bytes_per_value"] == pytest.approx(found["bytes_per_token"] / 64 - 1)


@pytest.mark.slow
def test_the_table_says_what_was_compared_and_nothing_is_left_on_disk(run: Run) -> None:
    """Conditions stand below the table; model and caches are gone."""
    _, table, scratch = run
    assert "blocks up to the last hooked one" in table
    assert "cold files" in table
    assert not any(scratch.iterdir())


@pytest.mark.slow
def test_the_table_can_be_printed_again_from_the_file(run: Run) -> None:
    assert_the_file_gives_the_same_table(PROGRAM, run)
    assert run[1].startswith(run[0]["date"])


def test_a_peer_without_environment_is_reported_with_the_command_that_builds_it() -> None:
    """Never left out in silence."""
    from harvest import peers_missing
    from side_by_side import Peer

    peer = Peer("some tool", ".venv-that-nobody-built", "SOME_TOOL_PYTHON", "requirements-saelens.txt")
    assert peer.python is None
    reason = peers_missing([peer])["some tool"]["missing"]
    assert ".venv-that-nobody-built" in reason
    assert "python benchmarks/harvest.py --build-peers" in reason

"""The harvesting benchmark runs on a tiny model and prints the object that it promises, and says how to build a peer that is missing."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

PROGRAM = Path(__file__).parents[2] / "benchmarks" / "harvest.py"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str, Path]:
    """The object on the last line, the table above it, and the scratch folder, of a run of ours alone."""
    scratch = tmp_path_factory.mktemp("scratch")
    options = ["--shape", "tiny", "--rounds", "1", "--precisions", "bfloat16", "--contexts", "16", "--stream-tokens", "9000"]
    finished = subprocess.run(
        [sys.executable, str(PROGRAM), *options, "--peers", "--scratch", str(scratch / "work"), "--json", "--output", str(scratch / "found.json")],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    table, _, last = finished.stdout.strip().rpartition("\n")
    return json.loads(last), table, scratch / "work"


def test_the_last_line_holds_every_promised_figure(run: tuple[dict[str, Any], str, Path]) -> None:
    """Without a peer there is no ratio, and nothing stands in for it."""
    found, _, _ = run
    assert found["peers"] == {}
    assert found["ratio_to_best_peer"] is None
    assert 0 < found["fraction_of_limit"] < 2
    assert found["ours"]["tokens_per_second"] > 0
    assert found["ours"]["peak_mib"] >= found["ours"]["loaded_mib"] > 0
    assert {"warm", "cold"} <= found["stream"].keys()
    assert found["stream"]["tokens"] >= 9_000
    assert found["layers"] == [0, 1, 2, 3]


def test_bytes_per_token_are_two_per_value_and_one_number(run: tuple[dict[str, Any], str, Path]) -> None:
    """32 values in bfloat16 and the document in int32, beside a header of a page per shard."""
    found, _, _ = run
    assert 2 * 32 + 4 <= found["bytes_per_token"] < 2 * 32 + 4 + 1
    assert found["overhead_of_two_bytes_per_value"] == pytest.approx(found["bytes_per_token"] / 64 - 1)


def test_the_table_says_what_was_compared_and_nothing_is_left_on_disk(run: tuple[dict[str, Any], str, Path]) -> None:
    """Conditions stand below the table; model and caches are gone."""
    _, table, scratch = run
    assert "blocks up to the last hooked one" in table
    assert "cold files" in table
    assert not any(scratch.iterdir())


def test_the_table_can_be_printed_again_from_the_file(run: tuple[dict[str, Any], str, Path]) -> None:
    """The file holds the same object, date included, and gives the same table."""
    found, table, scratch = run
    file = scratch.parent / "found.json"
    assert json.loads(file.read_text()) == found
    again = subprocess.run([sys.executable, str(PROGRAM), "--render", str(file)], capture_output=True, text=True, check=True)
    assert again.stdout.strip() == table.strip()
    assert table.startswith(found["date"])


def test_a_peer_without_environment_is_reported_with_the_command_that_builds_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Never left out in silence."""
    monkeypatch.syspath_prepend(str(PROGRAM.parent))
    from harvest import peers_missing
    from side_by_side import Peer

    peer = Peer("some tool", ".venv-that-nobody-built", "SOME_TOOL_PYTHON", "requirements-saelens.txt")
    assert peer.python is None
    reason = peers_missing([peer])["some tool"]["missing"]
    assert ".venv-that-nobody-built" in reason
    assert "python benchmarks/harvest.py --build-peers" in reason

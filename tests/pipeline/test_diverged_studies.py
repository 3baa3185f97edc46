"""A study of which one arm diverges: the first run says so, the next goes on with the others and keeps naming it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from small_study import SmallStudy
from typer.testing import CliRunner

from sae_pipeline.cli import app

NAME = "MORE.L01.x02.relu-l4-t6144-s0"


def answer(exit_code: int, *arguments: str) -> dict[str, Any]:
    """The JSON answer of a command that must exit like this."""
    result = CliRunner().invoke(app, [*arguments, "--json"])
    assert result.exit_code == exit_code, result.output
    return json.loads(result.stdout.strip().splitlines()[-1])


def one_steep_arm(data: dict[str, Any]) -> None:
    data["mixes"] = {"MORE": data["mixes"]["MORE"]}
    data["activations"]["layers"] = [1]
    data["saes"]["expansions"] = [2]
    steep = {"architecture": "relu", "target_l0": 4, "learning_rate": 1e6}
    trunk = {"architecture": "topk", "k": 4, "tokens": [2_048, 6_144], "budgets": "trunk"}
    data["saes"]["arms"] = [steep, {"architecture": "topk", "k": 4}, trunk]


@pytest.mark.slow
def test_the_run_that_finds_it_fails_and_the_next_finishes_without_it(
    small_study: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, home = small_study.write(one_steep_arm), tmp_path / "home"
    monkeypatch.setenv("SAE_HOME", str(home))
    first = answer(1, "run", path)
    [failure] = first["failures"]
    assert failure["error"].startswith("MORE L01 x02: expected every loss to stay finite")
    assert "found 1 of 4 arms diverged: relu-l4-t6144-s0 has loss" in failure["error"]
    assert first["computed_by_asset"].get("toy/MORE/saes") == 3, first
    second = answer(0, "run", path)
    assert second["failed"] == 0
    assert "toy/MORE/saes" not in second["computed_by_asset"]  # nothing was trained
    assert answer(0, "run", path)["launched"] == 0
    _is_in_the_warehouse_and_the_report(home)


def _is_in_the_warehouse_and_the_report(home: Path) -> None:
    with duckdb.connect(str(home / "studies/toy/warehouse.duckdb"), read_only=True) as connection:
        rows = connection.execute("SELECT sae_id, step, steps, learning_rate FROM diverged").fetchall()
        shared = connection.execute("SELECT tokens, trunk_steps FROM saes WHERE trunk_tokens IS NOT NULL ORDER BY tokens").fetchall()
        evaluated = connection.execute("SELECT count(DISTINCT sae_id) FROM sae_metrics").fetchone()
    assert [(name, steps, rate) for name, _, steps, rate in rows] == [(NAME, 24, 1e6)]
    assert shared == [(2_048, 6), (6_144, 0)]
    assert evaluated == (3,)
    page = (home / "studies/toy/report/report.md").read_text()
    assert f"1 SAE diverged and is in no comparison: {NAME} at step {rows[0][1]} of 24" in page
    assert "The budgets of 2 SAEs share a trunk" in page

"""`sae-pipeline report --results` and `sae-pipeline compare` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from sae_pipeline.cli import app
from sae_pipeline.errors import BadInput


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Two mixes at three widths on two sets, under names of its own; the mix gains 0.1 on its own kind of text."""
    rows = [
        {"trained on": mix, "text": name, "factor": factor, "fve": 0.5 + 0.02 * factor + 0.1 * (mix == name), "notes": "none"}
        for mix in ("web", "chat") for name in ("web", "chat") for factor in (2, 4, 8)
    ]  # fmt: skip
    path = tmp_path / "published.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def command(*arguments: str) -> Result:
    return CliRunner().invoke(app, [*arguments])


NAMES = ("--map", "mix=trained on", "--map", "evaluation_set=text", "--map", "expansion=factor", "--map", "explained_variance=fve")


def test_a_published_table_becomes_findings_and_a_report(table: Path, tmp_path: Path) -> None:
    result = command(
        "report", "--results", str(table), *NAMES, "--in-domain", "web=web", "--in-domain", "chat=chat", "--to", str(tmp_path / "out"), "--json"
    )
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["rows"], told["unused"], told["left_out"]) == (12, ["notes"], [])
    assert told["columns"]["mix"] == {"column": "trained on", "times": 1.0}
    analyses = {entry["analysis"]: entry for entry in told["analyses"]}
    assert analyses["in-domain advantage (S0-13)"]["possible"]
    assert analyses["layer (S0-17)"] == {"analysis": "layer (S0-17)", "possible": False, "lacks": "the column layer"}
    found = json.loads((tmp_path / "out" / "findings.json").read_text())["findings"]
    assert next(row for row in found if row["id"] == "S0-13")["estimate"] == pytest.approx(0.2)
    assert Path(told["report"]).exists()


def test_what_a_table_allows_is_printed(table: Path, tmp_path: Path) -> None:
    result = command("report", "--results", str(table), *NAMES, "--to", str(tmp_path / "out"))
    assert result.exit_code == 0, result.output
    assert "possible: expansion factor (S0-14)" in result.stdout
    assert "not possible: layer (S0-17); lacks the column layer" in result.stdout
    assert "nothing taken from: notes" in result.stdout
    assert result.stdout.rstrip().endswith("index.html")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "found neither"),
        (("study.yaml", "--results", "table.csv"), "found both"),
        (("study.yaml", "--map", "mix=a"), "belong to --results"),
        (("--results", "none.csv", "--to", "out"), "found nothing; check the path"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: tuple[str, ...], words: str) -> None:
    result = command("report", *arguments)
    assert isinstance(result.exception, BadInput)
    assert words in str(result.exception)


def test_a_report_needs_a_folder(table: Path) -> None:
    refusal = command("report", "--results", str(table), *NAMES).exception
    assert isinstance(refusal, BadInput)
    assert "--to DIR" in str(refusal)


def test_a_table_is_no_side_of_a_comparison(table: Path) -> None:
    refusal = command("compare", str(table), "study.yaml").exception
    assert isinstance(refusal, BadInput)
    assert "expected a study file or a warehouse.duckdb, found a table" in str(refusal)


@pytest.mark.parametrize(
    ("place", "words"), [("none.yaml", "expected a study file"), ("none.duckdb", "found none at"), ("broken.duckdb", "a warehouse that DuckDB reads")]
)
def test_a_side_that_cannot_be_read_is_named(tmp_path: Path, place: str, words: str) -> None:
    (tmp_path / "broken.duckdb").write_bytes(b"no database")
    refusal = command("compare", str(tmp_path / place), str(tmp_path / "broken.duckdb")).exception
    assert isinstance(refusal, BadInput)
    assert words in str(refusal)

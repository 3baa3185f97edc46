"""The command line as a test uses it, and what holds for every table that it leaves in a warehouse."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
from typer.testing import CliRunner

from sae_pipeline.cli import app

WAREHOUSE_PAGE = Path(__file__).resolve().parents[2] / "docs/warehouse.md"


def answer(home: Path, *arguments: str) -> dict[str, Any]:
    """The JSON answer of a command that must succeed, on a home."""
    result = CliRunner().invoke(app, list(arguments), env={"SAE_HOME": str(home)})
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


def assert_documented(warehouse: duckdb.DuckDBPyConnection, tables: Iterable[str]) -> None:
    """Every table has its part of the manual page, which names every column; and every column has a type."""
    page = WAREHOUSE_PAGE.read_text()
    for table in tables:
        described = page.split(f"## `{table}`")[1].split("\n## ")[0]
        for name, kind, *_ in warehouse.execute(f"DESCRIBE {table}").fetchall():
            assert f"`{name}`" in described, f"{table}.{name}"
            assert kind != '"NULL"', f"{table}.{name} has no type"

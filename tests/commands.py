"""The command line as a test uses it, and what holds for every table that it leaves in a warehouse."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import duckdb
from typer.testing import CliRunner

from sae_pipeline.cli import app

WAREHOUSE_PAGE = Path(__file__).resolve().parents[1] / "docs/warehouse.md"


def answer(home: Path | None, *arguments: str, code: int = 0) -> dict[str, Any]:
    """The JSON answer of a command that ends with ``code``, on a home or on the environment's."""
    result = CliRunner().invoke(app, list(arguments), env={"SAE_HOME": str(home)} if home else None)
    assert result.exit_code == code, result.output
    found: dict[str, Any] = json.loads(result.stdout.strip().splitlines()[-1])
    return found


def invoke(*arguments: str, code: int = 0) -> dict[str, Any]:
    """The JSON answer of a command on the environment's home."""
    return answer(None, *arguments, code=code)


def assert_documented(warehouse: duckdb.DuckDBPyConnection, tables: Iterable[str]) -> None:
    """Every table has its part of the manual page, which names every column; and every column has a type."""
    page = WAREHOUSE_PAGE.read_text()
    for table in tables:
        described = page.split(f"## `{table}`")[1].split("\n## ")[0]
        for name, kind, *_ in warehouse.execute(f"DESCRIBE {table}").fetchall():
            assert f"`{name}`" in described, f"{table}.{name}"
            assert kind != '"NULL"', f"{table}.{name} has no type"

"""What the tests of security borrow from other folders: loopback hubs, the UI as a process, made-up studies and tables."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

BORROWED_FROM = ("saes", "ui", "reports", "foreign_tables")
sys.path += [str(Path(__file__).resolve().parents[1] / folder) for folder in BORROWED_FROM]


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that is there once somebody's code has run."""
    return tmp_path / "executed"

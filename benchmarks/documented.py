"""Puts the tables of `results/` into the documentation, so that every figure there comes from a file.

    python benchmarks/documented.py

In the page each table stands between two comments; the first names the command that prints it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import evaluate
import harvest
import match
import orchestrate
import recovery
import train_memory
import training_table
from side_by_side import REPOSITORY

PAGE = REPOSITORY / "docs" / "performance.md"
RENDERERS: dict[str, Callable[[dict[str, Any]], str]] = {
    "harvest.py": lambda found: f"```\n{harvest.rendered(found)}\n```",
    "train.py": training_table.rendered,
    "evaluate.py": lambda found: f"```\n{evaluate.rendered(found)}\n```",
    "train_memory.py": train_memory.rendered,
    "recovery.py": recovery.rendered,
    "match.py": lambda found: f"```\n{match.rendered(found)}\n```",
    "orchestrate.py": lambda found: f"```\n{orchestrate.rendered(found)}\n```",
}
PLACE = re.compile(r"(<!-- figures: python benchmarks/(?P<program>\w+\.py) --render (?P<file>\S+) -->\n).*?(<!-- end of figures -->)", re.DOTALL)


def main() -> None:
    """Rewrite the page."""
    PAGE.write_text(filled(PAGE.read_text(), REPOSITORY))


def filled(page: str, folder: Path) -> str:
    """The page with every table whose file exists in ``folder``; a place whose file does not exist says that it was not measured."""

    def table(place: re.Match[str]) -> str:
        file = folder / place["file"]
        text = RENDERERS[place["program"]](json.loads(file.read_text())) if file.exists() else "Not measured yet."
        return f"{place[1]}\n{text}\n\n{place[4]}"

    return PLACE.sub(table, page)


if __name__ == "__main__":
    main()

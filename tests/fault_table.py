"""The table of the fault suite: printed at the end of a test run, and written into its page by ``pytest --fault-page PAGE``."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

PROPERTY = "fault"
BEGIN, END = "<!-- cases -->", "<!-- end of cases -->"
HEADINGS = {
    "kill": "Killed and stopped",
    "fill": "Filled disks",
    "corrupt": "Damaged files",
    "deny": "Denied rights",
    "disconnect": "Lost connections",
}


@dataclass(frozen=True)
class Row:
    """What came of a case."""

    kind: str
    name: str
    lost: list[str]
    """Finished artifacts that were gone or made anew; none, or the case fails."""
    computed: int
    """Artifacts that the run afterwards, or the run itself where it mended what it found, had to compute."""
    seen: str
    """What the user saw of the disturbed run."""

    def as_property(self) -> str:
        """In a form that a worker can hand to the process that prints the table."""
        return json.dumps(asdict(self))

    def line(self) -> str:
        """As a row of a Markdown table."""
        seen = self.seen.replace("\n", "<br>").replace("|", r"\|")
        return f"| {self.name} | {', '.join(self.lost) or 'nothing'} | {self.computed} | {seen} |"


def rows_of(reporter: Any) -> list[Row]:
    """The rows that passed cases have recorded."""
    found = [dict(report.user_properties).get(PROPERTY) for report in reporter.stats.get("passed", ())]
    return [Row(**json.loads(row)) for row in found if row]


def as_markdown(lines: dict[str, dict[str, str]]) -> str:
    """The table, a part for each kind: its lines by the names of the cases."""
    parts = []
    for kind, heading in HEADINGS.items():
        if lines.get(kind):
            parts.append(
                "\n".join([f"## {heading}", "", "| case | lost | computed again | what the user saw |", "|---|---|---|---|", *lines[kind].values()])
            )
    return "\n\n".join(parts)


def by_kind(rows: list[Row]) -> dict[str, dict[str, str]]:
    """The lines of rows by kind and name."""
    found: dict[str, dict[str, str]] = {}
    for row in rows:
        found.setdefault(row.kind, {})[row.name] = row.line()
    return found


def lines_of(page: str) -> dict[str, dict[str, str]]:
    """The lines of a page by kind and name."""
    found: dict[str, dict[str, str]] = {}
    for kind, heading in HEADINGS.items():
        part = re.search(rf"^## {heading}\n\n.*\n.*\n((?:\|.*\n?)+)", _between(page), re.MULTILINE)
        found[kind] = {line.split(" | ")[0].removeprefix("| "): line for line in part[1].splitlines()} if part else {}
    return found


def write_page(page: Path, rows: list[Row]) -> None:
    """Put the lines of these rows into the table of the page; those of cases that were not run stay."""
    text = page.read_text()
    lines, new = lines_of(text), by_kind(rows)
    merged = {kind: lines[kind] | new.get(kind, {}) for kind in HEADINGS}
    page.write_text(text.replace(_between(text), f"{BEGIN}\n{as_markdown(merged)}\n{END}"))


def _between(page: str) -> str:
    return page[page.index(BEGIN) : page.index(END) + len(END)]

"""What keeps a YAML file from being larger than it looks: aliases that multiply, and nesting that no reader survives."""

from __future__ import annotations

from typing import Any

import yaml

MOST_VALUES = 100_000
"""Values of a file with its aliases written out; the largest study has some hundreds."""

DEEPEST = 50
"""Lists and mappings inside one another."""


def check_yaml(text: str, loader: Any = yaml.SafeLoader) -> None:
    """Refuse a text before anything is made of it; a few kilobytes of aliases can stand for gigabytes.

    Raises:
        yaml.MarkedYAMLError: it is too large, too deep, holds a value that contains itself, or is no YAML.
    """
    values: dict[str, int | None] = {}  # of every anchor; None while it is not closed
    around: list[tuple[str | None, int]] = []  # anchor and values so far of what is not closed
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, 1))
            if event.anchor is not None:
                values[event.anchor] = None
            if len(around) > DEEPEST:
                raise _error(event, f"lists or mappings nested more than {DEEPEST} deep")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = around.pop()
        elif isinstance(event, yaml.AliasEvent):
            known = values.get(event.anchor or "", 0)  # 0: there is none of that name, which reading the file tells
            if known is None:
                raise _error(event, f"a value that contains itself (*{event.anchor})")
            anchor, size = None, known
        elif isinstance(event, yaml.ScalarEvent):
            anchor, size = event.anchor, 1
        else:
            continue
        if anchor is not None:
            values[anchor] = size
        if around:
            around[-1] = (around[-1][0], around[-1][1] + size)
            if around[-1][1] > MOST_VALUES:
                raise _error(event, f"more than {MOST_VALUES:,} values, aliases written out")


def _error(event: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)

"""What keeps a YAML file from being larger than it looks: aliases that multiply, and nesting that no reader survives."""

from __future__ import annotations

from typing import Any, NamedTuple

import yaml

MOST_VALUES = 100_000
"""Values of a file with its aliases written out; the largest study has some hundreds."""

DEEPEST = 50
"""Lists and mappings inside one another, with aliases written out: a reader of the values descends into those too."""


class _Extent(NamedTuple):
    """What a value comes to with its aliases written out."""

    size: int
    """Values, itself included."""
    depth: int
    """Levels of lists and mappings; 0 of a scalar."""


def check_yaml(text: str, loader: Any = yaml.SafeLoader) -> None:
    """Refuse a text before anything is made of it; a few kilobytes of aliases can stand for gigabytes.

    Raises:
        yaml.MarkedYAMLError: it is too large, too deep, holds a value that contains itself, or is no YAML.
    """
    anchors: dict[str, _Extent | None] = {}  # None while it is not closed
    around: list[tuple[str | None, _Extent]] = []  # what is not closed: anchor, and extent so far
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.CollectionStartEvent):
            around.append((event.anchor, _Extent(1, 1)))
            if event.anchor is not None:
                anchors[event.anchor] = None
            if len(around) > DEEPEST:
                raise _error(event, f"lists or mappings nested more than {DEEPEST} deep, aliases written out")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, extent = around.pop()
        elif isinstance(event, yaml.AliasEvent):
            known = anchors.get(event.anchor or "", _Extent(0, 0))  # nothing: there is none of that name, which reading the file tells
            if known is None:
                raise _error(event, f"a value that contains itself (*{event.anchor})")
            if len(around) + known.depth > DEEPEST:
                raise _error(event, f"lists or mappings nested more than {DEEPEST} deep, aliases written out")
            anchor, extent = None, known
        elif isinstance(event, yaml.ScalarEvent):
            anchor, extent = event.anchor, _Extent(1, 0)
        else:
            continue
        if anchor is not None:
            anchors[anchor] = extent
        if around:
            outer, so_far = around[-1]
            around[-1] = outer, _Extent(so_far.size + extent.size, max(so_far.depth, 1 + extent.depth))
            if around[-1][1].size > MOST_VALUES:
                raise _error(event, f"more than {MOST_VALUES:,} values, aliases written out")


def _error(event: Any, problem: str) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=event.start_mark)

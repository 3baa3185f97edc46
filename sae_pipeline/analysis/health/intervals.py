"""Intervals of the real line as rubrics write them: ``[0.4, 0.6)`` holds 0.4 and not 0.6."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import inf, isfinite
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict


class Range(BaseModel):
    """An interval of the real line."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float
    low_included: bool
    high_included: bool

    def __contains__(self, value: float) -> bool:
        """Whether a value lies inside, minding which edges belong to it."""
        return (self.low < value < self.high) or (self.low_included and value == self.low) or (self.high_included and value == self.high)


def _parsed(text: object) -> object:
    """Interval notation as a :class:`Range`."""
    if not isinstance(text, str):
        return text
    match = re.fullmatch(r"\s*([\[(])\s*(\S+)\s*,\s*(\S+?)\s*([\])])\s*", text)
    try:
        low, high = (float(part) for part in match.group(2, 3)) if match else (inf, -inf)
    except ValueError:
        low, high = inf, -inf
    if match is None or not low <= high or (low == high and match.group(1, 4) != ("[", "]")):
        raise ValueError(f"expected an interval such as '[0.4, 0.6)' or '(-inf, 5]', found '{text}'")
    return Range(low=low, high=high, low_included=match.group(1) == "[", high_included=match.group(4) == "]")


Interval = Annotated[Range, BeforeValidator(_parsed)]


def pieces(ranges: Sequence[Range]) -> Iterator[tuple[float, str]]:
    """A value of every piece that the ranges' edges cut the line into, and the piece in words.

    Every value of a piece lies in the same ranges, so what holds for the one given holds for the piece.
    """
    edges = sorted({edge for span in ranges for edge in (span.low, span.high) if isfinite(edge)})
    for low, high in pairwise([-inf, *edges, inf]):
        if low == -inf:
            yield (high - 1, f"below {high:g}") if isfinite(high) else (0.0, "anywhere")
        elif high == inf:
            yield low + 1, f"above {low:g}"
        else:
            yield (low + high) / 2, f"from {low:g} to {high:g}"
    for edge in edges:
        yield edge, f"at {edge:g}"

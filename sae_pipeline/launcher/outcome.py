"""What a launch is about and what came of it."""

from __future__ import annotations

from dataclasses import dataclass, field

WHAT_TO_DO = "what_to_do"
"""Metadata of a check that says how to mend what it found."""

COMPUTED, REUSED = "computed", "reused"
"""Metadata keys of a materialisation that a launch adds up: artifacts really produced, and found in the store."""


@dataclass(frozen=True)
class Stale:
    """A partition that has to run, and why. ``follows`` means only because something upstream may change it."""

    asset: str
    partition: str | None
    reason: str
    follows: bool = False


@dataclass
class Outcome:
    """What a run did: ``launched`` Dagster runs, artifacts really ``computed`` or ``reused``, and what failed."""

    launched: int = 0
    computed: int = 0
    reused: int = 0
    computed_by_asset: dict[str, int] = field(default_factory=dict)
    failures: list[tuple[str, str]] = field(default_factory=list)
    outdated: set[str] = field(default_factory=set)
    """Assets that failed or hang on one that did: what there is of them is of an earlier run."""
    damaged: bool = False
    seconds: float = 0.0

"""The outcome of one check of ``sae-pipeline doctor``."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Diagnosis:
    """The outcome of one check."""

    check: str
    healthy: bool
    found: str
    """What was seen, in a sentence."""
    remedy: str = ""
    """What to do where it is not healthy."""
    mend: Callable[[], None] | None = field(default=None, compare=False)
    """Mends it, where this program can."""

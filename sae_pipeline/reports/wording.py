"""Numbers and verdicts in words: every sentence of a report gets its figures through these functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from math import floor, isfinite, log10
from typing import Any

VERDICT_WORDS = {"supported": "supported", "contradicted": "contradicted", "inconclusive": "inconclusive", "not_testable": "not testable here"}
"""The words a verdict is printed with; there are no others."""

NONE = "—"
"""Printed where there is no value."""


def decimal(value: float | None, digits: int = 3) -> str:
    """A value with a fixed number of decimals and a true minus sign."""
    if value is None or not isfinite(value):
        return NONE
    text = f"{value:.{digits}f}"
    return text[1:] if float(text) == 0 and text.startswith("-") else text.replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """A difference: the sign is always written."""
    text = decimal(value, digits)
    return text if text == NONE or text.startswith("−") or float(text) == 0 else f"+{text}"


def digits_for(low: float | None, high: float | None) -> int:
    """Decimals that show two digits of an interval's half width; 3 where there is none, never more than 6."""
    if low is None or high is None or not isfinite(low) or not isfinite(high) or high <= low:
        return 3
    return min(max(1 - floor(log10((high - low) / 2)), 2), 6)


def common_digits(lows: Iterable[float], highs: Iterable[float]) -> int:
    """Decimals, 3 to 5, for figures that are compared with each other: what the middle one of their intervals calls for."""
    widths = sorted(high - low for low, high in zip(lows, highs, strict=True) if isfinite(high - low))
    return min(max(digits_for(0.0, widths[len(widths) // 2]), 3), 5) if widths else 3


def interval(low: float | None, high: float | None, digits: int | None = None) -> str:
    """``[0.012, 0.034]``, or a dash where there is no interval."""
    if low is None or high is None or not isfinite(low) or not isfinite(high):
        return NONE
    digits = digits_for(low, high) if digits is None else digits
    return f"[{decimal(low, digits)}, {decimal(high, digits)}]"


def times(expansion: float) -> str:
    """An expansion factor as ``×8``."""
    return f"×{expansion:g}"


def layer_name(layer: Any) -> str:
    """``layer 8``; ``all layers`` for None or a missing value."""
    return "all layers" if layer is None or not isfinite(layer) else f"layer {int(layer)}"


def counted(count: int, noun: str) -> str:
    """``1 document``, ``2 documents``, ``1,200 SAEs``."""
    plural = noun[:-1] + "ies" if noun.endswith("y") else noun + "s"
    return f"{count:,} {noun if count == 1 else plural}"


def listed(names: Sequence[str], most: int = 6) -> str:
    """``a, b and c``; what is beyond ``most`` names is counted."""
    names = [str(name) for name in names]
    if len(names) > most:
        names = [*names[:most], f"{len(names) - most} more"]
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else "".join(names)


def percent(share: float) -> str:
    """A share as whole per cent; what is neither none nor all never prints as 0 % or 100 %."""
    if 0 < share <= 0.005:  # half a per cent rounds to none
        return "< 1 %"
    if 0.995 <= share < 1:
        return "> 99 %"
    return f"{100 * share:.0f} %"


def evidence_phrase(finding: Mapping[Any, Any], confidence: float, shown: Callable[[float, int], str] = signed) -> str:
    """What a finding rests on: estimate (a difference, unless ``shown`` says otherwise), interval, documents, cells and seeds, in one phrase."""
    if finding["verdict"] == "not_testable" or finding["estimate"] is None or not isfinite(finding["estimate"]):
        return finding["note"] or "no estimate"
    digits = digits_for(finding["low"], finding["high"])
    parts = [f"estimate {shown(finding['estimate'], digits)}"]
    if interval(finding["low"], finding["high"]) != NONE:
        parts[0] += f", {100 * confidence:g} % interval {interval(finding['low'], finding['high'], digits)}"
    parts.append(", ".join(counted(int(finding[name]), name[:-1]) for name in ("documents", "cells", "seeds") if finding[name]))
    return "; ".join(part for part in parts if part)

"""Amounts as claims and reports write them."""

from __future__ import annotations


def compact(value: float) -> str:
    """A token count as ``200k`` or ``1.5M``."""
    for unit, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= unit:
            return f"{value / unit:.4g}{letter}"
    return f"{value:.4g}"

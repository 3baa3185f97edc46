"""Where claims are entered, and the order in which they are told."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from sae_pipeline.analysis.verdicts import Finding, Test

Claim = Callable[[Test], Iterator[Finding]]
CLAIMS: dict[str, Claim] = {}
"""Every claim by its id. A new claim is one function under :func:`claim`, and its place in :data:`ORDER`."""

ORDER = (
    "S0-13", "S0-14", "S0-15", "S0-16", "S0-17", "S0-18", "S0-19", "S0-20", "S0-21", "S0-22", "S0-23", "SEED",
    "S2-1", "S2-6", "S2-13", "S3-30", "S3-38", "S3-39", "S3-40", "S4-18",
)  # fmt: skip
"""Ids in the order of the findings: by source, as the sources tell them."""


def claim(name: str) -> Callable[[Claim], Claim]:
    """Register a claim's function under its id."""

    def register(function: Claim) -> Claim:
        CLAIMS[name] = function
        return function

    return register

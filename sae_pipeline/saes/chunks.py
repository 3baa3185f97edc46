"""How many rows are encoded at a time; imports no torch, because the memory estimate of a plan needs it too."""

from __future__ import annotations

CHUNK = 256
"""Rows worked on at a time: enough for the full rate of a matrix product, few enough that their pre-activations stay in cache
and that a small batch has some for every thread."""

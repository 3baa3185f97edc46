"""How many rows are encoded at a time; imports no torch, because the memory estimate of a plan needs it too."""

from __future__ import annotations

CHUNK = 512
"""Rows encoded at a time: their pre-activations stay in cache until the selection has read them."""

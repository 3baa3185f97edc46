"""The libraries that SAEs are exchanged with, by format: in the environments, and at the versions, that the benchmarks use."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from torch import Tensor

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

from peers import DICTIONARY_LEARNING, SAELENS, SPARSIFY

PEERS = {"saelens": SAELENS, "dictionary_learning": DICTIONARY_LEARNING, "sparsify": SPARSIFY}

Opened = dict[str, dict[str, Any]]
"""Per SAE: ``latents``, ``reconstruction`` and ``about``."""


def agree(found: Tensor, expected: Tensor) -> bool:
    """Within 1e-5 of the largest value: activations here have a norm near 100."""
    return bool((found - expected).abs().max() <= 1e-5 * expected.abs().max())

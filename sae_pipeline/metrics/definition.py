"""What is said of every metric, and phrases that several of them share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NO_VARIANCE = "all activations of the set are equal, so there is no variance to explain"
"""Why a share of the variance can be missing."""


@dataclass(frozen=True)
class Metric:
    """The meaning of one metric column."""

    description: str
    """What it says, in words; sums run over the non-special tokens of the evaluation set."""
    formula: str
    """How it is formed, as plain text: x an activation, x_hat its reconstruction, f the latents, |.| the Euclidean norm."""
    unit: str
    """Unit of the value; "1" for pure numbers."""
    range: tuple[float, float]
    """Values that can occur; negative explained variance is real and is not clamped."""
    better: Literal["higher", "lower"] | None
    """Direction of improvement at equal sparsity, None where neither end is better in itself."""
    null_when: str = "the set has no tokens"
    """Why the value can be missing."""
    source: str = ""
    """Paper or tool that the definition follows; empty where it needs none."""
    elsewhere: str = ""
    """What other tools call it, and how theirs differs; empty where nothing is known to be alike."""
    pitfalls: str = ""
    """What it does not say, or when it misleads."""

"""What training is measured on: the rows of the table, and activations with planted sparse features."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
"""Nested widths of a Matryoshka SAE, as shares of d_sae."""

LIKE_PEERS = ("topk", "batchtopk", "matryoshka")
"""Architectures whose loss and sparsity are the same in every tool."""


@dataclass(frozen=True)
class Row:
    """One training problem.

    Attributes:
        sparsity: k, or the target L0 of the architectures that are steered to one.
    """

    architecture: str
    d_in: int
    d_sae: int
    batch: int
    sparsity: int

    @property
    def name(self) -> str:
        """What ``--rows`` takes and the table shows."""
        return f"{self.architecture}-{self.d_in}x{self.d_sae}-b{self.batch}"

    @property
    def widths(self) -> list[int]:
        """Nested widths, the last of them d_sae."""
        return [round(share * self.d_sae) for share in SHARES]

    def tiny(self) -> Row:
        """The same problem at a size that trains in milliseconds."""
        return replace(self, d_in=32, d_sae=128, batch=64, sparsity=4)


ROWS = (
    Row("topk", 512, 4096, 1024, 32),
    Row("topk", 768, 6144, 4096, 32),
    Row("topk", 768, 12288, 4096, 32),
    Row("batchtopk", 512, 4096, 4096, 32),
    Row("relu", 512, 4096, 4096, 32),
    Row("jumprelu", 512, 4096, 4096, 32),
    Row("gated", 512, 4096, 4096, 32),
    Row("matryoshka", 512, 4096, 4096, 32),
)
"""Measured on a processor."""

CUDA_ROWS = (Row("topk", 2304, 36864, 8192, 64),)
"""Measured on a GPU."""

ARMS_ROW, ARMS = Row("topk", 512, 4096, 1024, 32), 8
"""What several arms on one stream are measured on, and how many there are."""


def planted(n: int, d_in: int, n_features: int, l0: int, seed: int, noise: float = 0.05) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Activations that are sparse sums of known directions, with noise and a constant offset.

    Features have frequencies like those of words, 1 / sqrt(rank) of them drawn with replacement, and coefficients in
    [0.5, 1.5]; the root mean square of a coordinate is 1, so that no tool has to normalise.

    Args:
        l0: features drawn per row.
        noise: standard deviation of the noise, as a share of the signal's.

    Returns:
        (n, d_in) float32 activations and (n_features, d_in) float32 directions of norm 1.
    """
    random = np.random.default_rng(seed)
    directions = random.standard_normal((n_features, d_in), dtype=np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    chosen = (random.random((n, l0)) ** 2 * n_features).astype(np.int64)
    coefficients = (random.random((n, l0)) + 0.5).astype(np.float32)
    rows = np.zeros((n, d_in), dtype=np.float32)
    for place in range(l0):
        rows += coefficients[:, place, None] * directions[chosen[:, place]]
    scale = np.sqrt(np.square(rows).mean(dtype=np.float64))
    rows /= np.float32(scale)
    rows += np.float32(noise) * random.standard_normal(rows.shape, dtype=np.float32)
    rows += np.float32(0.3) * random.standard_normal(d_in, dtype=np.float32)
    rows /= np.float32(np.sqrt(np.square(rows).mean(dtype=np.float64)))
    return rows, directions


@dataclass(frozen=True)
class Written:
    """Activations on disk for the workers.

    Attributes:
        variance: mean squared distance of the held-out rows to their mean.
    """

    activations: Path
    held_out: Path
    variance: float
    directions: NDArray[np.float32]


def write_activations(folder: Path, d_in: int, rows: int, held_out: int, n_features: int, l0: int, seed: int) -> Written:
    """Write ``rows`` activations to train on and ``held_out`` others of the same kind."""
    data, directions = planted(rows + held_out, d_in, n_features, l0, seed)
    folder.mkdir(parents=True, exist_ok=True)
    paths = folder / "activations.npy", folder / "held_out.npy"
    np.save(paths[0], data[:rows])
    np.save(paths[1], data[rows:])
    rest = data[rows:].astype(np.float64)
    return Written(*paths, variance=float(np.square(rest - rest.mean(0)).sum(1).mean()), directions=directions)

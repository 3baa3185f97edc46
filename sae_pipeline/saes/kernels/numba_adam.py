"""Adam's row kernels for the CPU, compiled by Numba; ``adam`` says what they compute."""

from __future__ import annotations

from typing import Any

import numpy as np

from sae_pipeline.saes.kernels.numba_rows import compiled


@compiled
def adam(p: Any, g: Any, m: Any, v: Any, beta1: Any, beta2: Any, rate: Any, correction: Any, epsilon: Any, first: Any, last: Any) -> None:
    """Adam on rows of parameters; ``rate`` and ``correction`` (a square root) hold the bias corrections."""
    for i in range(first, last):
        _adam_row(p[i], g[i], m[i], v[i], beta1, beta2, rate, correction, epsilon)


@compiled
def adam_on_unit_rows(
    p: Any, g: Any, m: Any, v: Any, beta1: Any, beta2: Any, rate: Any, correction: Any, epsilon: Any, first: Any, last: Any
) -> None:
    """The same for unit rows: project the gradient off the row, step, give the row unit norm again."""
    for i in range(first, last):
        along = np.float32(0)
        for j in range(p.shape[1]):
            along += g[i, j] * p[i, j]
        for j in range(p.shape[1]):
            g[i, j] -= along * p[i, j]
        _adam_row(p[i], g[i], m[i], v[i], beta1, beta2, rate, correction, epsilon)
        square = np.float32(0)
        for j in range(p.shape[1]):
            square += p[i, j] * p[i, j]
        norm = np.sqrt(square)
        for j in range(p.shape[1]):
            p[i, j] /= norm


@compiled
def _adam_row(p: Any, g: Any, m: Any, v: Any, beta1: Any, beta2: Any, rate: Any, correction: Any, epsilon: Any) -> None:
    for j in range(len(p)):
        m[j] += (g[j] - m[j]) * (np.float32(1) - beta1)
        v[j] = v[j] * beta2 + g[j] * g[j] * (np.float32(1) - beta2)
        p[j] -= rate * m[j] / (np.sqrt(v[j]) / correction + epsilon)

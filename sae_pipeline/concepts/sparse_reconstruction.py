"""How few decoder rows write a direction: least squares on latents in a given order, and orthogonal matching pursuit.

Rows are taken one after the other and made orthogonal to those before, so that the exact least squares fit on the first n
is known for every n at once. Weights may have either sign: a direction is a difference of means. Many directions (the
resamples of one) are written side by side.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_pipeline.metrics.reconstruction import wide

DEPENDENT = 1e-7
"""Length that is left of a unit row beside the rows before it when it only repeats them: rounding, and no direction."""

CHANCE_DRAWS = 16
"""Random directions that the chance level is the mean of; their cosines hardly scatter."""


class Path(NamedTuple):
    """What the first n rows achieve."""

    latents: Tensor
    """(n_directions, most) int64, in the order they were taken."""
    cosines: Tensor
    """(n_directions, most) float64, cosine of the direction with its least squares fit on the first 1, 2, … rows; the
    relative squared error is one minus its square."""


def least_squares_path(directions: Tensor, W_dec: Tensor, order: Tensor) -> Path:
    """Exact least squares on the first rows of a given order.

    Args:
        directions: (n_directions, d_model), none of them zero.
        W_dec: (d_sae, d_model).
        order: (n_directions, most) int64, latents in the order they are taken.
    """
    return _path(directions, W_dec, order.shape[1], order)


def matching_pursuit(directions: Tensor, W_dec: Tensor, most: int) -> Path:
    """Orthogonal matching pursuit over all rows (Pati et al. 1993): the row most like what is left, then least squares on all taken.

    Args:
        directions: (n_directions, d_model), none of them zero.
        W_dec: (d_sae, d_model).
        most: rows taken, at most d_sae.
    """
    return _path(directions, W_dec, most, None)


def _path(directions: Tensor, W_dec: Tensor, most: int, order: Tensor | None) -> Path:
    rows, left = normalize(wide(W_dec), dim=1), normalize(wide(directions), dim=1)
    basis = left.new_zeros(len(left), most, left.shape[1])
    latents = torch.zeros(len(left), most, dtype=torch.int64, device=left.device)
    error = left.new_ones(len(left), most)
    for n in range(most):
        if order is None:
            likeness = (left @ rows.T).abs_()
            latents[:, n] = likeness.scatter_(1, latents[:, :n], -1.0).argmax(1)
        else:
            latents[:, n] = order[:, n]
        row, taken = rows[latents[:, n]], basis[:, :n]
        for _ in range(2):  # once leaves rounding behind that adds up
            row = row - torch.einsum("bn,bnd->bd", torch.einsum("bnd,bd->bn", taken, row), taken)
        length = row.norm(dim=1, keepdim=True)
        basis[:, n] = torch.where(length > DEPENDENT, row / length, 0.0)
        left = left - (left * basis[:, n]).sum(1, keepdim=True) * basis[:, n]
        error[:, n] = left.square().sum(1)
    return Path(latents, (1 - error).clamp(0, 1).sqrt())


class Chance(NamedTuple):
    """What a random decoder achieves; the same for every direction, because it has no preferred one."""

    pursuit: np.ndarray
    """(most,) float64, mean cosine by matching pursuit with 1, 2, … rows."""
    nearest: float
    """Mean of the highest cosine of a random direction with any row."""


@lru_cache(maxsize=8)
def chance(d_sae: int, d_model: int, most: int, seed: int) -> Chance:
    """The chance level of decoders (d_sae, d_model) whose rows are random unit vectors."""
    generator = torch.Generator().manual_seed(seed)
    rows = normalize(torch.randn(d_sae, d_model, generator=generator, dtype=torch.float64), dim=1)
    directions = normalize(torch.randn(CHANCE_DRAWS, d_model, generator=generator, dtype=torch.float64), dim=1)
    pursuit = matching_pursuit(directions, rows, most).cosines.mean(0).numpy()
    return Chance(pursuit, float((directions @ rows.T).amax(1).mean()))


def chance_of_given(latents: np.ndarray, d_model: int) -> np.ndarray:
    """Root mean square cosine of a random direction with its fit on any ``latents`` (n,) rows: sqrt(latents / d_model)."""
    return np.sqrt(np.minimum(latents / d_model, 1.0))

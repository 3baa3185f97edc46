"""How few decoder rows write a direction: least squares on latents in a given order, and orthogonal matching pursuit.

Rows are taken one after the other and made orthogonal to those before, so that the exact least squares fit on the first n
is known for every n at once. Weights may have either sign: a direction is a difference of means. Many directions (the
two halves of one) are written side by side.
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
    basis: Tensor
    """(n_directions, most, d_model) float64: the first n span what the first n rows do, are orthonormal, and zero where a row
    only repeats those before it."""


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
    lengths, left = W_dec.norm(dim=1).clamp(min=1e-12), normalize(wide(directions), dim=1)
    basis = left.new_zeros(len(left), most, left.shape[1])
    latents = torch.zeros(len(left), most, dtype=torch.int64, device=left.device)
    error = left.new_ones(len(left), most)
    for n in range(most):
        if order is None:
            # In the type of the rows: a wider copy of a large decoder would take a gigabyte, and only the order counts here.
            likeness = (left.to(W_dec) @ W_dec.T).div_(lengths).abs_()
            latents[:, n] = likeness.scatter_(1, latents[:, :n], -1.0).argmax(1)
        else:
            latents[:, n] = order[:, n]
        row, taken = normalize(wide(W_dec[latents[:, n]]), dim=1), basis[:, :n]
        for _ in range(2):  # once leaves rounding behind that adds up
            row = row - torch.einsum("bn,bnd->bd", torch.einsum("bnd,bd->bn", taken, row), taken)
        length = row.norm(dim=1, keepdim=True)
        basis[:, n] = torch.where(length > DEPENDENT, row / length, 0.0)
        left = left - (left * basis[:, n]).sum(1, keepdim=True) * basis[:, n]
        error[:, n] = left.square().sum(1)
    return Path(latents, (1 - error).clamp(0, 1).sqrt(), basis)


@lru_cache(maxsize=8)
def chance_of_pursuit(d_sae: int, d_model: int, most: int, seed: int) -> np.ndarray:
    """(most,) float64, mean cosine by matching pursuit with 1, 2, … of d_sae random unit rows; the same for every direction."""
    generator = torch.Generator().manual_seed(seed)
    rows, directions = (torch.randn(n, d_model, generator=generator) for n in (d_sae, CHANCE_DRAWS))
    return np.asarray(matching_pursuit(directions, rows, most).cosines.mean(0).numpy())


def chance_of_given(latents: np.ndarray, d_model: int) -> np.ndarray:
    """Root mean square cosine of a random direction with its fit on any ``latents`` (n,) rows: sqrt(latents / d_model)."""
    return np.sqrt(np.minimum(latents / d_model, 1.0))


def judged_chance(cosine: np.ndarray, latents: np.ndarray, d_model: int, reliability: float) -> np.ndarray:
    """Root mean square cosine of a true direction with ``latents`` (n,) random rows that were chosen on a sample of it.

    What is left of the true direction beside the sample is in any direction: of its square the rows, which hold
    ``cosine``² of the sample, have (latents - cosine²) / (d_model - 1).

    Args:
        cosine: (n,) cosine of the sample with its fit on the rows.
        latents: (n,) number of rows.
        d_model: width.
        reliability: cosine of the sample with the true direction.
    """
    beside = (latents - cosine**2) / (d_model - 1)
    return np.asarray(np.sqrt(np.clip(reliability**2 * cosine**2 + (1 - reliability**2) * beside, 0, 1)))

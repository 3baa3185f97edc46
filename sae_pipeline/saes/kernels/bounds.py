"""How far a bfloat16 product can be from the float32 one: the certificate behind preselection.

With x' and w' the rounded vectors, x.w - x'.w' = (x - x').w' + x.(w - w'), so by Cauchy and Schwarz the error is at most
|x - x'| |w'| + |x| |w - w'|, where all four norms are known numbers of this batch and these weights. The bound adds the
summation errors of both products, the rounding of the bias and of the stored result, and what is flushed to zero near
underflow, each with a factor in hand. It holds for every entry, so a latent whose approximate value plus its bound does
not reach a limit has an exact value that does not.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from sae_pipeline.saes.chunks import CHUNK
from sae_pipeline.saes.kernels.choice import numba_for
from sae_pipeline.saes.kernels.team import chunks_of, shared
from sae_pipeline.saes.kernels.workspace import Workspace

STORED = 2.0**-7
"""Relative error of a bfloat16 result: half a unit in the last place is 2**-8, doubled for the bias added before or after rounding."""

SAFETY = 1.01
"""Factor on computed norms, which are sums of rounded squares themselves."""


class Rounded(NamedTuple):
    """Rows, their bfloat16 rounding, and how far apart the two are."""

    exact: Tensor
    """(rows, d_model) float32."""
    low: Tensor
    """(rows, d_model) bfloat16."""
    norms: Tensor
    """(rows,) float32, an upper bound of the norms of both."""
    errors: Tensor
    """(rows,) float32, an upper bound of the norms of their difference."""


class ErrorModel(NamedTuple):
    """What all entries of a product have in common in the bound, as plain numbers.

    The exact value of an entry whose stored value is v lies within ``STORED * |v| + own`` of v, with own =
    (row error + steepness * row norm) * latent norm + row norm * latent error + offset + tiny * (1 + row norm).
    """

    steepness: float
    offset: float
    tiny: float
    largest_norm: float
    largest_error: float
    stored: float = STORED


def rounded(name: str, rows: Tensor, workspace: Workspace) -> Rounded:
    """Round rows (n, d_model) to bfloat16 and measure what that loses; the result lies in buffers of this name."""
    low = workspace.get(f"{name} low", rows, *rows.shape, dtype=torch.bfloat16)
    norms, errors = (workspace.get(f"{name} {part}", rows, len(rows)) for part in ("norms", "errors"))

    def measure(_: int, first: int, last: int) -> None:
        for part in chunks_of(first, last, rows.device):  # In cache, without temporaries of the full size.
            low[part].copy_(rows[part])
            if compiled := numba_for(rows):
                compiled.measure(rows[part], low[part], norms[part], errors[part])
            else:
                torch.linalg.vector_norm(rows[part], dim=1, out=norms[part])
                torch.linalg.vector_norm(rows[part] - low[part], dim=1, out=errors[part])

    shared(measure, len(rows), CHUNK)
    return Rounded(rows, low, norms.mul_(SAFETY), errors.mul_(SAFETY))


def error_model(weights: Rounded, bias: Tensor) -> ErrorModel:
    """The common part of the bound for products with these weights, to which ``bias`` (d_sae,) is added."""
    d_model = weights.exact.shape[1]
    norm, error, shift = torch.stack([weights.norms.max(), weights.errors.max(), bias.abs().max()]).tolist()
    return ErrorModel(
        steepness=(d_model + 8) * 2.0**-23,  # Twice the summation error of one product in any order.
        offset=shift * STORED,
        tiny=d_model * 2.0**-120 * (1 + norm),
        largest_norm=norm,
        largest_error=error,
    )


def row_bounds(rows: Rounded, model: ErrorModel) -> Tensor:
    """(n,) bound of every row's entries at a stored value of 0."""
    own = rows.errors + model.steepness * rows.norms
    return own.mul_(model.largest_norm).add_(rows.norms, alpha=model.largest_error + model.tiny).add_(model.offset + model.tiny)

"""Numba's row kernels on tensors. They release the interpreter's lock, so that a team of threads shares the items of an output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sae_pipeline.saes.kernels import numba_adam, numba_rows
from sae_pipeline.saes.kernels.bounds import ErrorModel, Rounded
from sae_pipeline.saes.kernels.code import SparseCode
from sae_pipeline.saes.kernels.team import shared
from sae_pipeline.saes.kernels.workspace import Pages


def measure(rows: Tensor, low: Tensor, norms: Tensor, errors: Tensor) -> None:
    """Norms of rows and of what rounding them to ``low`` lost; by the calling thread alone."""
    numba_rows.norms_and_errors(_array(rows), _bits(low), _array(norms), _array(errors), 0, len(rows))


def select_topk(pre: Tensor, x: Rounded, w: Rounded, bias: Tensor, model: ErrorModel, k: int, latents: Tensor, values: Tensor) -> None:
    """Exact top-k of the rows x, given approximate pre-activations (n, d_sae) bfloat16, into ``latents`` and ``values`` (n, k);
    by the calling thread alone."""
    numba_rows.select_topk(*_products(pre, x, w, bias, model), k, _array(latents), _array(values), 0, len(pre))


def select_above(
    pre: Tensor, x: Rounded, w: Rounded, bias: Tensor, threshold: Tensor, model: ErrorModel, pages: Pages, counts: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Entries whose exact pre-activation exceeds the threshold (d_sae,), as pieces (latents, values) in the order of rows; by
    the calling thread alone.

    Args:
        pre: approximate pre-activations less the threshold, (n, d_sae) bfloat16.
        pages: where the entries are written.
        counts: (n,) int64, filled with the number of entries of every row.
    """
    arguments = (*_products(pre, x, w, bias, model), _array(threshold), _array(counts))
    first, pieces = 0, []
    while first < len(pre):
        latents, values = pages.room(pre.shape[1])
        stopped = numba_rows.select_above(*arguments, _array(latents), _array(values), first, len(pre))
        count = int(counts[first:stopped].sum())
        pieces.append((latents[:count], values[:count]))
        pages.take(count)
        first = stopped
    return pieces


def decode(code: SparseCode, W_dec: Tensor, out: Tensor) -> None:
    """Fill ``out`` (n_tokens, d_model) with the decoded tokens."""
    _share(len(out), numba_rows.decode, *_entries(code), _array(W_dec), _array(out))


def sampled_product(rows: Tensor, W_dec: Tensor, code: SparseCode, out: Tensor) -> None:
    """Fill ``out`` (entries,) with rows[token] . W_dec[latent]."""
    starts, latents, _ = _entries(code)
    _share(len(rows), numba_rows.sampled_product, _array(rows), starts, latents, _array(W_dec), _array(out))


def reconstruction_error(code: SparseCode, W_dec: Tensor, target: Tensor, error: Tensor, products: Tensor) -> None:
    """Fill ``error`` (n_tokens, d_model) and its ``products`` (entries,) with the rows of W_dec."""
    arrays = (_array(tensor) for tensor in (W_dec, target, error, products))
    _share(len(target), numba_rows.reconstruction_error, *_entries(code), *arrays)


def order_by_latent(code: SparseCode, starts: Tensor, order: Tensor, tokens: Tensor) -> None:
    """Fill ``starts`` (d_sae + 1,), ``order`` (entries,) and ``tokens`` (entries,) of the code latent after latent."""
    numba_rows.order_by_latent(*_entries(code)[:2], _array(starts), _array(order), _array(tokens))


def sum_by_latent(starts: Tensor, order: Tensor, weights: Tensor, out: Tensor) -> None:
    """Fill ``out`` (d_sae,) with the sums of ``weights`` (entries,)."""
    _share(len(out), numba_rows.sum_by_latent, *(_array(tensor) for tensor in (starts, order, weights, out)))


def weighted_sum_by_latent(starts: Tensor, order: Tensor, tokens: Tensor, weights: Tensor, rows: Tensor, out: Tensor) -> None:
    """Fill ``out`` (d_sae, width) with the sums of weights[j] * rows[token of entry j]."""
    _share(len(out), numba_rows.weighted_sum_by_latent, *(_array(tensor) for tensor in (starts, order, tokens, weights, rows, out)))


def adam(parts: list[tuple[bool, tuple[Tensor, ...]]], beta1: float, beta2: float, rate: float, correction: float, epsilon: float) -> None:
    """One step on parts of a flat buffer: each says whether its rows have unit norm, and gives p, g, m and v as (rows, width)."""
    numbers = [np.float32(number) for number in (beta1, beta2, rate, correction, epsilon)]
    for unit, tensors in parts:
        kernel = numba_adam.adam_on_unit_rows if unit else numba_adam.adam
        _share(len(tensors[0]), kernel, *(_array(tensor) for tensor in tensors), *numbers)


def _products(pre: Tensor, x: Rounded, w: Rounded, bias: Tensor, model: ErrorModel) -> tuple[Any, ...]:
    measured = [tuple(_array(tensor) for tensor in (side.exact, side.norms, side.errors)) for side in (x, w)]
    return _bits(pre), *measured, _array(bias), tuple(np.float32(number) for number in model)


def _entries(code: SparseCode) -> tuple[NDArray, NDArray, NDArray]:
    return _array(code.starts), _array(code.latents), _array(code.values)


def _array(tensor: Tensor) -> NDArray:
    return tensor.detach().numpy()


def _bits(tensor: Tensor) -> NDArray:
    return tensor.view(torch.int16).numpy()


def _share(count: int, kernel: Callable[..., None], *arguments: Any) -> None:
    shared(lambda _, first, last: kernel(*arguments, first, last), count)

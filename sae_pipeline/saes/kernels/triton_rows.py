"""Row kernels for CUDA, compiled by Triton: gathers of the rows of active latents.

One program per token and block of columns decodes; one per entry multiplies. The accumulation order is fixed, so the bits
are the same at every call.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from sae_pipeline.saes.kernels.code import SparseCode, tokens_of

COLUMNS = 256
"""Columns of a row per program: enough for full memory transactions, few enough for many programs per batch."""


@triton.jit
def _decode(starts: Any, latents: Any, values: Any, W: Any, out: Any, width: Any, COLUMNS: tl.constexpr) -> None:
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < width
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    for entry in range(tl.load(starts + token), tl.load(starts + token + 1)):
        row = tl.load(latents + entry) * width
        total += tl.load(values + entry) * tl.load(W + row + columns, mask=inside, other=0.0)
    tl.store(out + token * width + columns, total, mask=inside)


@triton.jit
def _sampled_product(rows: Any, tokens: Any, latents: Any, W: Any, out: Any, width: Any, COLUMNS: tl.constexpr) -> None:
    entry = tl.program_id(0).to(tl.int64)
    row, other = tl.load(tokens + entry) * width, tl.load(latents + entry) * width
    total = tl.zeros([COLUMNS], dtype=tl.float32)
    for start in range(0, width, COLUMNS):
        columns = start + tl.arange(0, COLUMNS)
        inside = columns < width
        total += tl.load(rows + row + columns, mask=inside, other=0.0) * tl.load(W + other + columns, mask=inside, other=0.0)
    tl.store(out + entry, tl.sum(total))


def decode(code: SparseCode, W_dec: Tensor, out: Tensor) -> None:
    """Fill ``out`` (n_tokens, d_model) with the decoded tokens."""
    width = W_dec.shape[1]
    _decode[(len(out), triton.cdiv(width, COLUMNS))](code.starts, code.latents, code.values, W_dec, out, width, COLUMNS=COLUMNS)


def sampled_product(rows: Tensor, W_dec: Tensor, code: SparseCode, out: Tensor) -> None:
    """Fill ``out`` (entries,) with rows[token] . W_dec[latent]."""
    if len(out):
        _sampled_product[(len(out),)](rows, tokens_of(code), code.latents, W_dec, out, rows.shape[1], COLUMNS=COLUMNS)

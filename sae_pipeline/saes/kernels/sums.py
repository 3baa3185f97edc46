"""Products with a sparse code: decoding, the products sampled at its entries, and sums over the tokens of a latent.

Plain torch does them with embedding bags and a sampled product, which exist on every device. ``out`` always is a
contiguous tensor to write the result to.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag

from sae_pipeline.saes.kernels.choice import numba_for, triton_for
from sae_pipeline.saes.kernels.code import SparseCode, row_starts, tokens_of
from sae_pipeline.saes.kernels.team import shared

# Said once per process to whoever looks at the terminal; the one operation used is held against dense products by the tests.
warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta state")


def decode(code: SparseCode, W_dec: Tensor, out: Tensor | None = None) -> Tensor:
    """(n_tokens, d_model): every token's weighted sum of the W_dec (d_sae, d_model) rows of its entries; no b_dec."""
    if compiled := numba_for(W_dec) or triton_for(W_dec):
        out = W_dec.new_empty(len(code.starts) - 1, W_dec.shape[1]) if out is None else out
        compiled.decode(code, W_dec, out)
        return out
    return _weighted_sums(W_dec, code.latents, code.starts, code.values, out)


def sampled_product(rows: Tensor, W_dec: Tensor, code: SparseCode) -> Tensor:
    """(entries,) products rows[token] . W_dec[latent] at the entries of a code; rows is (n_tokens, d_model)."""
    if compiled := numba_for(rows) or triton_for(rows):
        out = torch.empty_like(code.values)
        compiled.sampled_product(rows, W_dec, code, out)
        return out

    def products(_: int, first: int, last: int) -> Tensor:
        part, starts = _stretch(code.starts, first, last)
        latents = code.latents[part]
        # The buffer starts at zero because the product is added to it: beta = 0 would still let NaN garbage through.
        zeros, shape = torch.zeros_like(latents, dtype=rows.dtype), (last - first, len(W_dec))
        places = torch.sparse_csr_tensor(starts, latents, zeros, shape, check_invariants=False)
        return torch.sparse.sampled_addmm(places, rows[first:last], W_dec.t(), beta=0.0).values()

    found = shared(products, len(rows))
    return found[0] if len(found) == 1 else torch.cat(found)


def reconstruction_error(code: SparseCode, W_dec: Tensor, target: Tensor, out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The error decode(code) - target (n_tokens, d_model), and its products (entries,) with the W_dec rows of the entries.

    Scaling a token's error by w scales its products by w, so they serve every loss of the squared errors. One function for
    both, because a token's rows of W_dec are still in cache after decoding.
    """
    if compiled := numba_for(W_dec):
        out = torch.empty_like(target) if out is None else out
        products = torch.empty_like(code.values)
        compiled.reconstruction_error(code, W_dec, target, out, products)
        return out, products
    error = decode(code, W_dec, out).sub_(target)
    return error, sampled_product(error, W_dec, code)


class ByLatent:
    """The entries of a code latent after latent, for sums over the tokens that a latent is active on."""

    def __init__(self, code: SparseCode, n_tokens: int, d_sae: int) -> None:
        self._compiled = numba_for(code.values)
        if self._compiled:
            self._starts = code.starts.new_empty(d_sae + 1)
            self._order, self._tokens = torch.empty_like(code.latents), torch.empty_like(code.latents)
            self._compiled.order_by_latent(code, self._starts, self._order, self._tokens)
        else:
            self._order = torch.sort(code.latents.to(torch.int32), stable=True).indices
            self._tokens = tokens_of(code)[self._order]
            self._starts = row_starts(torch.bincount(code.latents, minlength=d_sae))
        self._n_tokens = n_tokens

    def sum(self, weights: Tensor) -> Tensor:
        """(d_sae,) sums of ``weights`` (entries,) by latent."""
        if self._compiled:
            out = weights.new_empty(len(self._starts) - 1)
            self._compiled.sum_by_latent(self._starts, self._order, weights, out)
            return out
        return self.weighted_sum(weights.new_ones(self._n_tokens, 1), weights).view(-1)

    def weighted_sum(self, rows: Tensor, weights: Tensor, out: Tensor | None = None) -> Tensor:
        """(d_sae, width) sums by latent of weights[j] * rows[token of entry j]; rows is (n_tokens, width)."""
        if self._compiled:
            out = rows.new_empty(len(self._starts) - 1, rows.shape[1]) if out is None else out
            self._compiled.weighted_sum_by_latent(self._starts, self._order, self._tokens, weights, rows, out)
            return out
        return _weighted_sums(rows, self._tokens, self._starts, weights[self._order], out)


def _weighted_sums(rows: Tensor, chosen: Tensor, starts: Tensor, weights: Tensor, out: Tensor | None) -> Tensor:
    """Sums of weighted rows: out[i] = sum of weights[j] * rows[chosen[j]] over j from starts[i] to starts[i + 1]."""
    count = len(starts) - 1
    result = rows.new_empty(count, rows.shape[1]) if out is None else out

    def sums(_: int, first: int, last: int) -> None:
        part, offsets = _stretch(starts, first, last)
        result[first:last] = embedding_bag(chosen[part], rows, offsets, mode="sum", per_sample_weights=weights[part], include_last_offset=True)

    shared(sums, count)
    return result


def _stretch(starts: Tensor, first: int, last: int) -> tuple[slice, Tensor]:
    """The entries of items first to last of compressed sparse rows, and where each item's begin among them."""
    if last - first == len(starts) - 1:  # All of them: nothing has to be read from a device.
        return slice(None), starts
    offsets = starts[first : last + 1]
    return slice(int(offsets[0]), int(offsets[-1])), offsets - offsets[0]

"""Matching by what latents do instead of by their weights: Pearson correlations of their activations on shared tokens.

Two latents of different SAEs are the same to the degree that they fire on the same tokens in proportion, whatever their
directions; the SAEs may even read different layers. Latents are kept as sparse codes, a few entries per token, so that the
memory is that of the entries and of one block of correlations, and never that of tokens x latents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array, vstack
from torch import Tensor

from sae_pipeline.matching.assignment import DENSE, Assignment, assign_matrix, assign_values, swapped
from sae_pipeline.matching.certified import Excess, Floats, Integers
from sae_pipeline.metrics.latents.firing_entries import firing_entries
from sae_pipeline.metrics.reconstruction import token_chunks
from sae_pipeline.saes.inference import InferenceSAE

PIECE = 4096
"""Tokens whose latents are written down dense at a time, where dense products are faster."""
DENSE_WORK = 100
"""How many times faster a product of dense entries is than one of sparse ones."""
CONSTANT = 1e-12
"""Variance relative to the mean square below which a latent counts as constant: the rounding of float64 sums."""


@dataclass(frozen=True)
class Correlated:
    """Two SAEs matched by the correlations of their latents on the same tokens; all tensors on the CPU.

    A latent that never fires on these tokens, or always the same, correlates with nothing: 0.
    """

    n_tokens: int
    best_a: Tensor
    """(n_a,) float32, the highest correlation of each latent of a with one of b."""
    nearest_a: Tensor
    """(n_a,) int64, the latent of b that has it."""
    best_b: Tensor
    """(n_b,) float32, the other way."""
    nearest_b: Tensor
    """(n_b,) int64."""
    pairing: Assignment
    """One to one, of the largest sum of correlations, which are its ``cosine``."""


def latent_code(sae: InferenceSAE, x: Tensor) -> csr_array:
    """Latents (n_tokens, d_sae) of raw activations x (n_tokens, d_model) as compressed sparse rows in float64.

    Codes of one SAE serve all its pairs. Chunks of them are put together by ``scipy.sparse.vstack``, and the columns of
    living latents are chosen by indexing.
    """
    found: list[csr_array] = []
    with torch.inference_mode():
        for chunk in token_chunks(len(x), sae.d_sae, sae.W_enc.device):
            token, latent, activation = firing_entries(sae.encode(x[chunk].to(sae.W_enc)))
            shape = (len(x[chunk]), sae.d_sae)
            found.append(csr_array((activation.double().numpy(), (token.numpy(), latent.numpy())), shape=shape))
    return vstack(found, format="csr")


def correlated(a: csr_array, b: csr_array) -> Correlated:
    """Match the latents of two codes (n_tokens, n_a) and (n_tokens, n_b) of the same tokens, at least one latent each."""
    values = Correlations(a, b)
    n_a, n_b = values.shape
    best_a, nearest_a = np.empty(n_a), np.empty(n_a, dtype=np.int64)
    best_b, nearest_b = np.full(n_b, -np.inf), np.zeros(n_b, dtype=np.int64)
    for part, block in values.blocks(np.arange(n_a)):
        nearest_a[part], best_a[part] = block.argmax(axis=1), block.max(axis=1)
        highest, where = block.max(axis=0), block.argmax(axis=0)
        better = highest > best_b
        best_b[better], nearest_b[better] = highest[better], where[better] + part.start
    if len(block) == n_a:  # One block is the whole matrix.
        pairing = assign_matrix(torch.from_numpy(block))
    else:
        pairing = assign_values(values) if n_a <= n_b else swapped(assign_values(Correlations(b, a)))
    return Correlated(
        n_tokens=a.shape[0],
        best_a=torch.from_numpy(best_a).float(),
        nearest_a=torch.from_numpy(nearest_a),
        best_b=torch.from_numpy(best_b).float(),
        nearest_b=torch.from_numpy(nearest_b),
        pairing=pairing,
    )


class Correlations:
    """Correlations (n_a, n_b) of two codes, block by block: the covariances of sparse columns over their deviations."""

    scale = 1.0

    def __init__(self, a: csr_array, b: csr_array) -> None:
        """Codes (n_tokens, n_a) and (n_tokens, n_b) in float64."""
        self._a, self._b = a, b
        self._columns_a, self._columns_b = a.tocsc(), b.tocsc()
        self._mean_a, self._inverse_a = _moments(a)
        self._mean_b, self._inverse_b = _moments(b)
        self.shape = (a.shape[1], b.shape[1])
        self._sparse = a.nnz * b.nnz * DENSE_WORK < self.shape[0] * self.shape[1] * max(a.shape[0], 1) ** 2

    def at(self, rows: Integers, columns: Integers) -> Floats:
        """The correlations of some pairs of latents."""
        products = self._columns_a[:, rows].multiply(self._columns_b[:, columns]).sum(axis=0)
        covariance = products / self._a.shape[0] - self._mean_a[rows] * self._mean_b[columns]
        return covariance * self._inverse_a[rows] * self._inverse_b[columns]

    def blocks(self, rows: Integers) -> Iterator[tuple[slice, Floats]]:
        """Correlations of these latents of a with all of b, (part of rows, n_b) at a time."""
        size = max(DENSE // self.shape[1], 1)
        for first in range(0, len(rows), size):
            part = slice(first, min(first + size, len(rows)))
            chosen = rows[part]
            covariance = self._products(chosen) / max(self._a.shape[0], 1) - np.outer(self._mean_a[chosen], self._mean_b)
            yield part, covariance * self._inverse_a[chosen, None] * self._inverse_b

    def excess(self, rows: Integers, u: Floats, v: Floats, count: int) -> Excess:
        """See :class:`sae_pipeline.matching.certified.Values`."""
        count = min(count, self.shape[1])
        largest = [torch.from_numpy(block - u[part, None] - v).topk(count, dim=1) for part, block in self.blocks(rows)]
        return Excess.of(torch.cat([each.indices for each in largest]), torch.cat([each.values for each in largest]))

    def _products(self, rows: Integers) -> Floats:
        """Sums over tokens of the products of latents, (rows, n_b)."""
        columns = self._columns_a[:, rows]
        if self._sparse:
            return (columns.T @ self._b).toarray()
        some, found = columns.tocsr(), np.zeros((len(rows), self.shape[1]))
        for first in range(0, self._a.shape[0], PIECE):
            piece = slice(first, first + PIECE)
            found += some[piece].toarray().T @ self._b[piece].toarray()
        return found


def _moments(code: csr_array) -> tuple[Floats, Floats]:
    """Mean of every latent, and one over its standard deviation, 0 where it is constant."""
    n = max(code.shape[0], 1)
    mean = np.asarray(code.sum(axis=0), dtype=np.float64) / n
    square = np.asarray(code.power(2).sum(axis=0), dtype=np.float64) / n
    variance = square - mean**2
    varies = variance > CONSTANT * square
    return mean, np.where(varies, 1 / np.sqrt(np.where(varies, variance, 1)), 0)

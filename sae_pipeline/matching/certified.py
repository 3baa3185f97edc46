"""Exact one-to-one matching of large dictionaries from a few candidates per row, with a certificate.

The dense problem has n_a x n_b values, but an optimal pairing uses hardly any beside the largest of each row. So the problem
is solved on candidates, dual prices are derived from that solution, and every value that is no candidate is compared with
them: u_i + v_j >= c_ij for all i, j proves that no pairing has a larger total (linear programming duality). What exceeds its
prices becomes a candidate, and the next round solves again. Values are computed block by block and never kept.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import min_weight_full_bipartite_matching
from torch import Tensor

from sae_pipeline.saes.kernels.encoding import encode_topk
from sae_pipeline.saes.kernels.workspace import Workspace

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

CANDIDATES = 64
"""Entries of a row that become candidates in the first round, at most; twice as many in each that follows. Most rows need no other."""
ROUNDS = 20
"""Rounds after which the pairing found is returned with its bound; related and unrelated dictionaries take 2 to 4, crowds of latents around few up to 10."""
ROOM = 2**24
"""Candidates that are kept, 40 bytes each; with more the pairing is returned with its bound too."""
SLACK = 1e-6
"""What a value may exceed its prices by: the rounding of a float32 product, relative to the largest norms."""
SETTLED = 1e-10
"""Least change of a price, on the same scale: far below the slack, far above the rounding of float64."""
LIFT = 0.5
"""Entry of b in the dimension that carries a row's price; a power of two is exact in bfloat16, and this one keeps norms small."""
ALIGNED = 32
"""Lengths of vectors are padded to multiples of this, for the matrix product."""


class Excess(NamedTuple):
    """Entries that exceed their prices, the largest of each row; ``rows`` index the rows that were asked for."""

    rows: Integers
    """(entries,)."""
    columns: Integers
    """(entries,)."""
    amount: Floats
    """(entries,), c_ij - u_i - v_j, above zero."""
    least: Floats
    """(rows,): no other entry of the row exceeds its prices by more than this."""

    @staticmethod
    def of(columns: Tensor, amounts: Tensor) -> Excess:
        """Of the largest entries (rows, count) of each row those above zero."""
        amount = amounts.double().cpu().numpy()
        row, place = np.nonzero(amount > 0)
        return Excess(row, columns.cpu().numpy()[row, place], amount[row, place], amount.min(axis=1).clip(0))


class Values(Protocol):
    """The values c (n_a, n_b), n_a <= n_b, of a problem that is too large to be written down."""

    shape: tuple[int, int]
    scale: float
    """An upper bound of the magnitude of a value."""

    def at(self, rows: Integers, columns: Integers) -> Floats:
        """The values of some entries."""
        ...

    def excess(self, rows: Integers, u: Floats, v: Floats, count: int) -> Excess:
        """Up to ``count`` entries of each row with the largest c_ij - u_i - v_j above zero; u is (rows,), v (n_b,)."""
        ...


class Products:
    """Values that are products of rows: cosines, where the rows have unit norm.

    The largest are found by the encoder's exact top-k: bfloat16 proposes where the processor has it, float32 decides.
    """

    def __init__(self, a: Tensor, b: Tensor) -> None:
        """Rows a (n_a, d) and b (n_b, d) of one device, float32."""
        self._a, self._b = a, b
        self.shape = (len(a), len(b))
        self.scale = float(a.norm(dim=1).max() * b.norm(dim=1).max()) or 1.0
        self._workspace = Workspace()
        d = a.shape[1]
        self._lifted = b.new_zeros(len(b), -(-(d + 1) // ALIGNED) * ALIGNED)
        self._lifted[:, :d] = b
        self._lifted[:, d] = LIFT

    def at(self, rows: Integers, columns: Integers) -> Floats:
        """In float64, block by block."""
        found = [
            torch.linalg.vecdot(self._a[rows[block]].cpu().double(), self._b[columns[block]].cpu().double()).numpy()
            for block in (slice(first, first + 1024) for first in range(0, len(rows), 1024))
        ]
        return np.concatenate(found)

    def excess(self, rows: Integers, u: Floats, v: Floats, count: int) -> Excess:
        """The price of a row is one more dimension, that of a column its bias, so what exceeds them is a positive pre-activation."""
        d = self._a.shape[1]
        asked = self._a.new_zeros(len(rows), self._lifted.shape[1])
        asked[:, :d] = self._a[torch.from_numpy(rows).to(self._a.device)]
        asked[:, d] = torch.from_numpy(-u / LIFT).to(asked)
        bias = torch.from_numpy(-v).to(asked)
        count = min(count, self.shape[1])
        code = encode_topk(asked, self._lifted.T, bias, count, self._workspace)
        return Excess.of(code.latents.view(-1, count), code.values.view(-1, count))


def certified(values: Values, rounds: int) -> tuple[Integers, float]:
    """The partner of every row, (n_a,), and an upper bound of what another pairing could add to the total: 0 when it is proven optimal."""
    n, width = values.shape
    every = np.arange(n)
    slack = SLACK * values.scale
    partner = every  # Any pairing will do to begin with; its entries keep the candidates solvable.
    u, v = values.at(every, partner), np.zeros(width)
    keys, weights = every * width + partner, u
    open_rows, reached = every, np.full(n, np.inf)
    for number in range(rounds + 1):
        count = min(CANDIDATES * 2**number, max(ROOM // len(open_rows), 1))
        found = values.excess(open_rows, u[open_rows], v, count)
        if number == 0:
            # No entry beside the candidates is larger, and prices of columns never fall below zero.
            reached = u + found.least
        new = found.amount > slack
        if not new.any():
            return partner, 0.0
        if number == rounds or len(keys) + new.sum() > ROOM:
            break
        rows, columns = open_rows[found.rows[new]], found.columns[new]
        keys = np.concatenate([keys, rows * width + columns])
        weights = np.concatenate([weights, found.amount[new] + u[rows] + v[columns]])
        keys, first = np.unique(keys, return_index=True)
        weights = weights[first]
        candidates = _rows_of(keys, weights, n, width)
        partner = _solved(candidates, values.scale)
        u, v = _prices(candidates, partner, SETTLED * values.scale)
        open_rows = np.flatnonzero(u < reached)
        if not len(open_rows):
            return partner, 0.0
    beyond = np.zeros(n)
    np.maximum.at(beyond, open_rows[found.rows], found.amount)
    return partner, float(beyond.sum())


def _rows_of(keys: Integers, weights: Floats, n: int, width: int) -> csr_array:
    """Candidates by ascending row and column as a sparse matrix."""
    starts = np.searchsorted(keys, np.arange(n + 1) * width)
    return csr_array((weights, keys % width, starts), shape=(n, width))


def _solved(candidates: csr_array, scale: float) -> Integers:
    """The partner of every row in the pairing of the largest total."""
    # A pairing of all rows gains the same constant from every shift; the solver takes an entry of 0 for none.
    costs = csr_array((2 * scale - candidates.data, candidates.indices, candidates.indptr), shape=candidates.shape)
    return min_weight_full_bipartite_matching(costs)[1].astype(np.int64)


def _prices(candidates: csr_array, partner: Integers, settled: float) -> tuple[Floats, Floats]:
    """Dual prices u (n_a,), v (n_b,) of an optimal pairing of the candidates: u_i + v_j >= c_ij with equality for pairs, v >= 0, and 0 where unpaired.

    v are the smallest such: what the longest chain of exchanges that ends at a column gains. They make u the largest, and
    a row whose u is no smaller than all that is not a candidate needs no further check.
    """
    starts, columns, weights = candidates.indptr.astype(np.int64), candidates.indices, candidates.data
    n, width = candidates.shape
    rows = np.repeat(np.arange(n), np.diff(starts))
    paired = columns == partner[rows]
    own = np.empty(n)
    own[rows[paired]] = weights[paired]
    owner = np.full(width, -1)
    owner[partner] = np.arange(n)
    v = np.zeros(width)
    active = np.arange(n)
    while len(active):
        counts = starts[active + 1] - starts[active]
        entries = np.arange(counts.sum()) + np.repeat(starts[active] - np.cumsum(counts) + counts, counts)
        offer = weights[entries] + np.repeat(v[partner[active]] - own[active], counts)
        target = columns[entries]
        better = offer > v[target] + settled
        target = target[better]
        np.maximum.at(v, target, offer[better])
        raised = np.zeros(width, dtype=bool)
        raised[target] = True
        active = owner[raised]
        active = active[active >= 0]
    return own - v[partner], v

"""One-to-one matching of two dictionaries: the pairing of largest total value, with proof that there is no larger one.

Paulo and Belrose (2025) pair latents by the Hungarian algorithm on 1 - cosine. The dense algorithm takes n^2 memory and close
to n^3 time; beyond a few thousand latents ``certified`` solves the same problem on candidates and proves the result.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_pipeline.matching.certified import ROUNDS, Products, Values, certified

DENSE = 1024**2
"""Values up to which the dense solver is faster; measured on cosines of related and of unrelated dictionaries."""


@dataclass(frozen=True)
class Assignment:
    """A pairing in which every row of the smaller side has one partner of its own; n = min(n_a, n_b) pairs."""

    rows: Tensor
    """(n,) int64, of a, increasing."""
    columns: Tensor
    """(n,) int64, of b; the partner of each of ``rows``."""
    cosine: Tensor
    """(n,) float32, the value of each pair: the cosine, where the values are cosines."""
    total: float
    """Sum of the values, in float64."""
    exact: bool
    """Whether it is proven that no exchange of partners gains more than the rounding of float32 products."""
    bound: float
    """No pairing's total exceeds ``total + bound``; 0 when exact."""


def assign(a: Tensor, b: Tensor, rounds: int = ROUNDS) -> Assignment:
    """The one-to-one pairing of the rows of a (n_a, d) and b (n_b, d) with the largest total of products, which are cosines of unit rows.

    The memory is that of the rows and of a few candidates for each, whatever the sizes. Rows may be zero: they are paired too,
    at a value of 0. All tensors of the result are on the CPU.

    Args:
        a, b: of one device; dictionaries of unit rows, or any vectors whose products are worth what a pair is worth.
        rounds: after which a large problem is returned unproven, with its bound.
    """
    if len(a) * len(b) <= DENSE:
        return assign_matrix(a.float() @ b.float().T)
    nonzero_a, nonzero_b = a.any(dim=1), b.any(dim=1)
    if (len(a), int(nonzero_a.sum())) > (len(b), int(nonzero_b.sum())):
        return swapped(assign(b, a, rounds))
    nonzero_a[0] = True  # One row at least has to be paired.
    found = assign_values(Products(a[nonzero_a].float(), b.float()), rounds)
    return _completed(found, nonzero_a.cpu(), len(b))


def assign_matrix(values: Tensor) -> Assignment:
    """The same for a matrix (n_a, n_b) of values that is there already, by the dense solver; always exact."""
    rows, columns = (torch.from_numpy(found) for found in linear_sum_assignment(values.double().cpu().numpy(), maximize=True))
    chosen = values.cpu()[rows, columns]
    return Assignment(rows, columns, chosen.float(), float(chosen.double().sum()), True, 0.0)


def assign_values(values: Values, rounds: int = ROUNDS) -> Assignment:
    """The same for values that are too many to be written down, with no more rows than columns."""
    partner, bound = certified(values, rounds)
    rows, columns = torch.arange(len(partner)), torch.from_numpy(partner)
    chosen = torch.from_numpy(values.at(rows.numpy(), partner))
    return Assignment(rows, columns, chosen.float(), float(chosen.sum()), bound == 0, bound)


def _completed(found: Assignment, paired: Tensor, width: int) -> Assignment:
    """The pairing with partners for the zero rows, which are indifferent and take what is left.

    Args:
        found: of the rows that are True in ``paired`` (n_a,).
        width: n_b.
    """
    left = torch.ones(width, dtype=torch.bool)
    left[found.columns] = False
    columns, cosine = torch.empty(len(paired), dtype=torch.int64), torch.zeros(len(paired))
    columns[paired], cosine[paired] = found.columns, found.cosine
    columns[~paired] = left.nonzero()[: int((~paired).sum()), 0]
    return Assignment(torch.arange(len(paired)), columns, cosine, found.total, found.exact, found.bound)


def swapped(found: Assignment) -> Assignment:
    """The pairing seen from the other side, by its rows."""
    order = found.columns.argsort()
    return Assignment(found.columns[order], found.rows[order], found.cosine[order], found.total, found.exact, found.bound)

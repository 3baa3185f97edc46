"""Shares of two dictionaries under a one-to-one pairing, beside what the greedy choice of each latent's nearest gives.

The pairing maximises the sum of signed cosines of decoder rows, which is the Hungarian matching on 1 - cosine. A pair is
shared when its cosine is strictly above the threshold; Paulo and Belrose (2025) ask that of the encoder too, in the same pairing.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.matching.assignment import Assignment, assign
from sae_pipeline.matching.weights.chance import chance_sharing
from sae_pipeline.matching.weights.cosine import Nearest
from sae_pipeline.matching.weights.directions import Prepared
from sae_pipeline.matching.weights.folding import equal_norms, folded_pairs


@dataclass(frozen=True)
class Sharing:
    """Shares of the smaller dictionary, which has min(n, n_other) latents."""

    n: int
    n_other: int
    shared_feature_ratio: float
    """Pairs with a decoder cosine above the threshold."""
    shared_both: float
    """Pairs with a decoder and an encoder cosine above it."""
    mean_cosine: float
    """Mean decoder cosine of all pairs."""
    exact: bool
    """Whether no pairing has a larger sum of cosines."""
    bound: float
    """By how much, at most, the sum of another pairing could exceed this one's."""
    chance_shared_feature_ratio: float
    chance_shared_both: float
    greedy_shared_feature_ratio: float
    """Latents whose nearest one in the larger dictionary is above the threshold, whoever else has chosen it; never less."""
    greedy_shared_both: float
    """Of which the encoder cosine with that nearest one is above it too."""
    folded_shared_feature_ratio: float | None
    """Pairs with a decoder cosine above the threshold in the pairing of folded decoders; None where an SAE has no thresholds."""


def paired(a: Tensor, b: Tensor, kept_a: Tensor, kept_b: Tensor) -> Assignment:
    """The one-to-one pairing of some unit rows of a (n_a, d) and b (n_b, d), in the numbering of all rows.

    Args:
        a, b: all rows.
        kept_a, kept_b: int64 on the CPU, ascending, at least one each: the rows to pair.
    """
    found = assign(_chosen(a, kept_a), _chosen(b, kept_b))
    return Assignment(kept_a[found.rows], kept_b[found.columns], found.cosine, found.total, found.exact, found.bound)


def sharing(a: Prepared, b: Prepared, kept_a: Tensor, kept_b: Tensor, pairing: Assignment, nearest_of_fewer: Nearest, threshold: float) -> Sharing:
    """The shares under a pairing.

    Args:
        a, b: prepared SAEs.
        kept_a, kept_b: int64 on the CPU, ascending, at least one each: the latents that take part.
        pairing: of their decoder rows, as :func:`paired` returns it.
        nearest_of_fewer: nearest decoder rows of those latents that are fewer (a's, if equally many) among the others.
        threshold: a cosine.
    """
    fewer = min(len(kept_a), len(kept_b))
    greedy = kept_a, nearest_of_fewer.index[:, 0]
    if len(kept_b) < len(kept_a):
        greedy = nearest_of_fewer.index[:, 0], kept_b
    shared, greedy_shared = pairing.cosine > threshold, nearest_of_fewer.best > threshold
    chance, chance_both = chance_sharing(len(kept_a), len(kept_b), a.d_model, threshold)
    return Sharing(
        n=len(kept_a),
        n_other=len(kept_b),
        shared_feature_ratio=int(shared.sum()) / fewer,
        shared_both=int((shared & (_encoder_cosines(a, b, pairing.rows, pairing.columns) > threshold)).sum()) / fewer,
        mean_cosine=pairing.total / fewer,
        exact=pairing.exact,
        bound=pairing.bound,
        chance_shared_feature_ratio=chance,
        chance_shared_both=chance_both,
        greedy_shared_feature_ratio=int(greedy_shared.sum()) / fewer,
        greedy_shared_both=int((greedy_shared & (_encoder_cosines(a, b, *greedy) > threshold)).sum()) / fewer,
        folded_shared_feature_ratio=_folded_shared(a, b, kept_a, kept_b, int(shared.sum()), threshold, fewer),
    )


def _folded_shared(a: Prepared, b: Prepared, kept_a: Tensor, kept_b: Tensor, unfolded: int, threshold: float, fewer: int) -> float | None:
    """Share under the pairing of folded rows; where folding changes no ranking it is that of the ``unfolded`` count."""
    if a.folded is None or b.folded is None:
        return None
    folded_a, folded_b = _chosen(a.folded, kept_a), _chosen(b.folded, kept_b)
    if equal_norms(folded_a) and equal_norms(folded_b):
        return unfolded / fewer
    rows, columns = folded_pairs(folded_a, folded_b)
    return int((_cosines(a.features, b.features, kept_a[rows], kept_b[columns]) > threshold).sum()) / fewer


def _encoder_cosines(a: Prepared, b: Prepared, rows: Tensor, columns: Tensor) -> Tensor:
    return _cosines(a.rows["encoder", "feature"], b.rows["encoder", "feature"], rows, columns)


def _cosines(a: Tensor, b: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Cosines (n,) on the CPU of the pairs that two index tensors (n,) name."""
    return torch.linalg.vecdot(a[rows.to(a.device)], b[columns.to(b.device)]).cpu()


def _chosen(rows: Tensor, kept: Tensor) -> Tensor:
    """The kept rows; the tensor itself where that is all of them."""
    return rows if len(kept) == len(rows) else rows[kept.to(rows.device)]

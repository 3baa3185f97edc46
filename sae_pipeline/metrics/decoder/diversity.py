"""How many latents share the work: which are the strongest on random tokens, and how evenly firings are spread.

A latent that is the strongest on most tokens of most documents says little about any of them. Counting the distinct
latents among one token's ten strongest cannot show that, because they are distinct always. So the count is over ten tokens
of ten different documents, and its expectation over all such draws is exact: the probability that a latent is missed by
ten documents is a mean of products over all choices of ten, which is an elementary symmetric polynomial.
"""

from __future__ import annotations

from math import comb

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

DRAWN = 10
"""Tokens, and so documents, among whose strongest latents the distinct ones are counted."""

HELD_KEYS = 2**18
"""Tokens whose strongest latents are held (2 MiB) before they are counted."""


class TopLatents:
    """The strongest latent of each token, counted per document and forgotten once the document is complete.

    A document enters through the shares p of its tokens on which each latent is the strongest. Per latent this keeps, for
    j = 0…10, the mean over all sets of j documents of the products of 1 - p, over the documents in which the latent
    occurs at all: that and the number of those documents are all that the expectation needs.

    Args:
        d_sae: width of the dictionary.
        tokens: (n_documents,) tokens of each document, all of which are to be seen; documents with none cannot be drawn.

    Memory is for ``d_sae`` latents and for documents begun and not complete, whatever the number of tokens.
    """

    def __init__(self, d_sae: int, tokens: ArrayLike) -> None:
        self._silent = d_sae  # takes the place of the strongest latent where none is active
        self._tokens = np.asarray(tokens, dtype=np.int64)
        self._held: list[np.ndarray] = []
        self._held_size = 0
        self._keys, self._counts = np.empty(0, np.int64), np.empty(0, np.int64)
        self._occurs = np.zeros(d_sae, np.int64)
        self._missed = np.zeros((d_sae, DRAWN + 1))
        self._missed[:, 0] = 1

    def update(self, latents: Tensor, rows: Tensor) -> None:
        """Take in tokens.

        Args:
            latents: (n_tokens, d_sae) activations of the latents; of equally strong ones the first counts.
            rows: (n_tokens,) int64, the row of each token's document.
        """
        # On a CPU NumPy finds the largest of a row fifteen times as fast.
        strongest = torch.from_numpy(latents.numpy().argmax(1)) if latents.device.type == "cpu" else latents.argmax(1)
        strongest = strongest.masked_fill(latents.gather(1, strongest[:, None])[:, 0] <= 0, self._silent)
        self._held.append(rows.cpu().numpy() * (self._silent + 1) + strongest.cpu().numpy())
        self._held_size += len(rows)
        if self._held_size >= HELD_KEYS:
            self._count()

    def diversity(self) -> float | None:
        """Expected number of distinct strongest latents among one random token each of ten random documents.

        The documents are distinct and drawn uniformly among those with tokens, the token uniformly among the document's.
        A token on which nothing is active is drawn like any other and adds no latent, so that silence lowers the figure.

        Returns:
            Between 0 and 10; None with fewer than ten documents.
        """
        self._count()
        documents = int((self._tokens > 0).sum())
        if documents < DRAWN:
            return None
        occurs = self._occurs[:, None]
        draws = np.arange(DRAWN)
        missed = np.zeros(len(self._occurs))
        for j in range(DRAWN + 1):
            # Hypergeometric: j of the ten documents are among those in which the latent occurs.
            inside = np.prod((occurs - draws[:j]) / (documents - draws[:j]), axis=1)
            outside = np.prod((documents - occurs - draws[: DRAWN - j]) / (documents - j - draws[: DRAWN - j]), axis=1)
            missed += comb(DRAWN, j) * inside * outside * self._missed[:, j]
        return float(np.sum(1 - missed))

    def _count(self) -> None:
        """Count what is held, and take in the documents that it completes."""
        keys, inverse = np.unique(np.concatenate([self._keys, *self._held]), return_inverse=True)
        weights = np.concatenate([self._counts, np.ones(self._held_size, np.int64)])
        counts = np.bincount(inverse, weights, minlength=len(keys)).astype(np.int64)
        self._held, self._held_size = [], 0
        documents, owner = np.unique(keys // (self._silent + 1), return_inverse=True)
        complete = (np.bincount(owner, counts, minlength=len(documents)) == self._tokens[documents])[owner]
        self._keys, self._counts = keys[~complete], counts[~complete]
        keys, counts = keys[complete], counts[complete]
        latents, tokens = keys % (self._silent + 1), self._tokens[keys // (self._silent + 1)]
        fired = latents < self._silent
        self._take_in(latents[fired], (1 - counts / tokens)[fired])

    def _take_in(self, latents: np.ndarray, missing: np.ndarray) -> None:
        """Add documents' shares of tokens (n,) on which a latent (n,) is not the strongest, one document per latent at a time."""
        order = np.argsort(latents, kind="stable")
        latents, missing = latents[order], missing[order]
        first = np.searchsorted(latents, latents)
        turn = np.arange(len(latents)) - first
        order = np.argsort(turn, kind="stable")
        j = np.arange(DRAWN + 1)
        for now in np.split(order, np.cumsum(np.bincount(turn))[:-1]) if len(order) else ():
            chosen = latents[now]
            self._occurs[chosen] += 1
            n = self._occurs[chosen, None]
            without = self._missed[chosen]
            # The new document is in a share j / n of the sets of j; in those it multiplies a set of j - 1 of the others.
            within = np.concatenate([np.zeros((len(chosen), 1)), without[:, :-1]], axis=1) * missing[now, None]
            self._missed[chosen] = ((n - j) * without + j * within) / n


def firing_spread(fired: ArrayLike) -> dict[str, float | None]:
    """How evenly firings are spread over the latents.

    Args:
        fired: (d_sae,) number of tokens on which each latent fired.

    Returns:
        ``effective_latents``: exp(-sum s ln s), s = each latent's share of all firings; d_sae when all fire equally often, 1
        when one latent does it all. ``firing_gini``: the Gini coefficient of the counts, sum over pairs |a - b| /
        (2 d_sae sum of counts); 0 when all are equal, 1 - 1 / d_sae when one latent does it all. Both None when nothing fired.
    """
    counts = np.sort(np.asarray(fired, dtype=np.float64))
    total = counts.sum()
    if total == 0:
        return {"effective_latents": None, "firing_gini": None}
    shares = counts[counts > 0] / total
    n = len(counts)
    return {
        "effective_latents": float(np.exp(-np.sum(shares * np.log(shares)))),
        "firing_gini": float(np.sum((2 * np.arange(1, n + 1) - n - 1) * counts) / (n * total)),
    }

"""The usable tokens of an evaluation set in the order of the text, a fixed number at a time however they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.metrics.baselines import READ_ROWS
from sae_pipeline.metrics.reconstruction import squared_norms
from sae_pipeline.metrics.rival_definitions import RIVAL_BATCH


@dataclass(frozen=True)
class TokenBatch:
    """Tokens that are not special, :data:`~sae_pipeline.metrics.registry.RIVAL_BATCH` of them or, at the end, fewer."""

    x: Tensor
    """(n_tokens, d_model) float32 activations."""
    rows: Tensor
    """(n_tokens,) int64, row of each token's document in the document sums."""
    places: Tensor
    """(n_tokens,) int64, row of each token in the set: context * context_length + position."""
    positions: Tensor
    """(n_tokens,) int64, position of each token in its context."""
    inlier: Tensor
    """(n_tokens,) bool, whether the token's norm is at most the outlier norm."""


def token_batches(activations: ActivationShards, rows: Tensor, context_length: int, outlier_norm: float) -> Iterator[TokenBatch]:
    """Every usable token of a set once.

    Args:
        activations: stored activations of the evaluation set.
        rows: (n_corpus_documents,) int64, row of each of the corpus's documents in the document sums.
        context_length: tokens per context.
        outlier_norm: norm above which a token is an outlier.
    """
    x, places = torch.empty(0, activations.d_model), torch.empty(0, dtype=torch.int64)
    for where, read in activations.chunks(READ_ROWS):
        usable = (activations.document[where] >= 0).nonzero()[:, 0]
        x, places = torch.cat([x, read[usable]]), torch.cat([places, where.start + usable])
        complete = len(x) if where.stop >= activations.rows else len(x) - len(x) % RIVAL_BATCH
        for batch, at in zip(x[:complete].split(RIVAL_BATCH), places[:complete].split(RIVAL_BATCH), strict=True):
            if len(batch):
                inlier = squared_norms(batch).cpu().double().sqrt() <= outlier_norm
                yield TokenBatch(batch, rows[activations.document[at].long()], at, at % context_length, inlier)
        x, places = x[complete:], places[complete:]

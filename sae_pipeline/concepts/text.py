"""The text that concepts are looked for in: tokens of the evaluation sets, each document once, its documents in two halves.

A latent is chosen for a concept on one half and judged on the other, so that the best of thousands is not taken at its
word. Which half a document is in depends on its hash alone: every SAE of every study meets the same halves.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.corpora.packing import SPECIAL
from sae_pipeline.metrics.baselines import READ_ROWS
from sae_pipeline.metrics.fidelity import scored_contexts
from sae_pipeline.store.fingerprints import digest

FITTED, JUDGED = 0, 1
"""The half of the documents that a concept's latent is chosen on, and the half it is judged on."""

UNREAD = -1
"""Half of a token that is special, or whose document was read in an earlier set."""


@dataclass(frozen=True)
class ReadSet:
    """The tokens of one evaluation set that are read; its rows are its tokens, context after context."""

    name: str
    corpus: Corpus
    activations: ActivationShards
    half: Tensor
    """(n_rows,) int64: :data:`FITTED`, :data:`JUDGED` or :data:`UNREAD`."""
    document: Tensor
    """(n_rows,) int64, number of the token's document among those read in this set, -1 where unread."""
    documents: int
    """Documents read in this set."""
    judged_documents: int
    """Those of them in the half that is judged."""

    @property
    def contexts(self) -> int:
        """Contexts that are read."""
        return len(self.half) // self.corpus.context_length

    @property
    def tokens(self) -> Tensor:
        """(n_rows,) int64 token ids."""
        return self.corpus.tokens[: self.contexts].flatten().long()

    @property
    def lengths(self) -> Tensor:
        """(documents,) int64, tokens of each document that are read."""
        return torch.bincount(self.document[self.document >= 0], minlength=self.documents)

    def batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        """(rows, activations): the rows that are read, ascending, int64 (n,), and their float32 activations (n, d_model)."""
        for where, x in self.activations.chunks(READ_ROWS):
            if where.start >= len(self.half):
                return
            kept = (self.half[where] != UNREAD).nonzero()[:, 0]
            yield kept + where.start, x[kept]


def read_sets(sets: Mapping[str, tuple[Corpus, ActivationShards]], tokens: int) -> list[ReadSet]:
    """Contexts with ``tokens`` tokens of each set, or all of a smaller one; a document that two sets share is read in the first.

    Args:
        sets: by name, the packed text and its activations at one hook point.
        tokens: of each set, BOS included.
    """
    met: set[str] = set()
    read = []
    for name, (corpus, activations) in sets.items():
        document = corpus.document[: scored_contexts(corpus, tokens)].flatten().long()
        hashes = corpus.documents["document_hash"].tolist()
        fresh = [row for row in torch.unique(document[document != SPECIAL]).tolist() if hashes[row] not in met]
        met.update(hashes[row] for row in fresh)
        half, number = torch.full((len(hashes),), UNREAD), torch.full((len(hashes),), -1)
        half[fresh], number[fresh] = torch.tensor([half_of(hashes[row]) for row in fresh], dtype=torch.int64), torch.arange(len(fresh))
        special = document == SPECIAL
        read.append(
            ReadSet(
                name,
                corpus,
                activations,
                half=torch.where(special, UNREAD, half[document]),
                document=torch.where(special, -1, number[document]),
                documents=len(fresh),
                judged_documents=int((half == JUDGED).sum()),
            )
        )
    return read


def half_of(document_hash: str) -> int:
    """Which half a document is in, by its hash alone."""
    return int(digest("half of the documents", document_hash), 16) % 2

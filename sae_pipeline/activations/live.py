"""Activations computed while they are read, for corpora whose cache would not fit on the disk.

A block is the forward pass that a harvest would have made of it, rounded to the dtype a cache would have stored, so a
stream over these rows has the bits of a stream over the cached ones.
"""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from sae_pipeline.activations.blocks import Cut
from sae_pipeline.activations.rounding import rounded
from sae_pipeline.activations.rows import count_usable, usable_rows
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.errors import StorageError


class LiveActivations:
    """Activations of a corpus at one hook of a model; see :class:`~sae_pipeline.activations.rows.ActivationRows`."""

    def __init__(self, model: SubjectModel, corpus: Corpus, hook: str, cut: Cut, storage_dtype: str) -> None:
        """Runs nothing yet.

        Args:
            hook: name from :meth:`SubjectModel.hook_name`.
            cut: the forward passes that a cache of this corpus would have been made in.
            storage_dtype: float32, bfloat16 or float16.

        Raises:
            StorageError: the cut is one of another corpus.
        """
        if (found := (cut.n_contexts, cut.context_length)) != (expected := tuple(corpus.tokens.shape)):
            raise StorageError(
                f"{hook}: expected blocks of this corpus, {expected[0]} contexts of {expected[1]} tokens, found blocks of {found[0]} contexts of {found[1]}; "
                "survey its activations again"
            )
        self.model, self.corpus, self.hook, self.cut = model, corpus, hook, cut
        self.dtype: torch.dtype = getattr(torch, storage_dtype)
        self.rows, self.d_model = corpus.tokens.numel(), model.d_model
        self._blocks = cut.blocks

    @property
    def document(self) -> Tensor:
        """int32 (rows,) row of the corpus's documents table, -1 for special tokens."""
        return self.corpus.document.flatten()

    @cached_property
    def usable(self) -> Tensor:
        """int64 row numbers of the tokens that are not special, ascending."""
        return usable_rows(self.document)

    @cached_property
    def usable_per_block(self) -> Tensor:
        """int64 (n_blocks,) tokens of every block that are not special."""
        shards = self.cut.shards
        return count_usable(self.cut, lambda n: self.corpus.document[slice(*shards[n])])

    def expect_block(self, block: int) -> None:
        """Nothing is fetched: a block is computed when it is read."""

    def read_block(self, block: int, out: Tensor) -> None:
        """Run the forward pass of a block and write its first usable rows, rounded to ``dtype``, into ``out``.

        Args:
            out: (n, d_model) of ``dtype`` on the CPU, at most usable_per_block[block] rows.

        Raises:
            SubjectError: the values are not finite.
            StorageError: a value does not fit the storage dtype.
        """
        first, stop = self._blocks[block]
        usable = usable_rows(self.corpus.document[first:stop].flatten())[: len(out)]

        def see(hook: str, activation: Tensor) -> None:
            stored = rounded(activation.detach().flatten(0, 1), self.dtype, hook, (first, stop))
            out.copy_(stored[usable.to(stored.device)])

        self.model.visit(self.corpus.tokens[first:stop], [self.hook], see)

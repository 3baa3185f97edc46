"""How a corpus is cut for the forward pass: into shards of whole contexts, and those into blocks of one pass each.

The cut decides the bits of an activation, because a forward pass rounds differently in another batch. It is therefore
the same whether activations are written to a cache, read back from it, or computed anew while training.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Cut:
    """Shards and blocks of a corpus.

    Attributes:
        n_contexts: contexts of the corpus.
        context_length: tokens per context.
        shard_contexts: contexts per shard; the last shard may have fewer.
        batch_size: contexts per block, which is one forward pass; a block never straddles two shards.
    """

    n_contexts: int
    context_length: int
    shard_contexts: int
    batch_size: int

    @property
    def shards(self) -> list[tuple[int, int]]:
        """(first context, context after the last) of every shard."""
        return _pieces(0, self.n_contexts, self.shard_contexts)

    def blocks_of(self, shard: int) -> list[tuple[int, int]]:
        """(first context, context after the last) of every block of a shard."""
        return _pieces(*self.shards[shard], self.batch_size)

    @property
    def blocks(self) -> list[tuple[int, int]]:
        """(first context, context after the last) of every block, in corpus order."""
        return [block for start, stop in self.shards for block in _pieces(start, stop, self.batch_size)]


def contexts_per_shard(shard_tokens: int, context_length: int) -> int:
    """Whole contexts in a shard of about ``shard_tokens`` tokens, at least one."""
    return max(1, shard_tokens // context_length)


def _pieces(start: int, stop: int, size: int) -> list[tuple[int, int]]:
    return [(first, min(first + size, stop)) for first in range(start, stop, size)]

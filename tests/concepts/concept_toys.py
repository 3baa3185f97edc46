"""Text spelt by a few tokens, and an SAE with latents planted for some of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
import torch
from torch import Tensor

from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.saes.inference import InferenceSAE

PIECES = ["<s>", "a", " che", "mist", "ry", " cat", "s", ".", " the", "Cat", " black"]
"""What the ids of :class:`PieceTokenizer` stand for."""


class PieceTokenizer:
    """A tokenizer of the pieces above, as far as concepts need one."""

    vocab_size = len(PIECES)
    bos_id = 0

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[PIECES.index(text)] for text in texts]

    def decode(self, ids: list[list[int]]) -> list[str]:
        return ["".join(PIECES[token] for token in each) for each in ids]


class NumberTokenizer:
    """Spells the id of a token."""

    bos_id = 0

    def __init__(self, vocab_size: int) -> None:
        self.vocab_size = vocab_size

    def encode(self, texts: list[str]) -> list[list[int]]:
        return [[1] for _ in texts]

    def decode(self, ids: list[list[int]]) -> list[str]:
        return [" ".join(map(str, each)) for each in ids]


def corpus_of(tokens: list[list[int]], document: list[list[int]], hashes: list[str] | None = None) -> Corpus:
    """A corpus from token ids and document numbers, -1 where special."""
    ids, owner = torch.tensor(tokens), torch.tensor(document)
    count = int(owner.max()) + 1
    documents = pd.DataFrame({"document_hash": hashes or [f"hash{n}" for n in range(count)]})
    return Corpus(ids.int(), owner.int(), owner.clamp(max=0).int(), torch.zeros(len(ids), dtype=torch.uint8), documents, {})


@dataclass
class HeldShards:
    """Activations in memory, read as stored ones are."""

    activations: Tensor

    @property
    def d_model(self) -> int:
        return self.activations.shape[1]

    def chunks(self, rows: int) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, len(self.activations), rows):
            where = slice(start, min(start + rows, len(self.activations)))
            yield where, self.activations[where].float()


VOCABULARY, D_MODEL, LENGTH = 48, 64, 21
PLANTED = 12
"""Tokens 1 to 12, the most frequent ones, have a latent each: latent 0 that of token 1, and so on."""


def embeddings() -> Tensor:
    """(VOCABULARY, D_MODEL), orthonormal rows."""
    basis, _ = torch.linalg.qr(torch.randn(D_MODEL, D_MODEL, generator=torch.Generator().manual_seed(1)))
    return basis[:VOCABULARY]


def text(contexts: int, seed: int, prefix: str) -> tuple[Corpus, HeldShards]:
    """One document per context, tokens with frequencies that fall with their ids, and their embeddings as activations."""
    generator = torch.Generator().manual_seed(seed)
    weights = 1 / torch.arange(1, VOCABULARY).float()
    tokens = 1 + torch.multinomial(weights.expand(contexts, -1), LENGTH, replacement=True, generator=generator)
    tokens[:, 0] = 0
    document = torch.arange(contexts)[:, None].repeat(1, LENGTH)
    document[:, 0] = -1
    corpus = corpus_of(tokens.tolist(), document.tolist(), [f"{prefix}{n}" for n in range(contexts)])
    return corpus, HeldShards(embeddings()[tokens].flatten(0, 1))


def planted_sae(d_sae: int = 80) -> InferenceSAE:
    """Its first latents fire on one planted token each, the others on random halves of everything."""
    generator = torch.Generator().manual_seed(2)
    planted = embeddings()[1 : PLANTED + 1]
    rows = torch.cat([planted, torch.nn.functional.normalize(torch.randn(d_sae - PLANTED, D_MODEL, generator=generator), dim=1)])
    b_enc = torch.cat([torch.full((PLANTED,), -0.5), torch.zeros(d_sae - PLANTED)])
    return InferenceSAE(rows.T.contiguous(), b_enc, rows, torch.zeros(D_MODEL), "relu")

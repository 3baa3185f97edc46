"""The concepts that are looked for: tokens of the vocabulary and named lists of words, where they are and how often.

A *token concept* is a token id; it is present on that token. A *keyword concept* is a list of words and phrases, whole
words in either case; it is present on the last token of an occurrence, because a causal model does not know the word
before it. The tokens before it in the occurrence count neither for nor against.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.concepts.detection import Marks
from sae_pipeline.concepts.text import FITTED, JUDGED, UNREAD, ReadSet
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.corpora.packing import SPECIAL
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.store.fingerprints import digest

Array = np.ndarray

COUNTED_TOKENS = 2**22
"""Tokens of a training mix, from its start, in which words are counted: every prefix of a mix has the shares of the whole."""

CONTEXTS_AT_ONCE = 256
"""Contexts that are spelt out side by side."""


# ------------------------------------------------------------------------------------------------ tokens


class TokenDraw(NamedTuple):
    """Token ids, the most frequent first, and how likely each was."""

    tokens: Array
    """(n,) int64."""
    chance: Array
    """(n,) float64, chance of each to be drawn, given the noise of all other ids; 1 where all that are eligible are drawn."""


def sample_tokens(eligible: Array, frequency: Array, number: int, seed: int) -> TokenDraw:
    """Token ids drawn without replacement, log-uniformly over frequency ranks: each with weight 1 / rank.

    Args:
        eligible: (vocab_size,) bool, ids that may be drawn.
        frequency: (vocab_size,) what the ids are ranked by, the highest first.
        number: how many at most.
        seed: of the draw; which ids are drawn depends on each id's rank and on no other id.
    """
    rank = ranks(frequency)
    generator = np.random.default_rng(int(digest("token concepts", seed), 16))
    # The largest of log weight + Gumbel noise are a draw without replacement (Efraimidis and Spirakis 2006).
    keys = np.where(eligible, generator.gumbel(size=len(rank)) - np.log(rank), -np.inf)
    order, drawn_number = np.argsort(-keys, kind="stable"), min(number, int(eligible.sum()))
    drawn = order[:drawn_number]
    drawn = drawn[np.argsort(rank[drawn])]
    # A drawn id is one whose key passes the highest key left out. Given that key the ids are drawn independently of each other, each
    # with its chance to pass it, and weights of 1 / chance give totals without bias (Cohen and Kaplan 2007, rank conditioning).
    passed = keys[order[drawn_number]] if drawn_number < len(keys) else -np.inf
    return TokenDraw(drawn, -np.expm1(-np.exp(-np.log(rank[drawn]) - passed)))


def ranks(frequency: Array) -> Array:
    """(n,) int64, 1 for the highest frequency; equal ones in the order of their ids."""
    rank = np.empty(len(frequency), np.int64)
    rank[np.argsort(-frequency, kind="stable")] = np.arange(1, len(frequency) + 1)
    return rank


def occurrences(sets: Sequence[ReadSet], vocab_size: int) -> Array:
    """(2, vocab_size) int64: how often each token is in either half of the text."""
    counts = np.zeros((2, vocab_size), np.int64)
    for read in sets:
        tokens, half = read.tokens.numpy(), read.half.numpy()
        for number in (FITTED, JUDGED):
            counts[number] += np.bincount(tokens[half == number], minlength=vocab_size)
    return counts


# ------------------------------------------------------------------------------------------------ words


@dataclass(frozen=True)
class Keywords:
    """Named lists of words, and the texts of the tokens they are looked for in."""

    patterns: tuple[re.Pattern[str], ...]
    pieces: Mapping[int, str]

    @classmethod
    def of(cls, keywords: Mapping[str, Sequence[str]], tokenizer: TextTokenizer) -> Keywords:
        """The lists in their order."""
        return cls(tuple(pattern(words) for words in keywords.values()), token_texts(tokenizer) if keywords else {})

    def find(self, corpus: Corpus, contexts: int) -> Marks:
        """Occurrences in the first contexts of a corpus; none reaches across documents."""
        found: list[tuple[int, int, bool]] = []
        if self.patterns:
            for start in range(0, contexts, CONTEXTS_AT_ONCE):
                stop = min(start + CONTEXTS_AT_ONCE, contexts)
                for number, (text, ends) in enumerate(self._spelt(corpus, start, stop), start):
                    found += [(number * corpus.context_length + token, concept, last) for token, concept, last in self._in_text(text, ends)]
        row, concept, last = (list(column) for column in zip(*sorted(set(found)), strict=True)) if found else ([], [], [])
        return Marks(torch.tensor(row, dtype=torch.int64), torch.tensor(concept, dtype=torch.int64), torch.tensor(last, dtype=torch.bool))

    def _spelt(self, corpus: Corpus, start: int, stop: int) -> Iterator[tuple[str, Array]]:
        """The text of each context, and where in it each token ends; a line break before every document."""
        for tokens, documents in zip(corpus.tokens[start:stop].tolist(), corpus.document[start:stop].tolist(), strict=True):
            parts, before = [], SPECIAL
            for token, document in zip(tokens, documents, strict=True):
                text = "\n" if document == SPECIAL else self.pieces[token]
                parts.append("\n" + text if document != before else text)
                before = document
            yield "".join(parts), np.cumsum([len(part) for part in parts])

    def _in_text(self, text: str, ends: Array) -> Iterator[tuple[int, int, bool]]:
        """(token, concept, whether it is the last of its occurrence) of every token of an occurrence."""
        for concept, words in enumerate(self.patterns):
            for match in words.finditer(text):
                first, last = np.searchsorted(ends, [match.start(), match.end() - 1], side="right").tolist()
                yield from ((token, concept, token == last) for token in range(first, last + 1))


def pattern(words: Sequence[str]) -> re.Pattern[str]:
    """Matches any of the words and phrases as whole words, in either case, with any white space where they have a space."""
    longest_first = sorted(words, key=len, reverse=True)
    spelt = (r"\s+".join(re.escape(part) for part in word.split()) for word in longest_first)
    return re.compile(rf"(?<!\w)(?:{'|'.join(spelt)})(?!\w)", re.IGNORECASE)


def token_texts(tokenizer: TextTokenizer) -> dict[int, str]:
    """What each token adds to a text that goes on before it: with its space, and without the marks of word pieces.

    A token that is a part of a character is a replacement character here: words whose letters a tokenizer splits into
    bytes are not found.
    """
    ids = range(tokenizer.vocab_size)
    anchor = tokenizer.encode(["a"])[0][-1:]
    ((before,), after) = tokenizer.decode([anchor]), tokenizer.decode([[*anchor, token] for token in ids])
    return {token: text.removeprefix(before) for token, text in zip(ids, after, strict=True)}


# ------------------------------------------------------------------------------------------------ both


@dataclass(frozen=True)
class MixText:
    """What a training mix says about frequencies."""

    counts: Array
    """(vocab_size,) int64, occurrences of every token."""
    words: Array
    """(n_keywords,) float64, occurrences of every keyword concept per million tokens."""

    @classmethod
    def of(cls, corpus: Corpus, counts: Array, keywords: Keywords) -> MixText:
        """Words are counted in the first :data:`COUNTED_TOKENS` tokens of the mix."""
        contexts = min(corpus.n_contexts, -(-COUNTED_TOKENS // corpus.context_length))
        marks = keywords.find(corpus, contexts)
        tokens = int((corpus.document[:contexts] != SPECIAL).sum()) if keywords.patterns else 1
        found = np.bincount(marks.concept[marks.present].numpy(), minlength=len(keywords.patterns))
        return cls(counts, found / tokens * 1e6)

    @property
    def share(self) -> Array:
        """(vocab_size,) float64, occurrences per token of the mix."""
        return self.counts / max(int(self.counts.sum()), 1)


@dataclass(frozen=True)
class Vocabulary:
    """The concepts of a study in one order: token concepts, then keyword concepts."""

    tokens: Array
    """(n_token_concepts,) int64 ids."""
    chance: Array
    """(n_token_concepts,) float64, chance of each token to be drawn."""
    keywords: tuple[str, ...]
    marks: tuple[Marks, ...]
    """Where they are, one for each set that is read."""
    present: Array
    """(2, n_concepts) int64, occurrences in either half."""

    @classmethod
    def of(
        cls, sets: Sequence[ReadSet], mixes: Mapping[str, MixText], keywords: Mapping[str, Sequence[str]], found: Keywords, *,
        number: int, least: int, seed: int,
    ) -> Vocabulary:  # fmt: skip
        """Draw token concepts from the ids that are at least ``least`` times in both halves, by their mean share of the mixes."""
        vocab_size = len(next(iter(mixes.values())).counts)
        counts = occurrences(sets, vocab_size)
        tokens, chance = sample_tokens(counts.min(0) >= least, np.mean([mix.share for mix in mixes.values()], axis=0), number, seed)
        concept = torch.full((vocab_size,), -1)
        concept[torch.from_numpy(tokens)] = torch.arange(len(tokens))
        marks = tuple(_marks(read, concept, found) for read in sets)
        present = np.zeros((2, len(tokens) + len(keywords)), np.int64)
        for read, marked in zip(sets, marks, strict=True):
            np.add.at(present, (read.half[marked.row[marked.present]].numpy(), marked.concept[marked.present].numpy()), 1)
        return cls(tokens, chance, tuple(keywords), marks, present)

    @property
    def size(self) -> int:
        """Number of concepts."""
        return len(self.tokens) + len(self.keywords)

    def frequency(self, mix: MixText) -> Array:
        """(n_concepts,) float64, occurrences per million tokens of a training mix."""
        return np.concatenate([mix.share[self.tokens] * 1e6, mix.words])


def _marks(read: ReadSet, concept_of: Tensor, keywords: Keywords) -> Marks:
    """Where the concepts are in a set; tokens that are not read have none."""
    words = keywords.find(read.corpus, read.contexts)
    of_token = concept_of[read.tokens]
    row = (of_token >= 0).nonzero()[:, 0]
    rows = torch.cat([row, words.row])
    concept = torch.cat([of_token[row], words.concept + int((concept_of >= 0).sum())])
    present = torch.cat([torch.ones(len(row), dtype=torch.bool), words.present])
    kept = (read.half[rows] != UNREAD).nonzero()[:, 0]
    order = kept[torch.argsort(rows[kept], stable=True)]
    return Marks(rows[order], concept[order], present[order])

"""What the text of a corpus is like: sizes, variety, redundancy and refusals, for the whole and for each of its sources.

Text is read once, document by document, so memory does not grow with the corpus. Words are lower-cased runs of
non-whitespace. Type-token ratio and 3-gram diversity fall as a text gets longer, whatever it is about: both are taken
over the first words of a text (:data:`PREFIX_WORDS`), and the table states how many those were. Compare them only
between rows of equal ``prefix_words``.
"""

from __future__ import annotations

import re
import zlib
from array import array
from collections.abc import Iterable, Iterator
from functools import cache
from math import nan
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import yaml

from sae_pipeline.corpora.documents import encodable
from sae_pipeline.corpora.near_duplicates import redundant

PREFIX_WORDS = 1_000_000
"""Words over which type-token ratio and 3-gram diversity are taken: enough for both to settle, a few dozen MB of memory."""

ZLIB_CHUNK = 2**20
"""Bytes compressed together. Equal chunks make the ratio independent of a text's length, and are far beyond zlib's window of 32 KiB."""

ZLIB_LEVEL = 6

REFUSALS_FILE = Path(__file__).with_name("refusals.v1.yaml")

WHOLE = "whole corpus"
"""Scope of the row for a corpus as a whole; no source can be called so."""

TEXT_COLUMNS = {
    "documents": ("documents with at least one token in the corpus", "documents"),
    "words": ("lower-cased runs of non-whitespace, over whole documents", "words"),
    "mean_words_per_document": ("words / documents", "words"),
    "prefix_words": ("first words of the text, over which the next two columns are taken", "words"),
    "type_token_ratio": ("distinct words / words", "share"),
    "trigram_diversity": ("distinct 3-grams of words / 3-grams, none across two documents", "share"),
    "zlib_ratio": ("bytes after zlib (level 6, 1 MiB chunks) / bytes of UTF-8 before; lower is more repetitive", "share"),
    "refusal_rate": ("documents holding a phrase of refusals.v1 / documents", "share"),
}

STATISTICS_COLUMNS = {
    "scope": ("'whole corpus', or a source", ""),
    "contexts": ("packed contexts", "contexts"),
    "tokens": ("tokens of documents in the corpus, special positions left out", "tokens"),
    "share": ("contexts of the scope / contexts of the corpus: the token share a mix declares", "share"),
    **TEXT_COLUMNS,
    "exact_duplicates": ("records left out because their source had given the same text before, over all text read for the corpus", "records"),
    "shared_documents": ("documents whose text another source gives as well", "documents"),
    "near_duplicates": ("documents beyond the first of each group of near-duplicates (estimated Jaccard at or above 0.8)", "documents"),
    "near_duplicate_rate": ("near_duplicates / documents", "share"),
}
"""Columns of :func:`corpus_statistics`: name, meaning, unit."""

LEFT_OUT_COLUMNS = {
    "source": ("source of the records", ""),
    "reason": ("duplicate, empty, malformed, filtered, too_short, too_long, control_tokens or no_turns", ""),
    "records": ("records left out for that reason while the corpus was read", "records"),
}
"""Columns of :func:`left_out`: name, meaning, unit."""


class CorpusText(Protocol):
    """What is read of a packed corpus (:class:`sae_pipeline.corpora.corpus.Corpus`).

    ``documents`` has one row per document (document_hash, source, key, tokens) and ``texts`` streams their texts in the
    same order. ``tokens`` and ``document`` are int ``(n_contexts, context_length)``, document -1 where a position is
    special; ``source`` is int ``(n_contexts,)``, an index into ``summary["sources"]``. Tensors and arrays both do.
    """

    @property
    def tokens(self) -> Any: ...
    @property
    def document(self) -> Any: ...
    @property
    def source(self) -> Any: ...
    @property
    def documents(self) -> pd.DataFrame: ...
    @property
    def summary(self) -> dict[str, Any]: ...
    def texts(self) -> Iterator[str]: ...


class _Prefix:
    """Distinct words and 3-grams of the first words of a text."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._number: dict[str, int] = {}
        self._words = array("i")
        self._starts = array("q")

    def add(self, words: list[str]) -> None:
        room = self.limit - len(self._words)
        if room > 0:
            self._starts.append(len(self._words))
            self._words.extend(self._number.setdefault(word, len(self._number)) for word in words[:room])

    def result(self) -> dict[str, float]:
        words, number = np.asarray(self._words, np.int64), len(self._words)
        # the second and third word of a 3-gram must not open a document
        opening = np.zeros(number + 1, bool)
        opening[np.asarray(self._starts, np.int64)] = True
        whole = ~(opening[1 : number - 1] | opening[2:number])
        pairs = np.unique(words[: number - 2] * max(len(self._number), 1) + words[1 : number - 1], return_inverse=True)[1]
        trigrams = (pairs * max(len(self._number), 1) + words[2:])[whole]
        return {
            "prefix_words": number,
            "type_token_ratio": len(self._number) / number if number else nan,
            "trigram_diversity": len(np.unique(trigrams)) / len(trigrams) if len(trigrams) else nan,
        }


class _Counts:
    """Documents, words, compressed size and refusals of a text, document by document."""

    def __init__(self) -> None:
        self.documents = self.words = self.refusals = self.raw = self.compressed = 0
        self._chunk = bytearray()

    def add(self, text: str, words: list[str], refusal: bool) -> None:
        self.documents += 1
        self.words += len(words)
        self.refusals += refusal
        self._chunk += text.encode() + b"\n"
        while len(self._chunk) >= ZLIB_CHUNK:
            self._compress(ZLIB_CHUNK)

    def _compress(self, size: int) -> None:
        piece = bytes(self._chunk[:size])
        del self._chunk[:size]
        self.raw += len(piece)
        self.compressed += len(zlib.compress(piece, ZLIB_LEVEL)) if piece else 0

    @classmethod
    def total(cls, parts: Iterable[_Counts]) -> _Counts:
        """The sum of several texts, each compressed by itself."""
        total = cls()
        for part in parts:
            part._compress(len(part._chunk))
            for field in ("documents", "words", "refusals", "raw", "compressed"):
                setattr(total, field, getattr(total, field) + getattr(part, field))
        return total

    def result(self, prefix: _Prefix) -> dict[str, float]:
        self._compress(len(self._chunk))
        return {
            "documents": self.documents,
            "words": self.words,
            "mean_words_per_document": _ratio(self.words, self.documents),
            **prefix.result(),
            "zlib_ratio": _ratio(self.compressed, self.raw),
            "refusal_rate": _ratio(self.refusals, self.documents),
        }


def corpus_statistics(corpus: CorpusText, signatures: np.ndarray, *, prefix_words: int = PREFIX_WORDS) -> pd.DataFrame:
    """One row for the corpus as a whole and one per source, in the order of ``summary["sources"]``; columns :data:`STATISTICS_COLUMNS`.

    The compressed size of the whole is the sum over its sources, so that it does not reward text for standing next to text of its own kind.

    Args:
        corpus: a packed corpus.
        signatures: of its documents, uint32 ``(n_documents, n_hashes)``, from :func:`sae_pipeline.corpora.near_duplicates.signatures`.
        prefix_words: words over which type-token ratio and 3-gram diversity are taken.
    """
    names = list(corpus.summary["sources"])
    owners = corpus.documents["source"].to_numpy(str)
    counts = {name: _Counts() for name in names}
    prefixes = {name: _Prefix(prefix_words) for name in [*names, WHOLE]}
    for owner, (text, words, refusal) in zip(owners, _read(corpus.texts()), strict=True):
        counts[owner].add(text, words, refusal)
        prefixes[owner].add(words)
        prefixes[WHOLE].add(words)
    counts[WHOLE] = _Counts.total(counts.values())
    contexts = np.bincount(np.asarray(corpus.source), minlength=len(names))
    dropped = corpus.summary["dropped"]
    shared = corpus.documents["document_hash"].duplicated(keep=False).to_numpy()
    size_of = {WHOLE: int(contexts.sum()), **dict(zip(names, contexts.tolist(), strict=True))}
    rows = []
    for name in [WHOLE, *names]:
        scope = names if name == WHOLE else [name]
        mine = np.isin(owners, scope)
        repeats = redundant(signatures[mine])
        rows.append(
            {
                "scope": name,
                "contexts": size_of[name],
                "tokens": int(corpus.documents["tokens"].to_numpy()[mine].sum()),
                "share": _ratio(size_of[name], size_of[WHOLE]),
                **counts[name].result(prefixes[name]),
                "exact_duplicates": sum(dropped.get(source, {}).get("duplicate", 0) for source in scope),
                "shared_documents": int(shared[mine].sum()),
                "near_duplicates": repeats,
                "near_duplicate_rate": _ratio(repeats, int(mine.sum())),
            }
        )
    return pd.DataFrame(rows, columns=list(STATISTICS_COLUMNS))


def left_out(corpus: CorpusText) -> pd.DataFrame:
    """Records of each source that are not in the corpus although they were read, by reason; columns :data:`LEFT_OUT_COLUMNS`."""
    dropped = corpus.summary["dropped"]
    rows = [(source, reason, count) for source in sorted(dropped) for reason, count in sorted(dropped[source].items()) if count]
    return pd.DataFrame(rows, columns=list(LEFT_OUT_COLUMNS)).astype({"source": str, "reason": str, "records": "int64"})


def _holds_refusal(words: list[str]) -> bool:
    """Whether a text holds a phrase of ``refusals.v1`` at word boundaries; case, line breaks and curly apostrophes make no difference."""
    text = " ".join(words).replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    # plain search first: it is many times faster than the expression, and most texts hold none
    return any(phrase in text and expression.search(text) for phrase, expression in _refusals())


@cache
def _refusals() -> tuple[tuple[str, re.Pattern[str]], ...]:
    phrases = yaml.safe_load(REFUSALS_FILE.read_text())["phrases"]
    return tuple((phrase, re.compile(rf"(?<!\w){re.escape(phrase)}(?!\w)")) for phrase in phrases)


def _read(texts: Iterable[str]) -> Iterator[tuple[str, list[str], bool]]:
    """Each text with its words and whether it holds a refusal."""
    for text in texts:
        text = encodable(text)
        words = text.lower().split()
        yield text, words, _holds_refusal(words)


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else nan

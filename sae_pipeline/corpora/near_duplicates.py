"""Near-duplicate documents by MinHash (Broder 1997, *On the resemblance and containment of documents*).

A document is the set of its shingles, runs of five words; two documents resemble each other by the Jaccard similarity
of their sets. The share of equal entries in two signatures of k minimum hashes estimates it with standard deviation
sqrt(J (1 - J) / k), at most 1 / (2 sqrt(k)): 0.035 at J = 0.8 and k = 128. Pairs with an estimate of 0.8 or more are called
near-duplicates.

Candidates are found by bands of equal entries (locality-sensitive hashing). There is one band more than entries in which
two near-duplicates can differ, so at least one band of theirs is equal: banding leaves out no pair that comparing
all signatures would find.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import numpy as np
import pandas as pd

from sae_pipeline.corpora.documents import encodable

SHINGLE_WORDS = 5
N_HASHES = 128
THRESHOLD = 0.8

WORDS_AT_ONCE = 2**15
"""Words hashed together: their shingles stay in the processor's second-level cache while all hashes pass over them."""

PAIRS_AT_ONCE = 2**14
"""Pairs of signatures compared together: 8 MB a side."""

DUPLICATE_COLUMNS = {
    "corpus": ("corpus whose documents are counted: a training mix, or an evaluation set as held_out/<name>", ""),
    "against": ("corpus they are looked up in; the same name: counted within the corpus", ""),
    "documents": ("documents of corpus", "documents"),
    "exact": ("documents of corpus whose text is in against; within a corpus: beyond the first with that text", "documents"),
    "near": (
        "documents of corpus with a near-duplicate (estimated Jaccard at or above 0.8) in against; within a corpus: beyond the first of each group",
        "documents",
    ),
    "near_share": ("near / documents", "share"),
}
"""Columns of :func:`duplicate_counts`: name, meaning, unit."""

# Fixed for good: a signature made today must be comparable with one made from another corpus later.
_generator = np.random.default_rng(1997)
_MULTIPLIER = (_generator.integers(0, 2**32, N_HASHES, np.uint32) | np.uint32(1))[:, None]
_OFFSET = _generator.integers(0, 2**32, N_HASHES, np.uint32)[:, None]
_PLACE = _generator.integers(0, 2**64, SHINGLE_WORDS, np.uint64) | np.uint64(1)
_BAND = _generator.integers(0, 2**64, N_HASHES, np.uint64) | np.uint64(1)
del _generator


@dataclass(frozen=True)
class Sketch:
    """What is kept of a corpus to find its documents elsewhere.

    Attributes:
        hashes: ``document_hash`` of each document.
        signatures: uint32 ``(n_documents, 128)``, same order.
    """

    hashes: list[str]
    signatures: np.ndarray


# ------------------------------------------------------------------------------------------------ signatures


def signatures(texts: Iterable[str]) -> np.ndarray:
    """MinHash signatures of documents, uint32 ``(n_documents, 128)``; the same text has the same signature in every corpus.

    Words are lower-cased runs of non-whitespace. A document shorter than five words is one shingle of all its words.
    """
    parts = [_signed(lengths, words) for lengths, words in _batches(texts)]
    return np.concatenate(parts) if parts else np.empty((0, N_HASHES), np.uint32)


def estimated_jaccard(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Share of equal entries of signatures ``(..., 128)``: an unbiased estimate of the Jaccard similarity of the shingles."""
    return (a == b).mean(-1)


def _batches(texts: Iterable[str]) -> Iterator[tuple[list[int], list[str]]]:
    """Words of several documents, one after another, and how many each has."""
    lengths: list[int] = []
    words: list[str] = []
    for text in texts:
        found = encodable(text).lower().split() or [""]
        lengths.append(len(found))
        words += found
        if len(words) >= WORDS_AT_ONCE:
            yield lengths, words
            lengths, words = [], []
    if lengths:
        yield lengths, words


def _signed(lengths: list[int], words: list[str]) -> np.ndarray:
    hashed = pd.util.hash_array(np.array(words, object), categorize=False)
    length = np.array(lengths)
    per_document = np.maximum(length - SHINGLE_WORDS + 1, 1)
    shingle_start = np.cumsum(per_document) - per_document
    document = np.repeat(np.arange(len(length)), per_document)
    end = np.cumsum(length)
    first = np.arange(len(document)) - shingle_start[document] + (end - length)[document]
    shingles = np.zeros(len(document), np.uint64)
    for place, factor in enumerate(_PLACE):
        word = first + place
        inside = word < end[document]
        shingles += np.where(inside, _mixed(hashed[np.where(inside, word, 0)] * factor), np.uint64(0))
    mixed = (_mixed(shingles) >> np.uint64(32)).astype(np.uint32)
    result = np.full((len(length), N_HASHES), 2**32 - 1, np.uint32)
    for start in range(0, len(mixed), WORDS_AT_ONCE):  # more than one piece only where a document is longer than a batch
        piece, here = mixed[start : start + WORDS_AT_ONCE], document[start : start + WORDS_AT_ONCE]
        opening = np.flatnonzero(np.diff(here, prepend=-1))
        minima = np.empty((len(opening), N_HASHES), np.uint32)
        buffer = np.empty_like(piece)
        for n in range(N_HASHES):
            np.multiply(piece, _MULTIPLIER[n], out=buffer)
            buffer += _OFFSET[n]
            minima[:, n] = np.minimum.reduceat(buffer, opening)
        rows = here[opening]
        result[rows] = np.minimum(result[rows], minima)
    return result


def _mixed(values: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every bit depends on every other (the finaliser of SplitMix64, Steele et al. 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


# ------------------------------------------------------------------------------------------------ groups and crossings


def near_duplicate_groups(signatures: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Groups of near-duplicates: connected by pairs whose estimated similarity is at least ``threshold``.

    Returns:
        int64 ``(n_documents,)``: for each document the first row of its group; its own row where it has no near-duplicate.
    """
    if not len(signatures):
        return np.empty(0, np.int64)
    distinct, first, back = _distinct(signatures)
    group = np.arange(len(distinct))

    def leader(rows: np.ndarray) -> np.ndarray:
        while not np.array_equal(above := group[rows], rows):
            group[rows] = group[above]
            rows = above
        return rows

    for keys in _band_keys(distinct, threshold):
        order = np.argsort(keys, kind="stable")
        opening = np.flatnonzero(np.diff(keys[order], prepend=keys[order][:1] + np.uint64(1)))
        for start, end in zip(opening, [*opening[1:], len(order)], strict=True):
            if end - start > 1:
                _join(distinct, order[start:end], group, leader, threshold)
    # rows of ``distinct`` are in the order of their first appearance, so the lowest leader is the first document
    return first[leader(np.arange(len(distinct)))][back]


def redundant(signatures: np.ndarray, threshold: float = THRESHOLD) -> int:
    """Documents beyond the first of each group of near-duplicates: what removing near-duplicates would take away."""
    return len(signatures) - len(np.unique(near_duplicate_groups(signatures, threshold)))


def crossing(signatures_a: np.ndarray, signatures_b: np.ndarray, threshold: float = THRESHOLD) -> np.ndarray:
    """Which documents of b have a near-duplicate in a: bool ``(n_b,)``."""
    known, asked, back = _distinct(signatures_a)[0], *_distinct(signatures_b)[::2]
    found = np.zeros(len(asked), bool)
    for keys_a, keys_b in zip(_band_keys(known, threshold), _band_keys(asked, threshold), strict=True):
        order = np.argsort(keys_a, kind="stable")
        open_rows = np.flatnonzero(~found)
        low = np.searchsorted(keys_a[order], keys_b[open_rows], "left")
        count = np.searchsorted(keys_a[order], keys_b[open_rows], "right") - low
        open_rows, low, count = open_rows[count > 0], low[count > 0], count[count > 0]
        start = np.cumsum(count) - count
        total = int(count.sum())
        for piece in range(0, total, PAIRS_AT_ONCE):
            pair = np.arange(piece, min(piece + PAIRS_AT_ONCE, total))
            which = np.searchsorted(start, pair, "right") - 1
            candidates = order[low[which] + pair - start[which]]
            close = estimated_jaccard(known[candidates], asked[open_rows[which]]) >= threshold
            found[open_rows[which[close]]] = True
    return found[back]


def duplicate_counts(training: Mapping[str, Sketch], held_out: Mapping[str, Sketch], threshold: float = THRESHOLD) -> pd.DataFrame:
    """Duplicates within each corpus, and held-out documents found in each training mix; columns :data:`DUPLICATE_COLUMNS`.

    Args:
        training: sketch of each training mix by name.
        held_out: sketch of each evaluation set by name (``held_out/<name>``).
        threshold: estimated similarity from which two documents are near-duplicates.
    """
    rows = []
    for name, sketch in {**training, **held_out}.items():
        repeats = len(sketch.hashes) - len(set(sketch.hashes))
        rows.append((name, name, len(sketch.hashes), repeats, redundant(sketch.signatures, threshold)))
    texts = {mix: set(sketch.hashes) for mix, sketch in training.items()}
    for name, asked in held_out.items():
        for mix, known in training.items():
            exact = sum(known_hash in texts[mix] for known_hash in asked.hashes)
            rows.append((name, mix, len(asked.hashes), exact, int(crossing(known.signatures, asked.signatures, threshold).sum())))
    table = pd.DataFrame(rows, columns=list(DUPLICATE_COLUMNS)[:-1])
    return table.assign(near_share=table["near"] / table["documents"])


def on_both_sides(training: Iterable[Sketch], held_out: Iterable[Sketch]) -> int:
    """Documents, each counted once, that some training mix and some evaluation set both hold."""
    trained = {document for sketch in training for document in sketch.hashes}
    return len({document for sketch in held_out for document in sketch.hashes if document in trained})


def _distinct(signatures: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct rows in order of first appearance, the row each first appears at, and for each row the number of its distinct one.

    Equal texts have equal signatures, and a boilerplate text met ten thousand times would otherwise be compared with itself 10^8 times.
    """
    if not len(signatures):
        return signatures, np.empty(0, np.int64), np.empty(0, np.int64)
    as_bytes = np.ascontiguousarray(signatures).view(np.dtype((np.void, signatures.shape[1] * signatures.itemsize))).ravel()
    _, first, back = np.unique(as_bytes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return signatures[first[order]], first[order], place[back]


def _band_keys(signatures: np.ndarray, threshold: float) -> Iterator[np.ndarray]:
    """For each band a uint64 ``(n,)`` that is equal where the band's entries are (and otherwise with probability 2^-64)."""
    width = signatures.shape[1]
    # the smallest number of equal entries whose share reaches the threshold, minding rounding of the product
    needed = ceil(round(threshold * width, 9))
    for band in np.array_split(np.arange(width), width - needed + 1):
        yield _mixed((_mixed(signatures[:, band].astype(np.uint64) + np.uint64(1)) * _BAND[band]).sum(1, dtype=np.uint64))


def _join(signatures: np.ndarray, rows: np.ndarray, group: np.ndarray, leader: Callable[[np.ndarray], np.ndarray], threshold: float) -> None:
    """Join the groups of all near-duplicates among ``rows``; pairs already in one group are not compared."""
    for n, row in enumerate(rows[:-1]):
        others = rows[n + 1 :]
        leaders = leader(others)
        mine = leader(rows[n : n + 1])[0]
        apart = np.flatnonzero(leaders != mine)
        if not len(apart):
            continue
        close = np.concatenate(
            [
                estimated_jaccard(signatures[others[piece]], signatures[row]) >= threshold
                for piece in np.array_split(apart, ceil(len(apart) / PAIRS_AT_ONCE))
            ]
        )
        joined = np.append(leaders[apart[close]], mine)
        group[joined] = joined.min()

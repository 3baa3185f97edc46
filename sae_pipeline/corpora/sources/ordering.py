"""The order of documents and the dropping of duplicates, shared by every kind of source.

Two orders, both pure functions of the documents and a seed: a full shuffle by hash where all documents are at hand,
and a windowed shuffle where they stream past.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator

import numpy as np

from sae_pipeline.corpora.documents import Document
from sae_pipeline.corpora.numbering import DocumentNumbers


def shuffled_by_hash(documents: Iterable[Document], seed: int) -> list[Document]:
    """The documents sorted by a hash of seed and text: each one's rank depends on nothing but itself and its rivals.

    Adding or removing a document leaves the relative order of all others as it was.
    """
    return sorted(documents, key=lambda document: hashlib.sha256(f"{seed}:{document.hash}".encode()).digest())


def shuffled_in_window(documents: Iterable[Document], seed: int, window: int) -> Iterator[Document]:
    """A streaming shuffle: hold ``window`` documents, hand out a random one, take in the next.

    What comes out first never depends on how far the stream is read later, so a larger token budget extends a
    smaller one.
    """
    generator = np.random.default_rng(seed)
    held: list[Document] = []
    for document in documents:
        if len(held) < window:
            held.append(document)
            continue
        slot = int(generator.integers(window))
        yield held[slot]
        held[slot] = document
    for slot in generator.permutation(len(held)):
        yield held[slot]


def distinct(documents: Iterable[Document], dropped: Counter[str]) -> Iterator[Document]:
    """The documents whose hash has not been seen; the first of several equal ones is kept, the others counted as ``duplicate``.

    What is kept of a document that went by is its slot in a table (:class:`DocumentNumbers`): 18 to 36 bytes, and 54 while the
    table grows. This is all of a source that memory holds beyond its window, and it does grow with the documents read.
    Two texts pass for one with a chance of about n² / 2⁶⁵ among n documents.
    """
    seen = DocumentNumbers()
    for document in documents:
        if seen.add(document.hash):
            yield document
        else:
            dropped["duplicate"] += 1

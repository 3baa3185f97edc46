"""Packing one source into contexts: BOS, then documents one after another, cut wherever a context is full.

The stream of contexts of a source depends on the source, the tokenizer, the split side, the context length and the
seed, and on nothing else: every mix takes a prefix of the same stream, so mixes differ by composition alone. How far
the stream was taken fits in a few numbers, from which another process goes on without tokenising anything twice.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_pipeline.corpora.documents import Document, Side
from sae_pipeline.corpora.numbering import DocumentNumbers
from sae_pipeline.corpora.tokenization import token_ids
from sae_pipeline.store.fingerprints import digest

if TYPE_CHECKING:
    from sae_pipeline.corpora.sources import TextSource
    from sae_pipeline.corpora.tokenization import TextTokenizer

SPECIAL = -1
"""Document and position of a token that belongs to no document (BOS, separator, control token)."""

DOCUMENTS_AT_ONCE = 256
"""Documents per tokenizer call: enough to keep its threads busy, few enough to read little beyond what is used."""

CHARACTERS_AT_ONCE = 2**20
"""Characters after which a call takes no further document, so that books take no more memory than messages."""

Columns = tuple[np.ndarray, np.ndarray, np.ndarray]
"""(tokens, document, position), each int32 and of one length."""


@dataclass(frozen=True)
class Contexts:
    """Packed contexts of one source; each array is int32 ``(n_contexts, context_length)``.

    ``document`` numbers the source's documents as they are first met and ``position`` counts the document's own tokens
    from its start. Both are -1 where the token is special.
    """

    tokens: np.ndarray
    document: np.ndarray
    position: np.ndarray

    def __len__(self) -> int:
        return len(self.tokens)


@dataclass
class Run:
    """The tokens of one document with its separator: which document of which pass, how many, and how many are packed."""

    pass_number: int
    place: int
    length: int
    used: int = 0


class PackedSource:
    """The contexts of one side of the split of one source.

    Args:
        source: the text.
        tokenizer: turns it into ids.
        side: the side of the split, and on the held-out side the window.
        context_length: tokens per context, BOS included; at least 2.
        seed: order of the documents.
        repeat: start again, in another order, when the source runs out. A document met again keeps its number.

    Attributes:
        numbers: the number of each document met so far.
        waiting: numbered documents of which no context has been taken yet.
        passes: passes over the source begun.
        dropped: records left out of the first pass as far as it was read, by reason: the source's own, and as ``empty``
            the documents of this side that gave no token of their own.
    """

    def __init__(self, source: TextSource, tokenizer: TextTokenizer, *, side: Side, context_length: int, seed: int, repeat: bool = False) -> None:
        self.source = source
        self.tokenizer = tokenizer
        self.side = side
        self.context_length = context_length
        self.seed = seed
        self.repeat = repeat
        self.numbers = DocumentNumbers()
        self.waiting: dict[int, Document] = {}
        self.passes = 0
        self._dropped_by_source: Counter[str] = Counter()
        self._without_tokens = 0
        self._examined = 0
        self._next = Run(1, 0, 0)
        self._runs: deque[Run] = deque()
        self._pending: list[Columns] = []
        self._pending_tokens = 0
        self._stream: Iterator[None] | None = None

    @property
    def dropped(self) -> Counter[str]:
        """Records left out of the first pass so far, by reason."""
        return self._dropped_by_source + Counter({"empty": self._without_tokens})

    def state(self) -> dict[str, Any]:
        """How far the stream has been taken, JSON-like; see :meth:`restore`."""
        first = self._runs[0] if self._runs else self._next
        return {
            "pass": first.pass_number,
            "documents": first.place,
            "tokens": first.used,
            "passes": self.passes,
            "examined": self._examined,
            "without_tokens": self._without_tokens,
            "dropped_by_source": dict(self._dropped_by_source),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where another instance with the same arguments was when it gave its :meth:`state`.

        Every document of which it had given a token must have been numbered here first, in the same order. The next
        :meth:`take` reads past the documents already packed, without tokenising them.
        """
        self._next = Run(state["pass"], state["documents"], 0, state["tokens"])
        self.passes, self._examined, self._without_tokens = state["passes"], state["examined"], state["without_tokens"]
        self._dropped_by_source = Counter(state["dropped_by_source"])

    def take(self, n_contexts: int) -> Contexts:
        """The next contexts: ``n_contexts`` of them, or fewer when the text runs out (a part of a context is not given).

        Several small takes give the same contexts as one large take.
        """
        body = self.context_length - 1
        self._stream = self._stream or self._read()
        while self._pending_tokens < n_contexts * body:
            if next(self._stream, False) is not None:  # the text has run out
                break
        complete = min(n_contexts, self._pending_tokens // body)
        flat = [np.concatenate([np.empty(0, np.int32), *(columns[part] for columns in self._pending)]) for part in range(3)]
        used = complete * body
        self._pending = [(flat[0][used:].copy(), flat[1][used:].copy(), flat[2][used:].copy())]
        self._pending_tokens -= used
        self._forget(used)
        opening = (self.tokenizer.bos_id, SPECIAL, SPECIAL)
        packed = [
            np.concatenate([np.full((complete, 1), first, np.int32), column[:used].reshape(complete, body)], axis=1)
            for first, column in zip(opening, flat, strict=True)
        ]
        return Contexts(*packed)

    def _forget(self, tokens: int) -> None:
        """Take packed tokens off the runs that are pending."""
        while tokens:
            left = self._runs[0].length - self._runs[0].used
            if left > tokens:
                self._runs[0].used += tokens
                return
            self._runs.popleft()
            tokens -= left

    def _read(self) -> Iterator[None]:
        """Each step appends a batch of documents to what is pending; passes after the first are in other orders."""
        start = self._next
        while True:
            number = self._next.pass_number
            self.passes = max(self.passes, number)
            # 63 bits, so that every seeded generator takes it
            order = self.seed if number == 1 else int(digest("pass", self.seed, number), 16) % 2**63
            here = (document for document in self.source.documents(order) if self.side.holds(document.hash))
            read = 0
            for batch in _batches(here):
                first, read = read, read + len(batch)
                if number == 1:
                    self._dropped_by_source = Counter(self.source.dropped)
                if number > start.pass_number or read > start.place:
                    skipped = max(0, start.place - first) if number == start.pass_number else 0
                    used = start.used if number == start.pass_number and first <= start.place else 0
                    self._next = Run(number, read, 0)
                    self._append(batch[skipped:], number, first + skipped, used)
                    yield
            if number == 1:
                self._dropped_by_source = Counter(self.source.dropped)
            if read == 0 or not self.repeat or not len(self.numbers):
                return
            self._next = Run(number + 1, 0, 0)

    def _append(self, documents: list[Document], pass_number: int, place: int, used: int) -> None:
        """Tokenise documents and append them to what is pending, without the first ``used`` tokens of the first."""
        separator = [] if self.tokenizer.separator_id is None else [self.tokenizer.separator_id]
        encoded = [[*ids, *separator] for ids in token_ids(self.tokenizer, documents)]
        lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
        tokens = np.fromiter(chain.from_iterable(encoded), np.int32, int(lengths.sum()))
        owner = np.repeat(np.arange(len(encoded)), lengths)
        own = ~np.isin(tokens, [*self.tokenizer.special_ids, *separator])
        own_tokens = np.bincount(owner[own], minlength=len(encoded))
        numbers = np.full(len(encoded), SPECIAL, np.int32)
        for index, document in enumerate(documents):
            if own_tokens[index]:
                known = len(self.numbers)
                numbers[index] = self.numbers.number(document.hash)
                if len(self.numbers) > known:
                    self.waiting[known] = document
                self._runs.append(Run(pass_number, place + index, int(lengths[index])))
            elif pass_number == 1 and place + index >= self._examined:
                self._without_tokens += 1
        if pass_number == 1:
            self._examined = max(self._examined, place + len(documents))
        before = np.concatenate([[0], np.cumsum(own_tokens)[:-1]])
        position = np.where(own, np.cumsum(own) - 1 - before[owner], SPECIAL).astype(np.int32)
        kept = own_tokens[owner] > 0
        columns = tokens[kept], np.where(own, numbers[owner], SPECIAL)[kept], position[kept]
        if used:
            self._runs[0].used = used
        self._pending.append((columns[0][used:], columns[1][used:], columns[2][used:]))
        self._pending_tokens += len(columns[0]) - used


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    """Documents for one tokenizer call each; where a batch ends depends on the stream alone."""
    batch: list[Document] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document.text)
        if len(batch) == DOCUMENTS_AT_ONCE or characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch

"""Mixes of sources by token shares, written as a corpus artifact.

Contexts hold text of one source each, so a mix is an order of sources over contexts. Three properties carry the
comparisons built on top: every prefix of a corpus has the asked shares to within one context; the contexts of a
source are a prefix of the same stream in every mix; a larger budget extends a smaller one.

A corpus is built in blocks of contexts. Between two blocks nothing is held of the text but some 120 bytes for each
document read (its slots in the tables of the source and of the numbering, its row, its count): 1.2 GB for ten million,
which is what still grows with the budget. A build that was stopped goes on from its last finished block to the same bytes.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from sae_pipeline.corpora.documents import Document, Side
from sae_pipeline.corpora.order import SourceOrder, source_order
from sae_pipeline.corpora.packing import SPECIAL, PackedSource
from sae_pipeline.corpora.sources import changed
from sae_pipeline.corpora.writing import DOCUMENTS_FILE, TEXT_COLUMNS, TOKENS_FILE, CorpusFiles, Tensors
from sae_pipeline.errors import SourceError
from sae_pipeline.progress import track
from sae_pipeline.store.fingerprints import digest

if TYPE_CHECKING:
    import pyarrow as pa

    from sae_pipeline.corpora.sources import TextSource
    from sae_pipeline.corpora.tokenization import TextTokenizer

BLOCK_TOKENS = 2**20
"""Tokens packed between two records of progress: seconds of work, and a few tens of megabytes of memory."""

PACKING_VERSION = 1
"""Raised whenever the same text gives other contexts: what an earlier version left unfinished is then not built upon."""


def build_corpus(
    folder: Path,
    *,
    sources: Mapping[str, TextSource],
    shares: Mapping[str, float],
    tokens: int,
    context_length: int,
    tokenizer: TextTokenizer,
    seed: int,
    side: Side,
    repeat: bool,
) -> dict[str, Any]:
    """Pack a mix and write ``tokens.safetensors`` and ``documents.parquet`` into ``folder``.

    ``tokens.safetensors``: ``tokens``, ``document``, ``position`` int32 ``(n_contexts, context_length)`` and ``source``
    uint8 ``(n_contexts,)``. ``document`` is the row in ``documents.parquet`` and ``position`` the token's place among the
    document's own tokens, both -1 for BOS, separators and control tokens. ``documents.parquet``: ``document_hash``,
    ``source``, ``key``, ``tokens`` (of it in this corpus), ``text``; in the order in which documents first appear.

    Besides these a small journal stays in the folder. A second call with the same arguments goes on from it, however the
    first one ended, and gives the same bytes as a call that was never interrupted.

    Args:
        folder: an existing folder for this corpus alone; whatever a build with other arguments left there is removed.
        sources: text by source name; a source that is not in ``shares`` or has share 0 is never read.
        shares: token shares by source name.
        tokens: budget, BOS and separators included; rounded up to whole contexts.
        context_length: tokens per context.
        tokenizer: the subject's.
        seed: order of each source's documents.
        side: side of the train / held-out split, and on the held-out side the window.
        repeat: pass over a source again when it runs out.

    Returns:
        The summary, JSON-like: sizes, token shares as asked and as found, documents by source, records left out of each
        source by reason (``dropped``), documents whose text another source of the mix also holds (``duplicates_across_sources``).

    Raises:
        SourceError: a source cannot be read, changes while it is read, or runs out and ``repeat`` is False.
    """
    n_contexts = -(-tokens // context_length)
    block_contexts = max(1, BLOCK_TOKENS // context_length)
    mix = Mix(sources, shares, tokenizer, side=side, context_length=context_length, seed=seed, repeat=repeat)
    versions = {name: sources[name].data_version() for name in mix.names}
    recipe = digest(
        PACKING_VERSION, {name: (float(shares[name]), versions[name]) for name in mix.names}, n_contexts, context_length,
        block_contexts, tokenizer.hash, seed, [side.held_out, side.share, side.windows, side.window], repeat,
    )  # fmt: skip
    files = CorpusFiles(folder, recipe, n_contexts=n_contexts, context_length=context_length, block_contexts=block_contexts)
    if (summary := files.finished()) is not None:
        return summary
    if (state := files.unfinished()) is None:
        files.begin()
    else:
        for block in range(files.blocks):
            mix.replay(*files.block(block))
        mix.restore(state)
    done = min(files.blocks * block_contexts, n_contexts) * context_length
    with track(f"packing {' + '.join(mix.names)}", n_contexts * context_length, "tokens", done=done) as progress:
        while files.blocks * block_contexts < n_contexts:
            count = files.bounds(files.blocks)[1]
            tensors, documents = mix.take(count, n_contexts)
            for name, version in versions.items():
                if sources[name].data_version() != version:  # a block that counts as finished is always of one version
                    raise SourceError(changed(f"source {name}"))
            files.append(tensors, documents, mix.state())
            progress.advance(count * context_length)
    tokens_of_document = np.array(mix.tokens_of_document, np.int64)
    return files.finish(
        tokens_of_document,
        {
            "sources": mix.names,
            "shares": {name: float(shares[name]) for name in mix.names},
            "n_contexts": n_contexts,
            "context_length": context_length,
            "tokens": n_contexts * context_length,
            "special_tokens": n_contexts * context_length - int(tokens_of_document.sum()),
            "tokens_by_source": {name: given * context_length for name, given in zip(mix.names, mix.order.given, strict=True)},
            "documents": len(tokens_of_document),
            "documents_by_source": {name: len(rows) - 1 for name, rows in zip(mix.names, mix.rows, strict=True)},
            "dropped": {name: dict(sorted(source.dropped.items())) for name, source in zip(mix.names, mix.packed, strict=True)},
            "passes": {name: source.passes for name, source in zip(mix.names, mix.packed, strict=True)},
            "held_out": side.held_out,
            "tokenizer": tokenizer.hash,
            "bos_id": tokenizer.bos_id,
            "separator_id": tokenizer.separator_id,
            "vocab_size": tokenizer.vocab_size,
        },
    )


def content_hash(folder: Path) -> str:
    """Hash of what a corpus holds: all tensors, and the hash and source name of every document.

    Source names count because every table downstream reports by them. Keys (file names, line numbers), the asked
    shares and anything else of the recipe do not: equal text in equal order is equal content. Read piece by piece.
    """
    import pyarrow.parquet as pq
    from safetensors import safe_open

    hasher = hashlib.sha256()
    with safe_open(folder / TOKENS_FILE, framework="numpy") as file:
        for name in sorted(file.keys()):
            tensor = file.get_slice(name)
            shape = tuple(tensor.get_shape())
            rows = max(1, BLOCK_TOKENS // math.prod(shape[1:]))
            hasher.update(f"{name} {tensor[:1].dtype} {shape}\n".encode())
            for first in range(0, shape[0], rows):
                hasher.update(np.ascontiguousarray(tensor[first : min(first + rows, shape[0])]).data)
    with pq.ParquetFile(folder / DOCUMENTS_FILE) as table:
        for batch in table.iter_batches(columns=["document_hash", "source"]):
            for document, source in zip(batch["document_hash"].to_pylist(), batch["source"].to_pylist(), strict=True):
                hasher.update(f"{document} {source}\n".encode())
    return hasher.hexdigest()[:24]


class Mix:
    """The contexts of several sources in mix order, with documents numbered by first appearance.

    Attributes:
        names: the sources with a positive share, sorted.
        order: which source the next contexts come from.
        packed: the stream of each source.
        rows: for each source, the row of each of its documents in the corpus, after a first entry of -1.
        tokens_of_document: tokens of each document in the contexts taken so far.
    """

    def __init__(
        self,
        sources: Mapping[str, TextSource],
        shares: Mapping[str, float],
        tokenizer: TextTokenizer,
        *,
        side: Side,
        context_length: int,
        seed: int,
        repeat: bool,
    ) -> None:
        self.shares = shares
        self.order = SourceOrder(shares)
        self.names = self.order.names
        self.packed = [
            PackedSource(sources[name], tokenizer, side=side, context_length=context_length, seed=seed, repeat=repeat) for name in self.names
        ]
        # the first entry stands for tokens of no document, whose number is -1 here and there
        self.rows = [array("i", [SPECIAL]) for _ in self.names]
        self.tokens_of_document = array("q")

    def state(self) -> dict[str, Any]:
        """Where the order and each source's stream are, JSON-like."""
        return {"given": self.order.given, "sources": [source.state() for source in self.packed]}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state, after every block before it was replayed."""
        self.order.given = list(state["given"])
        for source, each in zip(self.packed, state["sources"], strict=True):
            source.restore(each)

    def replay(self, tensors: Tensors, documents: pa.Table) -> None:
        """Take note of a finished block as if it had been taken here."""
        index_of = {name: index for index, name in enumerate(self.names)}
        for name, document_hash in zip(documents["source"].to_pylist(), documents["document_hash"].to_pylist(), strict=True):
            self.rows[index_of[name]].append(len(self.tokens_of_document))
            self.packed[index_of[name]].numbers.number(document_hash)
            self.tokens_of_document.append(0)
        self._count(tensors["document"])

    def take(self, count: int, budget: int) -> tuple[Tensors, pa.Table]:
        """The next ``count`` contexts and the documents that first appear in them.

        Raises:
            SourceError: a source runs out; the message compares with the whole ``budget``, in contexts.
        """
        before = list(self.order.given)
        order = self.order.take(count)
        length = self.packed[0].context_length
        tensors: Tensors = {name: np.empty((count, length), np.int32) for name in ("tokens", "document", "position")} | {"source": order}
        numbers = []
        appearing: list[tuple[int, int, int]] = []
        for index, source in enumerate(self.packed):
            here = np.flatnonzero(order == index)
            contexts = source.take(len(here))
            if len(contexts) < len(here):
                raise self._exhausted(index, before[index] + len(contexts), budget)
            tensors["tokens"][here], tensors["position"][here] = contexts.tokens, contexts.position
            numbers.append((here, contexts.document))
            runs, begins, _ = _runs(contexts.document)
            found, place = np.unique(runs, return_index=True)
            for number, first in zip(found.tolist(), begins[place].tolist(), strict=True):
                if number + 1 >= len(self.rows[index]):
                    appearing.append((int(here[first // length]) * length + first % length, index, number))
        columns: dict[str, list[str]] = {name: [] for name in TEXT_COLUMNS}
        for _, index, number in sorted(appearing):
            self.rows[index].append(len(self.tokens_of_document))
            self.tokens_of_document.append(0)
            document: Document = self.packed[index].waiting.pop(number)
            for name, value in zip(TEXT_COLUMNS, (document.hash, self.names[index], document.key, document.text), strict=True):
                columns[name].append(value)
        for (here, document_numbers), rows in zip(numbers, self.rows, strict=True):
            tensors["document"][here] = np.frombuffer(rows, np.int32)[document_numbers + 1]
        self._count(tensors["document"])
        return tensors, _table(columns)

    def _count(self, document: np.ndarray) -> None:
        runs, _, lengths = _runs(document)
        own = runs != SPECIAL
        if own.any():
            np.add.at(np.frombuffer(self.tokens_of_document, np.int64), runs[own], lengths[own])

    def _exhausted(self, index: int, found: int, budget: int) -> SourceError:
        source, name = self.packed[index], self.names[index]
        wanted = int((source_order(self.shares, budget)[1] == index).sum())
        if source.repeat:
            remedy = "not one whole pass gives a document for this side; add text to it"
        else:
            held_out = "raise corpus.held_out_share, " if source.side.held_out else ""
            remedy = f"add text, lower the tokens or this source's share, {held_out}or set corpus.repeat: true"
        return SourceError(
            f"source {name}: expected {wanted * source.context_length:,} tokens for the {'held-out' if source.side.held_out else 'training'} side, "
            f"found {found * source.context_length:,}; {remedy}"
        )


def _runs(document: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, place, length) of each run of equal values: far fewer than tokens, so cheap to sort."""
    flat = document.reshape(-1)
    begins = np.flatnonzero(np.diff(flat, prepend=SPECIAL - 1))
    return flat[begins], begins, np.diff(begins, append=len(flat))


def _table(columns: Mapping[str, list[str]]) -> pa.Table:
    import pyarrow as pa

    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})

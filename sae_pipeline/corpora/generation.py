"""Self-generated text: what the subject model writes from BOS alone (FaithfulSAE, Cho et al. 2025).

Documents are sampled in numbered batches, each a pure function of the seed and its number. Finished batches are kept in
part files with a journal, so that a killed run goes on where it stopped and ends with the same documents; the parts are
then merged into one table.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sae_pipeline.activations.identity import subject_identity
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.divergence import divergence
from sae_pipeline.corpora.documents import document_hash, encodable
from sae_pipeline.corpora.sampling import Sample, Sampler
from sae_pipeline.errors import SubjectError
from sae_pipeline.progress import track
from sae_pipeline.store import digest, file_sha256, storage_errors, write_json

if TYPE_CHECKING:
    from sae_pipeline.corpora.tokenization import TextTokenizer

DOCUMENTS_FILE = "documents.parquet"
JOURNAL = ".progress.json"
PART = ".part-{:05d}.parquet"

PART_SECONDS = 30.0
"""Sampling time between two part files: what a kill costs at most, plus one batch."""

PART_TOKENS = 1_000_000
"""Or this many tokens, which bounds memory on a fast device."""

PATIENCE = 1_000
"""Samples without any token after which a model is taken to have nothing to say."""

GROUP = 4_096
"""Documents per row group of the table."""

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)

PART_SCHEMA = pa.schema([("drawn", pa.list_(pa.int32())), ("ended", pa.bool_()), ("nll", pa.float64())])
DOCUMENTS_SCHEMA = pa.schema([("text", pa.string()), ("key", pa.string()), ("ids", pa.list_(pa.int32()))])


def generate(
    folder: Path,
    *,
    location: str,
    revision: str | None,
    tokenizer: TextTokenizer,
    device: str,
    dtype: str,
    tokens: int,
    context_length: int,
    temperature: float,
    top_p: float,
    batch_size: int,
    seed: int,
    randomised: int | None = None,
    trust_remote_code: bool = False,
    pickled_weights: bool = False,
) -> dict[str, Any]:
    """Sample documents and write ``documents.parquet``: ``text``, ``key`` ("sample 17"), ``ids`` (list of int32).

    ``ids`` are the tokens drawn, without BOS and without the end token. They are the document: its text is what the
    tokenizer makes of them, and need not give the same ids back. A larger budget extends a smaller one.

    Args:
        folder: an existing folder; may hold what an earlier, killed call left.
        location: checkpoint folder or hub id of the subject; ``revision`` its commit.
        tokenizer: the subject's.
        device, dtype: of the forward passes.
        tokens: stop with the document that reaches this many tokens.
        context_length: tokens of the longest document, with BOS.
        temperature, top_p: see :class:`Sampler`; 1 and 1 sample the model's own distribution.
        batch_size: documents sampled side by side. Which documents are drawn depends on it.
        seed: draws the tokens.
        randomised: seed of randomised weights; None are the checkpoint's own.
        trust_remote_code, pickled_weights: as for :meth:`SubjectModel.load`.

    Returns:
        The summary, JSON-like: ``tokens``, ``documents``, ``samples`` (with those that ended at once, which are no
        documents: ``empty_samples``), ``tokens_per_second``, ``length`` (mean and quantiles of the samples, tokens),
        ``ended_share`` (by an end token), ``distinct_share`` and ``duplicates`` (documents of equal text),
        ``round_trip_share`` (documents whose text encodes to their ids), ``mean_nll`` (nats per token drawn, end tokens
        included, under the distribution they were drawn from) and ``first_token`` (:func:`divergence` from the model's
        own distribution after BOS).

    Raises:
        SubjectError: the model cannot be loaded, is no causal language model, has too few positions, or writes nothing.
    """
    subject = SubjectModel.load(
        location, revision, dtype, device, randomised=randomised, trust_remote_code=trust_remote_code, pickled_weights=pickled_weights
    )
    if not subject.causal:
        raise SubjectError(f"{subject.name}: expected a causal language model to write text, found an encoder; remove the self_generated sources")
    subject.check_context(context_length)
    ends = _end_ids(subject, tokenizer)
    sampler = Sampler(
        subject,
        bos_id=tokenizer.bos_id,
        end_ids=ends,
        vocab_size=tokenizer.vocab_size,
        length=context_length - 1,
        temperature=temperature,
        top_p=top_p,
    )
    recipe = digest(
        subject_identity(location, revision), randomised, tokenizer.hash, sorted(ends), dtype, context_length, temperature, top_p, batch_size, seed
    )
    parts = Parts.resume(folder, recipe)
    label = f"sampling from {Path(location).name}"
    with track(label, tokens, "tokens", done=min(parts.tokens, tokens)) as progress, storage_errors(folder):
        while parts.tokens < tokens:
            held: list[Sample] = []
            batches, drawn, started = 0, 0, time.monotonic()
            while parts.tokens + drawn < tokens and drawn < PART_TOKENS and (not batches or time.monotonic() - started < PART_SECONDS):
                batch = sampler.batch(batch_size, seed, parts.batches + batches)
                held += batch
                batches += 1
                new = sum(len(sample.ids) for sample in batch)
                drawn += new
                progress.advance(min(new, max(0, tokens - progress.done)))
                if not (parts.tokens + drawn) and parts.samples + len(held) >= PATIENCE:
                    raise SubjectError(
                        f"{subject.name}: expected text after BOS, found {parts.samples + len(held):,} samples that ended at once; "
                        "use another checkpoint, or other text than self_generated"
                    )
            parts.write(held, batches, time.monotonic() - started)
        figures = _merged(parts, tokenizer, tokens)
    first_counts = figures.first_counts(tokenizer.vocab_size)
    summary = {
        **figures.summary(),
        "tokens_per_second": round(parts.tokens / max(parts.seconds, 1e-9)),
        "first_token": divergence(first_counts, _padded(sampler.first_token_distribution(), len(first_counts)), seed),
    }
    parts.remove()
    return summary


@dataclass
class Parts:
    """Finished batches on disk, in order: part files, and a journal with their checksums and sizes."""

    folder: Path
    recipe: str
    records: list[dict[str, Any]] = field(default_factory=list)

    @classmethod
    def resume(cls, folder: Path, recipe: str) -> Parts:
        """What an earlier process finished by the same recipe, up to the first file that is not intact; the rest is removed."""
        records: list[dict[str, Any]] = []
        try:
            journal = json.loads((folder / JOURNAL).read_text())
            records = journal["parts"] if journal["recipe"] == recipe else []
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no journal, or one cut short: nothing counts as finished
        parts = cls(folder, recipe)
        for number, record in enumerate(records):
            path = folder / PART.format(number)
            if not path.is_file() or file_sha256(path) != record["sha256"]:
                break
            parts.records.append(record)
        kept = {JOURNAL, *(PART.format(number) for number in range(len(parts.records)))}
        for path in folder.iterdir():
            if path.name not in kept:
                path.unlink()
        return parts

    @property
    def batches(self) -> int:
        """Number of finished batches."""
        return sum(record["batches"] for record in self.records)

    @property
    def samples(self) -> int:
        """Number of finished samples."""
        return sum(record["samples"] for record in self.records)

    @property
    def tokens(self) -> int:
        """Tokens of the finished samples."""
        return sum(record["tokens"] for record in self.records)

    @property
    def seconds(self) -> float:
        """Time spent sampling them, over all processes."""
        return sum(record["seconds"] for record in self.records)

    def write(self, samples: list[Sample], batches: int, seconds: float) -> None:
        """Add the next part, then its record."""
        path = self.folder / PART.format(len(self.records))
        columns = zip(*samples, strict=True)
        table = pa.table([pa.array(column, kind.type) for column, kind in zip(columns, PART_SCHEMA, strict=True)], schema=PART_SCHEMA)
        pq.write_table(table, path)
        written = sum(len(sample.ids) for sample in samples)
        record = {"sha256": file_sha256(path), "batches": batches, "samples": len(samples), "tokens": written, "seconds": round(seconds, 3)}
        self.records.append(record)
        write_json(self.folder / JOURNAL, {"recipe": self.recipe, "parts": self.records})

    def read(self) -> Iterator[list[Sample]]:
        """All samples, part by part."""
        for number in range(len(self.records)):
            rows = pq.read_table(self.folder / PART.format(number)).to_pydict()
            yield [Sample(*row) for row in zip(*(rows[name] for name in Sample._fields), strict=True)]

    def remove(self) -> None:
        """Delete the files, last part first: what a kill leaves behind is a shorter journal, which a resume completes."""
        for number in reversed(range(len(self.records))):
            (self.folder / PART.format(number)).unlink()
        (self.folder / JOURNAL).unlink()


@dataclass
class _Figures:
    """What the summary says about the samples, gathered in one pass."""

    lengths: list[int] = field(default_factory=list)
    first: list[int] = field(default_factory=list)
    ended: int = 0
    nll: list[float] = field(default_factory=list)
    round_trips: int = 0
    hashes: set[bytes] = field(default_factory=set)

    def add(self, samples: list[Sample]) -> None:
        self.lengths += [len(sample.ids) for sample in samples]
        self.first += [sample.drawn[0] for sample in samples]
        self.ended += sum(sample.ended for sample in samples)
        self.nll += [sample.nll for sample in samples]

    def first_counts(self, vocab_size: int) -> np.ndarray:
        return np.bincount(self.first, minlength=vocab_size)

    def summary(self) -> dict[str, Any]:
        lengths = np.array(self.lengths)
        documents = int((lengths > 0).sum())
        return {
            "tokens": int(lengths.sum()),
            "documents": documents,
            "samples": len(lengths),
            "empty_samples": len(lengths) - documents,
            "length": {
                "mean": float(lengths.mean()),
                **{f"q{100 * q:02.0f}": float(value) for q, value in zip(QUANTILES, np.quantile(lengths, QUANTILES), strict=True)},
                "max": int(lengths.max()),
            },
            "ended_share": self.ended / len(lengths),
            "distinct_share": len(self.hashes) / documents,
            "duplicates": documents - len(self.hashes),
            "round_trip_share": self.round_trips / documents,
            "mean_nll": math.fsum(self.nll) / (int(lengths.sum()) + self.ended),
        }


def _merged(parts: Parts, tokenizer: TextTokenizer, tokens: int) -> _Figures:
    """Write ``documents.parquet`` from the parts, up to the document that reaches the budget."""
    path = parts.folder / DOCUMENTS_FILE
    temporary = path.with_name(f".{path.name}")
    figures, number = _Figures(), 0
    with pq.ParquetWriter(temporary, DOCUMENTS_SCHEMA, compression="zstd") as writer:
        # groups of a fixed size: where parts were cut depends on the clock, and the file must not
        for samples in _grouped(_within_budget(parts, tokens), GROUP):
            figures.add(samples)
            written = [(place, sample.ids) for place, sample in enumerate(samples, number) if sample.ids]
            number += len(samples)
            ids = [each for _, each in written]
            texts = [encodable(text) for text in tokenizer.decode(ids)]
            figures.round_trips += sum(again == each for again, each in zip(tokenizer.encode(texts), ids, strict=True))
            figures.hashes |= {bytes.fromhex(document_hash(text)) for text in texts}
            columns = {"text": texts, "key": [f"sample {place}" for place, _ in written], "ids": ids}
            writer.write_table(pa.table(columns, schema=DOCUMENTS_SCHEMA))
    os.replace(temporary, path)
    return figures


def _within_budget(parts: Parts, tokens: int) -> Iterator[Sample]:
    for samples in parts.read():
        for sample in samples:
            if tokens <= 0:
                return
            yield sample
            tokens -= len(sample.ids)


def _grouped(samples: Iterator[Sample], size: int) -> Iterator[list[Sample]]:
    while group := list(islice(samples, size)):
        yield group


def _end_ids(subject: SubjectModel, tokenizer: TextTokenizer) -> set[int]:
    """Tokens that end a document: the tokenizer's, and those that the checkpoint's generation settings name (chat models have several)."""
    settings = getattr(subject.bridge.original_model, "generation_config", None)
    named = getattr(settings, "eos_token_id", None)
    listed = named if isinstance(named, (list, tuple)) else [named]
    return {int(each) for each in (*listed, tokenizer.separator_id) if each is not None}


def _padded(probability: np.ndarray, size: int) -> np.ndarray:
    """The distribution over ``size`` ids; a tokenizer may know more ids than its model, which have probability 0."""
    return np.pad(probability, (0, size - len(probability)))

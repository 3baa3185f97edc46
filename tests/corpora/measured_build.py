"""A build from a file and from stored documents, its hashing and its reading in a process of their own, which reports the memory each needed.

Run as ``python measured_build.py FOLDER TOKENS``; prints one JSON object: peak anonymous memory (bytes) of the build
with its content hash and of reading, which is what a process holds besides mapped files.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from types import TracebackType

import pyarrow as pa
import pyarrow.parquet as pq
from toy_mixes import LetterTokenizer

from sae_pipeline.corpora import mixing
from sae_pipeline.corpora.documents import Side
from sae_pipeline.corpora.sources.local_files import LocalFiles
from sae_pipeline.corpora.sources.records import RecordReader
from sae_pipeline.corpora.sources.stored import StoredDocuments
from sae_pipeline.store import Draft, Store
from sae_pipeline.study.text_sections import Files

mixing.BLOCK_TOKENS = 2**17
"""A quarter of a million tokens must be many blocks, as a billion tokens are with the usual size."""


def texts(tokens: int) -> Iterator[str]:
    """Distinct short documents of some 320 tokens each, enough for a budget of either source."""
    for number in range(tokens // 300):
        yield f"{number} " + "words and more " * (number % 41)


def lines_of(folder: Path, tokens: int) -> LocalFiles:
    """The documents as a file of lines."""
    with (folder / "lines.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": text}) + "\n" for text in texts(tokens))
    source = Files(kind="files", paths=(str(folder / "lines.jsonl"),), shuffle_buffer=500)
    return LocalFiles(source, RecordReader(source, None))


def stored_of(folder: Path, tokens: int) -> StoredDocuments:
    """The documents as an earlier stage would have stored them."""
    schema = pa.schema([("text", pa.string()), ("key", pa.string())])
    with pq.ParquetWriter(folder / "documents.parquet", schema) as file:
        for held in batched(texts(tokens), 500):
            file.write_table(pa.table({"text": held, "key": held}, schema))
    return StoredDocuments(folder / "documents.parquet", "stored")


def batched(items: Iterator[str], size: int) -> Iterator[list[str]]:
    while held := list(islice(items, size)):
        yield held


class Bytes(LetterTokenizer):
    """Ids of bytes without an offset, at the speed of a copy."""

    def encode(self, texts: list[str], *, control_tokens: bool = False) -> list[list[int]]:
        return [list(text.encode()) for text in texts]


class Peak:
    """The most anonymous memory of this process while the block runs, in bytes, looked at every five milliseconds."""

    def __enter__(self) -> Peak:
        self.bytes = 0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look, daemon=True)
        self._watch.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._ended.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._ended.wait(0.005):
            found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
            assert found
            self.bytes = max(self.bytes, int(found[1]) * 1024)


def main(folder: str, tokens: int) -> None:
    sources = {"a": lines_of(Path(folder), tokens), "b": stored_of(Path(folder), tokens)}
    with Store(Path(folder) / "store").draft("corpus", "f" * 24, {}, resumable=True) as draft:
        assert isinstance(draft, Draft)
        with Peak() as building:
            summary = mixing.build_corpus(
                draft.path, sources=sources, shares={"a": 0.5, "b": 0.5}, tokens=tokens, context_length=64,
                tokenizer=Bytes(), seed=0, side=Side(False, 0.1), repeat=False,
            )  # fmt: skip
            content = mixing.content_hash(draft.path)
        artifact = draft.publish(summary, content=content)
    from sae_pipeline.corpora.corpus import Corpus  # loads torch, beside which a build would look small

    with Peak() as reading:
        corpus = Corpus.load(artifact)
        total = sum(int(corpus.tokens[first : first + 64].sum()) for first in range(0, corpus.n_contexts, 64))
        characters = sum(map(len, corpus.texts()))
    assert total
    assert characters
    print(json.dumps({"building": building.bytes, "reading": reading.bytes}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))

"""This project's harvest and its shuffled stream, called as the pipeline calls them.

The stream is read from a cache of its own, of the embeddings, which cost next to no computing: it can then be as long
as a real one without a forward pass of an hour.
"""

from __future__ import annotations

import math
import os
import shutil
import time
from collections import deque
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from protocol import Actions, serve

from sae_pipeline.activations.harvest import harvest
from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.activations.stream import ActivationStream
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus

STORED = {"float32": "float32", "bfloat16": "bfloat16"}
"""Storage dtype of each computing precision."""
STREAM_BATCH = 16
"""Contexts per block of the cache that the stream is read from."""


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """The subject in the set-up's precision, and the text as a corpus."""
    torch.set_num_threads(setup["threads"])
    model = SubjectModel.load(setup["checkpoint"], dtype=setup["precision"])
    tokens = torch.from_numpy(np.load(setup["tokens"])).int()
    scratch = Path(setup["scratch"])
    hooks = {scratch / f"layer-{layer}": model.hook_name("resid_post", layer) for layer in setup["layers"]}
    text = corpus(tokens[: setup["contexts"]])

    def run(check: bool = False) -> dict[str, Any]:
        for folder in hooks:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
        started = time.perf_counter()
        harvest(
            model, text, hooks, batch_size=setup["batch_size"], storage_dtype=STORED[setup["precision"]], shard_tokens=setup["shard_tokens"]
        )  # fmt: skip
        found: dict[str, Any] = {"seconds": time.perf_counter() - started, "tokens": text.tokens.numel()}
        found["bytes"] = sum(path.stat().st_size for folder in hooks for path in folder.glob("shard-*")) / len(hooks)
        if check:
            rows = [ActivationShards(sorted(folder.glob("shard-*"))).read(0, text.tokens.numel()) for folder in hooks]
            found["mean_activation"] = [x.double().mean(0).tolist() for x in rows]
        return found

    stream_folder = scratch / "stream"

    def fill_cache(rows: int) -> dict[str, Any]:
        """Write a cache of at least ``rows`` tokens with the harvest itself: the text again and again, hooked before block 0."""
        shutil.rmtree(stream_folder, ignore_errors=True)
        stream_folder.mkdir(parents=True)
        long = corpus(tokens.repeat(math.ceil(rows / tokens.numel()), 1)[: math.ceil(rows / tokens.shape[1])])
        started = time.perf_counter()
        harvest(
            model, long, {stream_folder: model.hook_name("resid_pre", 0)}, batch_size=STREAM_BATCH, storage_dtype="bfloat16", shard_tokens=setup["shard_tokens"]
        )  # fmt: skip
        size = sum(path.stat().st_size for path in stream_folder.glob("shard-*"))
        return {"seconds": time.perf_counter() - started, "tokens": long.tokens.numel(), "bytes": size}

    def sequential(cold: bool) -> dict[str, Any]:
        """Every file from its first byte to its last, into one buffer that is used again."""
        paths = sorted(stream_folder.glob("shard-*"))
        buffer, read = memoryview(bytearray(8 << 20)), 0
        buffer[:] = bytes(len(buffer))
        if cold:
            _forget(paths)
        started = time.perf_counter()
        for path in paths:
            with path.open("rb", buffering=0) as file:
                while count := file.readinto(buffer):
                    read += count
        return {"seconds": time.perf_counter() - started, "bytes": read}

    def sequential_rows(cold: bool) -> dict[str, Any]:
        """The same files as a table in its own order: the activations alone, widened to float32."""
        paths = sorted(stream_folder.glob("shard-*"))
        if cold:
            _forget(paths)
        started = time.perf_counter()
        shards = ActivationShards(paths)
        deque(shards.chunks(4096), maxlen=0)
        return {"seconds": time.perf_counter() - started, "tokens": shards.rows}

    readers: list[ActivationStream] = []

    def stream(cold: bool, epoch: int, size: int, shuffle_tokens: int) -> dict[str, Any]:
        """One epoch of the stream in whole batches of ``size``, as the trainer asks for them.

        All epochs are read by one stream: its windows are memory that a training run asks for once.
        """
        paths = sorted(stream_folder.glob("shard-*"))
        if not readers:
            readers.append(ActivationStream(ActivationShards(paths, STREAM_BATCH), 0, shuffle_tokens))
        reader = readers[0]
        count = reader.order.per_epoch // size
        if cold:
            _forget(paths)
        started = time.perf_counter()
        with closing(reader.batches(epoch * reader.order.per_epoch, size, count)) as batches:
            deque(batches, maxlen=0)
        return {"seconds": time.perf_counter() - started, "tokens": count * size}

    return {"versions": {"torch": torch.__version__}, "stores": "bfloat16 or float32 shards on disk with the document of every row"}, {
        "harvest": run, "fill_cache": fill_cache, "sequential": sequential, "sequential_rows": sequential_rows, "stream": stream,
    }  # fmt: skip


def corpus(tokens: torch.Tensor) -> Corpus:
    """The ids as a corpus in which every context is one document behind its BOS."""
    contexts, length = tokens.shape
    position = (torch.arange(length, dtype=torch.int32) - 1).repeat(contexts, 1)
    document = torch.arange(contexts, dtype=torch.int32)[:, None].repeat(1, length)
    document[:, 0] = -1
    documents = pd.DataFrame({"document_hash": [str(n) for n in range(contexts)]})
    return Corpus(tokens, document, position, torch.zeros(contexts, dtype=torch.uint8), documents, {})


def _forget(paths: list[Path]) -> None:
    """Ask the kernel to drop these files from its page cache (they are synced already)."""
    for path in paths:
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


if __name__ == "__main__":
    serve(load)

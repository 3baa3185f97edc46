"""dictionary_learning's ``ActivationBuffer``, with nnsight, over the same token ids.

It keeps activations of one submodule in memory and hands them out shuffled, once each, filling up whenever less than
half is left; nothing reaches the disk. It takes text, so each id is written as a word that its tokenizer maps back.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import cycle
from typing import Any

import numpy as np
import torch
from dictionary_learning import ActivationBuffer
from nnsight import LanguageModel
from protocol import Actions, serve


class Text:
    """The contexts as text, over and over, and how many were taken so far."""

    def __init__(self, contexts: list[str]) -> None:
        self._contexts = cycle(contexts)
        self.taken = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.taken += 1
        return next(self._contexts)


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """One buffer per layer on one model, each twice as large as the text of one round."""
    torch.set_num_threads(setup["threads"])
    torch.manual_seed(0)  # the buffer shuffles with the global generator
    ids = np.load(setup["tokens"])[: setup["contexts"]]
    model = LanguageModel(setup["checkpoint"], device_map="cpu", dispatch=True, torch_dtype=getattr(torch, setup["precision"]))
    words = np.array(model.tokenizer.convert_ids_to_tokens(list(range(int(ids.max()) + 1))))
    contexts = [" ".join(row) for row in words[ids]]
    if not np.array_equal(model.tokenizer(contexts)["input_ids"], ids):
        raise ValueError("expected the words to be read as the ids that they were written from, found others")
    length, batch_size = ids.shape[1], setup["batch_size"]
    texts = [Text(contexts) for _ in setup["layers"]]
    buffers = [
        ActivationBuffer(
            text, model, model.transformer.h[layer], d_submodule=setup["d_model"], n_ctxs=2 * len(ids), ctx_len=length,
            # batches handed out are as large as those computed, so that a round is a whole number of both
            refresh_batch_size=batch_size, out_batch_size=batch_size * length, device="cpu",
        )
        for text, layer in zip(texts, setup["layers"], strict=True)
    ]  # fmt: skip
    # A buffer is filled again by the batch after the one that leaves less than half of it.
    period = len(ids) // batch_size + 1

    def run(check: bool = False) -> dict[str, Any]:
        seconds, means = 0.0, []
        for buffer, text in zip(buffers, texts, strict=True):
            before = text.taken
            started = time.perf_counter()
            served = sum(len(next(buffer)) for _ in range(period))
            seconds += time.perf_counter() - started
            first = before == 0
            computed = (text.taken - before) * length
            if computed != (2 * len(ids) * length if first else served):
                raise ValueError(f"expected a round to compute as many activations as it hands out, {served}, found {computed}")
            if check:
                means.append(buffer.activations.double().mean(0).tolist())
        found: dict[str, Any] = {"seconds": seconds, "tokens": period * batch_size * length}
        return found | ({"mean_activation": means} if check else {})

    versions = {name: version(name) for name in ("dictionary_learning", "nnsight", "transformers", "torch")}
    return {"versions": versions, "stores": f"{setup['precision']} in memory, shuffled over {2 * ids.size:,} tokens; no disk"}, {"harvest": run}


if __name__ == "__main__":
    serve(load)

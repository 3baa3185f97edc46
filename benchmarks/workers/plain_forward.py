"""The limit of harvesting: the model's forward pass in plain transformers, and the machine's rates beside it.

``forward`` runs what no harvest can do without, which is the blocks up to the last hooked one, and keeps nothing.
``whole_forward`` is the same model with all blocks and logits. Attention runs in the faster of the implementations that
transformers has everywhere: its default is not the faster one on every processor and in every precision.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from protocol import Actions, serve
from transformers import GPT2LMHeadModel
from transformers import __version__ as transformers_version
from yardsticks import fastest, yardsticks


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """The checkpoint in the set-up's precision, once whole and once cut behind the last hooked block (shared weights)."""
    torch.set_num_threads(setup["threads"])
    model = GPT2LMHeadModel.from_pretrained(setup["checkpoint"], dtype=getattr(torch, setup["precision"])).eval()
    blocks = model.transformer.h
    needed = blocks[: max(setup["layers"]) + 1]
    tokens = torch.from_numpy(np.load(setup["tokens"])).long()
    batches = tokens[: setup["contexts"]].split(setup["batch_size"])

    @torch.no_grad()
    def forward() -> dict[str, Any]:
        model.transformer.h = needed
        started = time.perf_counter()
        for batch in batches:
            model.transformer(batch, use_cache=False)
        return {"seconds": time.perf_counter() - started, "tokens": tokens[: setup["contexts"]].numel()}

    @torch.no_grad()
    def whole_forward() -> dict[str, Any]:
        model.transformer.h = blocks
        started = time.perf_counter()
        for batch in batches:
            model(batch, use_cache=False)
        return {"seconds": time.perf_counter() - started, "tokens": tokens[: setup["contexts"]].numel()}

    def seconds_with(attention: str) -> float:
        model.set_attn_implementation(attention)
        return fastest(lambda: model.transformer(batches[0], use_cache=False))

    with torch.no_grad():
        attention = min(("sdpa", "eager"), key=seconds_with)
    model.set_attn_implementation(attention)
    return {"versions": {"transformers": transformers_version, "torch": torch.__version__}, "attention": attention}, {
        "forward": forward, "whole_forward": whole_forward, "yardsticks": yardsticks,
    }  # fmt: skip


if __name__ == "__main__":
    serve(load)

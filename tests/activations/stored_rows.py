"""Toy shards on disk, with special tokens strewn among the others."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_pipeline.activations.shards import SHARD

LENGTH, D_MODEL, CONTEXTS = 4, 3, 14
ROWS = torch.randn(CONTEXTS * LENGTH, D_MODEL, generator=torch.Generator().manual_seed(0))
DOCUMENT = torch.where(torch.arange(CONTEXTS * LENGTH) % LENGTH == 0, -1, torch.arange(CONTEXTS * LENGTH) // LENGTH).int()
DOCUMENT[[6, 7, 8, 21, 31, 40, 41, 42, 43]] = -1  # runs across contexts, single ones, and a context of nothing else
USABLE = (DOCUMENT >= 0).nonzero().squeeze(1)


def write(folder: Path, shard_contexts: int, rows: Tensor = ROWS, document: Tensor = DOCUMENT, length: int = LENGTH) -> list[Path]:
    """Shards of so many contexts; the last holds what is left."""
    paths = []
    for start in range(0, len(rows), shard_contexts * length):
        where = slice(start, start + shard_contexts * length)
        tensors = {"activations": rows[where], "document": document[where]}
        paths.append(folder / SHARD.format(len(paths)))
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, paths[-1], {"context_length": str(length)})
    return paths

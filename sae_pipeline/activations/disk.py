"""How much disk a cache of activations takes, and whether there is that much; known before the first forward pass.

Imports no torch, so that a plan can ask.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from sae_pipeline.activations.blocks import contexts_per_shard
from sae_pipeline.errors import StorageError

BYTES_PER_VALUE = {"float32": 4, "bfloat16": 2, "float16": 2}
"""Bytes of an activation's entry on disk by storage dtype."""

DOCUMENT_BYTES = 4
"""Bytes per token beside its activation: its document, int32."""

HEADER_BYTES = 4096
"""Bytes before the first activation of a shard: one page, so that activations can be read past the page cache."""


def estimate_bytes(tokens: int, d_model: int, storage_dtype: str, *, shard_tokens: int, context_length: int) -> int:
    """Bytes that the shards of one hook point take.

    Args:
        tokens: tokens of the corpus, special ones included, a multiple of ``context_length``.
        d_model: width of an activation.
        storage_dtype: float32, bfloat16 or float16.
        shard_tokens: tokens per shard, rounded down to whole contexts (at least one).
        context_length: tokens per context.
    """
    per_shard = contexts_per_shard(shard_tokens, context_length) * context_length
    return tokens * (d_model * BYTES_PER_VALUE[storage_dtype] + DOCUMENT_BYTES) + -(-tokens // per_shard) * HEADER_BYTES


def require_room(needed: Mapping[Path, int]) -> None:
    """Refuse to start what will not fit.

    Args:
        needed: folder -> bytes that will be written into it; folders of one file system are added up.

    Raises:
        StorageError: a file system has less free space than its folders need.
    """
    by_device: dict[int, list[Path]] = defaultdict(list)
    for folder in needed:
        by_device[os.stat(folder).st_dev].append(folder)
    for folders in by_device.values():
        wanted, free = sum(needed[folder] for folder in folders), shutil.disk_usage(folders[0]).free
        if wanted > free:
            from rich.filesize import decimal

            raise StorageError(
                f"{folders[0].parent}: expected {decimal(wanted)} of free space for the activations of {len(folders)} hook point"
                f"{'s' if len(folders) > 1 else ''}, found {decimal(free)}; free space, lower activations.tokens, use a 16-bit "
                "activations.storage_dtype, set activations.cache: false or point SAE_HOME to a larger disk"
            )

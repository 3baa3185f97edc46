"""How many contexts go through the model at once, when the study leaves that open.

On a CPU the best size follows from the shape of the text: about 2,000 tokens keep all cores busy while the tensors of a
block still fit the caches. On a GPU it is found by trying: a pass is measured, and the size doubled while the next one
is expected to fit.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from sae_pipeline.activations.subject import SubjectModel

TOKENS_ON_CPU = 2048
"""Tokens per pass on a CPU; larger passes were measured to be no faster."""

TOKENS_ON_GPU = 65_536
"""Tokens per pass on a GPU at most: beyond, a pass takes longer in proportion."""

MEMORY_SHARE = 0.5
"""Share of the free memory that a pass, and what is kept of it and of the pass before, may take."""

DESCRIBED_BYTES = 16
"""Bytes per entry that describing one hook's activations takes: a float64 copy, and float32 ones of what storing loses."""


def resolve_batch_size(wanted: int | str, model: SubjectModel, hooks: list[str], tokens: torch.Tensor, shard_contexts: int) -> int:
    """Contexts per forward pass.

    Args:
        wanted: a number, which is taken, or ``"auto"``.
        model: the subject model.
        hooks: names of the hooks that are captured: the last of them ends the pass.
        tokens: (n_contexts, context_length) token ids of the text, to try passes on.
        shard_contexts: contexts per shard, which no pass exceeds.
    """
    if wanted != "auto":
        return int(wanted)
    n_contexts, context_length = tokens.shape
    limit = max(1, min(shard_contexts, n_contexts))
    if model.device.type != "cuda":
        return min(limit, cpu_batch_size(context_length, bytes_per_context(model, context_length, len(hooks)), available_memory()))

    def measure(size: int) -> int:
        kept: list[torch.Tensor] = []
        torch.cuda.synchronize(model.device)
        torch.cuda.reset_peak_memory_stats(model.device)
        before = torch.cuda.memory_allocated(model.device)
        model.visit(tokens[:size], hooks, lambda name, activation: kept.append(activation.clone()))
        torch.cuda.synchronize(model.device)
        peak = torch.cuda.max_memory_allocated(model.device) - before
        # A harvest holds the activations of the pass before as well, and describes them hook by hook.
        return peak + sum(x.nbytes for x in kept) + DESCRIBED_BYTES * max(x.numel() for x in kept)

    free = torch.cuda.mem_get_info(model.device)[0]
    size = largest_fitting(measure, free, min(limit, max(1, TOKENS_ON_GPU // context_length)))
    torch.cuda.empty_cache()  # what the trials reserved
    return size


def cpu_batch_size(context_length: int, bytes_each: int, available: int | None) -> int:
    """Contexts of about :data:`TOKENS_ON_CPU` tokens together, fewer where memory is short.

    Args:
        context_length: tokens per context.
        bytes_each: memory that a pass takes per context.
        available: bytes of memory that can be had, None when unknown.
    """
    size = max(1, TOKENS_ON_CPU // context_length)
    if available is not None:
        size = min(size, max(1, int(MEMORY_SHARE * available) // bytes_each))
    return size


def largest_fitting(measure: Callable[[int], int], free: int, limit: int) -> int:
    """Double a batch size while a pass twice as large is expected to fit.

    Args:
        measure: runs a pass of some contexts and returns the bytes it took at its peak; may raise OutOfMemoryError.
        free: bytes free before any pass.
        limit: the largest size to try.

    Returns:
        The largest size of 1, 2, 4 ... (or ``limit``) whose pass took at most :data:`MEMORY_SHARE` of ``free``; at
        least 1, whatever it took.
    """
    size = 1
    while size < limit:
        following = min(2 * size, limit)
        try:
            fits = measure(following) <= MEMORY_SHARE * free
        except torch.OutOfMemoryError:
            fits = False
        if not fits:
            break
        size = following
    return size


def bytes_per_context(model: SubjectModel, context_length: int, hooks: int) -> int:
    """Rough memory of one context's pass: a dozen residual streams (the MLP's hidden layer is four), attention scores thrice,
    the activations of two passes at every hook, and what describing one of them takes."""
    heads = int(getattr(model.bridge.cfg, "n_heads", 1))
    return context_length * (4 * (12 * model.d_model + 3 * heads * context_length) + (8 * hooks + DESCRIBED_BYTES) * model.d_model)


def available_memory() -> int | None:
    """Bytes of memory that can be had without swapping, the page cache included; None where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), None)

"""What the machine can do at this moment, with the threads of the process that asks."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def yardsticks(size: int) -> dict[str, Any]:
    """Rates of this machine now: matrix product of two (size, size) matrices, and copying 64 MiB that no cache holds.

    Returns:
        float32_gflops, bfloat16_gflops, copy_gb_per_second (bytes copied, so memory moves twice as many).
    """
    source = torch.ones(2**24)
    target = torch.zeros_like(source)
    found = {"copy_gb_per_second": source.nbytes / fastest(lambda: target.copy_(source)) / 1e9}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = (torch.full((size, size), 0.5, dtype=dtype) for _ in range(2))
        found[f"{str(dtype).removeprefix('torch.')}_gflops"] = 2 * size**3 / fastest(lambda a=a, b=b: a @ b) / 1e9
    return found


def fastest(run: Callable[[], object]) -> float:
    """Seconds of the fastest of three calls after one that is not counted."""
    seconds = []
    for _ in range(4):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])

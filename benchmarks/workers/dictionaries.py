"""Pairs of dictionaries to match, the same for every tool that makes them from the same numbers."""

from __future__ import annotations

import torch
from torch import Tensor

COMMON, NOISE = 0.5, 0.7
"""Share of latents that both dictionaries have, and the norm of what noise adds to them."""


def dictionaries(kind: str, n: int, d_model: int) -> tuple[Tensor, Tensor]:
    """Unit rows (n, d_model) of two dictionaries, ``related`` or ``unrelated``, seeded."""
    generator = torch.Generator().manual_seed(n)
    a, b = (torch.randn(n, d_model, generator=generator) for _ in range(2))
    a /= a.norm(dim=1, keepdim=True)
    if kind == "related":
        common = int(COMMON * n)
        b[:common] = a[:common] + NOISE * d_model**-0.5 * b[:common]
        b = b[torch.randperm(n, generator=generator)]
    return a, b / b.norm(dim=1, keepdim=True)

"""Memory reused from step to step.

Freshly mapped large tensors cost page faults every step, up to a third of its time.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Workspace:
    """Buffers by name and shape, for one arm at a time: the next may use the same. A buffer's content is undefined when it is
    asked for. Members of a team ask for names of their own."""

    def __init__(self) -> None:
        self._buffers: dict[tuple, Tensor] = {}

    def get(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A buffer of this name and shape on the device of ``like``, with its dtype unless another is given."""
        key = (name, shape, dtype or like.dtype, like.device)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(shape, dtype=key[2], device=like.device)
        return self._buffers[key]


PAGE = 2**20
"""Entries on a page."""


class Pages:
    """Room for entries (int64 latent, value) whose number nobody knows beforehand, in buffers of a workspace."""

    def __init__(self, workspace: Workspace, owner: str, like: Tensor) -> None:
        """``owner`` is part of the buffers' names; values have the dtype and device of ``like``."""
        self._workspace, self._owner, self._like = workspace, owner, like
        self._page, self._used = 0, 0

    def room(self, least: int) -> tuple[Tensor, Tensor]:
        """The unused rest of a page, or a new page where less than ``least`` is left: latents and values."""
        size = max(PAGE, least)
        if size - self._used < least:
            self._page, self._used = self._page + 1, 0
        names = (f"{part} {self._owner} {self._page}" for part in ("latents", "values"))
        latents, values = (self._workspace.get(name, self._like, size, dtype=dtype) for name, dtype in zip(names, (torch.int64, None), strict=True))
        return latents[self._used :], values[self._used :]

    def take(self, count: int) -> None:
        """The first ``count`` places of the last room are used."""
        self._used += count

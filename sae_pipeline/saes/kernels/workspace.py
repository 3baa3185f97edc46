"""Memory reused from step to step.

Freshly mapped large tensors cost page faults every step, up to a third of its time.
"""

from __future__ import annotations

import torch
from torch import Tensor


class Workspace:
    """Buffers by name and shape, shared by all arms that train side by side. A buffer's content is undefined when it is asked for."""

    def __init__(self) -> None:
        self._buffers: dict[tuple, Tensor] = {}

    def get(self, name: str, like: Tensor, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """A buffer of this name and shape on the device of ``like``, with its dtype unless another is given."""
        key = (name, shape, dtype or like.dtype, like.device)
        if key not in self._buffers:
            self._buffers[key] = torch.empty(shape, dtype=key[2], device=like.device)
        return self._buffers[key]

"""The nonzero entries of a chunk of latents: a few per token, from which rare events are counted without reading the rest."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor


class FiringEntries(NamedTuple):
    """Every firing of a chunk, in order of token and latent; all (n_entries,) on the CPU."""

    token: Tensor
    """int64, place of the token in the chunk."""
    latent: Tensor
    """int64."""
    activation: Tensor
    """float32, above zero."""


def firing_entries(latents: Tensor) -> FiringEntries:
    """The firings among latents (n_tokens, d_sae), which are never negative."""
    where = _positive(latents.flatten())
    token, latent = where // latents.shape[1], where % latents.shape[1]
    return FiringEntries(token.cpu(), latent.cpu(), latents.flatten()[where].cpu().float())


def _positive(values: Tensor) -> Tensor:
    if values.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(values.numpy() > 0))  # three times as fast as torch's own
    return (values > 0).nonzero()[:, 0]

"""Deciles of each latent's activations where it fires, from counts on a fixed logarithmic grid.

A float32 number's own bits are the grid: exponent and the first bits of the mantissa name a cell, so counting needs no
logarithm, and two counts over different tokens add up. Memory depends on the width of the dictionary alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sae_pipeline.metrics.latents.firing_entries import FiringEntries

CELLS_PER_OCTAVE = 16
"""Cells between a power of two and the next: a cell's middle is within 1/32 (3.2 %) of every value in it."""

LOWEST, OCTAVES = -14, 32
"""The grid spans 2^-14 to 2^18; what lies outside is counted in the outermost cell."""

DECILES = tuple(round(0.1 * n, 1) for n in range(1, 10))

_CELLS = CELLS_PER_OCTAVE * OCTAVES
_MANTISSA_BITS = 23 - (CELLS_PER_OCTAVE.bit_length() - 1)
_FIRST = (127 + LOWEST) * CELLS_PER_OCTAVE


class ActivationHistogram:
    """How often each latent fired with an activation in each cell of the grid: 2 kB per latent."""

    def __init__(self, d_sae: int) -> None:
        self.counts = torch.zeros(d_sae * _CELLS, dtype=torch.int32)

    def update(self, entries: FiringEntries) -> None:
        """Count the firings of a chunk."""
        cell = ((entries.activation.view(torch.int32) >> _MANTISSA_BITS) - _FIRST).clamp_(0, _CELLS - 1)
        where = entries.latent * _CELLS + cell
        self.counts.index_add_(0, where, torch.ones_like(where, dtype=torch.int32))

    def deciles(self) -> NDArray[np.float64]:
        """(d_sae, 9) deciles of the nonzero activations, each within 1/32 of the order statistic of rank ceil(q * firings).

        nan where a latent never fired. The bound holds from 2^-14 to 2^18; beyond, the end of the grid is reported.
        """
        counts = self.counts.view(-1, _CELLS)
        total = counts.sum(-1).numpy()
        reached = counts.cumsum(-1, dtype=torch.int32).numpy()
        places = np.arange(_CELLS) + _FIRST
        edges = ((np.append(places, places[-1] + 1).astype(np.int32)) << _MANTISSA_BITS).view(np.float32).astype(np.float64)
        middles = (edges[:-1] + edges[1:]) / 2
        found = np.full((len(counts), len(DECILES)), np.nan)
        fired = total > 0
        for column, share in enumerate(DECILES):
            rank = np.ceil(np.round(share * total, 6)).astype(np.int64)
            found[fired, column] = middles[(reached < rank[:, None]).sum(-1)[fired]]
        return found

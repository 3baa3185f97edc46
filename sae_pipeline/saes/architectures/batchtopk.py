"""BatchTopK (Bussmann et al. 2024): a batch of n tokens keeps its k * n largest positive pre-activations.

What a token keeps depends on its batch, so inference uses one constant threshold instead, calibrated on a sample so
that the mean L0 is k: a JumpReLU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from sae_pipeline.saes.architectures.auxk import AuxKArchitecture
from sae_pipeline.saes.calibration import threshold_keeping
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.kernels import SparseCode, encode_above, row_starts

SLACK = 0.95
"""Share of the last batch's smallest kept value that a pre-activation must exceed to be a candidate in the next batch."""

FIRST_ROWS = 256
"""Rows whose dense pre-activations tell the first batch's floor."""


class BatchTopK(AuxKArchitecture):
    """Trained on the largest pre-activations of a batch, exported with a calibrated threshold."""

    name = "batchtopk"
    _floor = 0.0  # Only a shortcut to the same selection, so it is no part of the training state.
    _threshold = 0.0

    def select(self, centred: Tensor) -> SparseCode:
        """The k * n largest positive pre-activations of the batch.

        A flat top-k over all of them is slow, so values below the floor are dropped first; when too few are left
        the batch is read again with a lower one. The selection is the same whatever the floor.
        """
        assert self.arm.k is not None
        wanted = self.arm.k * len(centred)
        for floor in (self._floor or self._first_floor(centred[:FIRST_ROWS]), self._floor / 2, 0.0):
            code = encode_above(centred, self.W_enc, self.b_enc, floor, self.workspace)
            if len(code.values) >= wanted or floor == 0:
                break
        if len(code.values) <= wanted:
            self._floor = 0.0
            return code
        smallest = code.values.kthvalue(len(code.values) - wanted + 1).values
        self._floor = SLACK * smallest.item()
        kept = ~(code.values < smallest)  # not >=, so that NaN stays and the loss says so
        return SparseCode(row_starts(kept)[code.starts], code.latents[kept], code.values[kept])

    def _first_floor(self, centred: Tensor) -> float:
        """A floor from a few rows; 0 where less than k * n of their pre-activations are positive."""
        assert self.arm.k is not None
        pre = torch.addmm(self.b_enc, centred, self.W_enc).view(-1)
        wanted = self.arm.k * len(centred)
        return SLACK * max(0.0, pre.kthvalue(pre.numel() - wanted + 1).values.item())

    def calibrate(self, sample: Tensor) -> None:
        """Set the threshold that leaves k active latents per token on average over the sample."""
        assert self.arm.k is not None
        self._threshold = threshold_keeping(self.sample_pre_activations(sample), self.arm.k * len(sample))

    def take_threshold(self, threshold: float) -> None:
        """Use a threshold found elsewhere, in normalised units, until :meth:`calibrate` finds one."""
        self._threshold = threshold

    def export(self, metadata: dict[str, Any]) -> InferenceSAE:
        """JumpReLU with a constant threshold."""
        return self.folded("jumprelu", metadata, threshold=torch.full_like(self.b_enc, self._threshold))

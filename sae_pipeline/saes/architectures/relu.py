"""ReLU with an L1 penalty on the activations (Bricken et al. 2023), its coefficient steered to a target L0."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sae_pipeline.saes.architectures.steered import BiasSteeredArchitecture
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.kernels import ByLatent, SparseCode, encode_above


class ReLU(BiasSteeredArchitecture):
    """f = relu((x - b_dec) W_enc + b_enc); sparsity = sum_i f_i ||W_dec,i|| / sqrt(input variance).

    Decoder rows have unit norm whenever the loss is computed, so their norms do not appear; their gradient is along the
    rows and would be projected away.
    """

    name = "relu"
    correction_gain = 0.02

    def select(self, centred: Tensor) -> SparseCode:
        """All positive pre-activations."""
        return encode_above(centred, self.W_enc, self.b_enc, 0.0, self.workspace)

    def sparsity(self, code: SparseCode) -> float:
        """L1 of the activations, relative to the inputs' spread."""
        return code.values.sum().item() / self.spread

    def backward(self, code: SparseCode, value_gradient: Tensor, by_latent: ByLatent) -> Tensor:
        """The penalty's gradient is the same for every active latent."""
        n_tokens = len(code.starts) - 1
        return value_gradient + self.controller.coefficient / (self.spread * n_tokens)

    def export(self, metadata: dict[str, Any]) -> InferenceSAE:
        """ReLU, with the coefficient that steering ended at: whoever continues its loss needs it."""
        return self.folded("relu", metadata | {"sparsity_coefficient": self.controller.coefficient})

"""TopK (Gao et al. 2024): every token keeps its k largest pre-activations, those that are positive."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sae_pipeline.saes.architectures.auxk import AuxKArchitecture
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.kernels import SparseCode, encode_topk


class TopK(AuxKArchitecture):
    """f = relu(top_k((x - b_dec) W_enc + b_enc)); l0 <= k always."""

    name = "topk"

    def select(self, centred: Tensor) -> SparseCode:
        """The k largest pre-activations of every token; negative ones among them become entries of value 0."""
        assert self.arm.k is not None
        return encode_topk(centred, self.W_enc, self.b_enc, self.arm.k, self.workspace)

    def export(self, metadata: dict[str, Any]) -> InferenceSAE:
        """TopK with the same k."""
        return self.folded("topk", metadata, k=self.arm.k)

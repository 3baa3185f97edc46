"""How often each latent fires in each document, so that shares of dead and dense latents can be resampled by document.

An evaluation keeps firings summed over a whole set; their counts per document are large and only a comparison of single SAEs needs them.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.metrics.baselines import READ_ROWS
from sae_pipeline.metrics.reconstruction import active, token_chunks
from sae_pipeline.saes.inference import InferenceSAE


@torch.inference_mode()
def firings_per_document(sae: InferenceSAE, activations: ActivationShards, rows: Tensor, n_documents: int) -> Tensor:
    """Tokens of each document on which each latent fires, (n_documents, d_sae) int32 on the CPU.

    Args:
        sae: of the layer and site of the activations.
        activations: stored activations of an evaluation set; special tokens belong to no document and are passed over.
        rows: (corpus documents,) int64, the row of each document, as :meth:`sae_pipeline.metrics.baselines.Baseline.rows` gives it.
        n_documents: rows of the result.
    """
    device = sae.W_enc.device
    counts = torch.zeros(n_documents, sae.d_sae, dtype=torch.int32, device=device)
    for where, x in activations.chunks(READ_ROWS):
        document = activations.document[where].long()
        usable = document >= 0
        x, row = x[usable].to(sae.W_enc), rows[document[usable]].to(device)
        for chunk in token_chunks(len(x), sae.d_sae, device):
            counts.index_add_(0, row[chunk], active(sae.encode(x[chunk])).int())
    return counts.cpu()

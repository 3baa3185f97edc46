"""Firings per document, counted by hand and against the counts of a whole set."""

from __future__ import annotations

import numpy as np
import torch
from metrics_toys import MemoryShards, identity_sae, random_sae

from sae_pipeline.metrics.latents.document_firing import firings_per_document
from sae_pipeline.metrics.latents.firing import FiringStatistics


def test_every_document_counts_its_own_tokens() -> None:
    """Latents are the signs of two coordinates: +x, +y, -x, -y. The BOS token belongs to no document."""
    x = torch.tensor([[9.0, 9.0], [1.0, 0.0], [2.0, -1.0], [0.0, 3.0], [-1.0, 1.0]])
    document = torch.tensor([-1, 4, 4, 2, 2], dtype=torch.int32)
    rows = torch.tensor([-1, -1, 1, -1, 0])
    counts = firings_per_document(identity_sae(2), MemoryShards(x, document), rows, 2)  # type: ignore[arg-type]
    assert counts.tolist() == [[2, 0, 0, 1], [0, 2, 1, 0]]
    assert counts.dtype == torch.int32


def test_counts_sum_to_those_of_the_whole_set() -> None:
    generator = torch.Generator().manual_seed(0)
    x, document = torch.randn(200, 8, generator=generator), torch.randint(0, 5, (200,), generator=generator).int()
    for activation in ("relu", "topk", "jumprelu"):
        sae = random_sae(8, 24, activation, generator)
        counts = firings_per_document(sae, MemoryShards(x, document), torch.arange(5), 5)  # type: ignore[arg-type]
        whole = FiringStatistics(24)
        whole.update(sae.encode(x))
        np.testing.assert_array_equal(counts.sum(0).numpy(), whole.fired.numpy())
        assert (counts <= torch.bincount(document)[:, None]).all()

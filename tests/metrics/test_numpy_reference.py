"""Metrics against plain NumPy in float64, to one part in a million, although latents are computed in float32.

Every token's choice of active latents is clear of a tie by far more than float32 rounding, so that what is compared is the
arithmetic of sums and ratios and not which of two equal latents won.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from metrics_toys import LinearModel, MemoryShards, evaluated, margins, numpy_metrics, random_corpus, random_sae
from scipy.special import log_softmax

from sae_pipeline.metrics.decoder.redundancy import decoder_similarity
from sae_pipeline.metrics.fidelity import TextBatch, token_losses
from sae_pipeline.metrics.latents.firing import FiringStatistics
from sae_pipeline.metrics.reconstruction import add_per_document, token_terms

D_MODEL, D_SAE, VOCABULARY = 16, 48, 60
REL = 1e-6


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "relu"])
def test_metrics_of_an_evaluation_equal_numpy_in_float64(architecture: str) -> None:
    """6,440 tokens, an offset far from the origin, one massive token; a latent that is always on and one that never fires."""
    generator = torch.Generator().manual_seed(4)
    sae = random_sae(D_MODEL, D_SAE, architecture, generator)
    sae.b_enc[0], sae.b_enc[1] = -1e3, 1e2
    candidates = torch.randn(40 * VOCABULARY, D_MODEL, generator=generator) + 2.0
    candidates[::50] *= 30
    embedding = candidates[margins(sae, candidates) > 1e-3][:VOCABULARY]
    assert len(embedding) == VOCABULARY
    corpus = random_corpus(230, 30, VOCABULARY, generator)
    model = LinearModel(embedding, 0.1 * torch.randn(D_MODEL, VOCABULARY, generator=generator))
    x = embedding[corpus.tokens.long()].flatten(0, 1)
    random_text = torch.randint(1, VOCABULARY, (20, 30), generator=generator)
    shards = MemoryShards(x, corpus.document.flatten())
    found = evaluated({"sae": sae}, shards, corpus, model, batch_size=16, random_text=random_text)["sae"].metrics
    expected = numpy_metrics(sae, x, corpus, model, ratio=10, random_text=random_text)
    assert {"explained_variance", "mse", "cosine_similarity", "l0", "ce_sae", "kl_divergence", "dead_share", "decoder_mean_cos"} <= set(expected)
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=REL, abs=1e-9), name


def test_sums_per_document_equal_numpy_in_float64() -> None:
    """Of float32 reconstructions that are given: casts come before differences and squares."""
    generator = torch.Generator().manual_seed(5)
    x = 1e3 + torch.randn(500, D_MODEL, generator=generator)
    x_hat = x + 1e-2 * torch.randn(500, D_MODEL, generator=generator)
    latents, norms = torch.randn(500, D_SAE, generator=generator).relu(), torch.rand(D_SAE, generator=generator)
    rows, sums = torch.randint(0, 7, (500,), generator=generator), torch.zeros(7, 6, dtype=torch.float64)
    add_per_document(sums, rows, token_terms(x, x_hat, latents, norms))
    a, b, f = (tensor.double().numpy() for tensor in (x, x_hat, latents))
    dot, square, square_hat = (a * b).sum(1), (a**2).sum(1), (b**2).sum(1)
    terms = [((a - b) ** 2).sum(1), dot / np.sqrt(square * square_hat), (f > 0).sum(1), f @ norms.double().numpy(), square_hat, dot]
    for column, term in enumerate(terms):
        expected = [term[rows.numpy() == document].sum() for document in range(7)]
        assert sums[:, column].numpy() == pytest.approx(expected, rel=REL), column


def test_losses_of_given_logits_equal_numpy_in_float64() -> None:
    generator = torch.Generator().manual_seed(6)
    clean, spliced = (4 * torch.randn(5, 12, VOCABULARY, generator=generator) for _ in range(2))
    tokens = torch.randint(0, VOCABULARY, (5, 12), generator=generator)
    scored = torch.rand(5, 11, generator=generator) < 0.7
    rows = torch.zeros(int(scored.sum()), dtype=torch.int64)
    batch = TextBatch(slice(0, 5), tokens, torch.ones_like(tokens).bool(), scored, rows, positions=scored.nonzero()[:, 1] + 1)
    found = token_losses(spliced, batch, clean.log_softmax(-1)).numpy()
    log_p, log_q = (log_softmax(logits.double().numpy()[:, :-1], axis=-1) for logits in (clean, spliced))
    losses = -np.take_along_axis(log_q, tokens[:, 1:, None].numpy(), axis=-1)[..., 0]
    divergences = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    assert found[:, 0] == pytest.approx(losses[scored.numpy()], rel=REL)
    assert found[:, 1] == pytest.approx(divergences[scored.numpy()], rel=REL)


def test_firing_statistics_equal_numpy_in_float64() -> None:
    """Latents that are rare, always on far from zero, and silent, in uneven chunks."""
    generator = torch.Generator().manual_seed(7)
    latents = (torch.randn(3000, 40, generator=generator) - torch.linspace(-3, 3, 40)).relu()
    latents[:, 0] = 1e3 + torch.rand(3000, generator=generator)
    latents[:, -1] = 0
    statistics = FiringStatistics(40)
    for chunk in latents.split(701):
        statistics.update(chunk)
    table, f = statistics.table(), latents.double().numpy()
    for column, expected in {"fired": (f > 0).sum(0), "density": (f > 0).mean(0), "mean": f.mean(0), "max": f.max(0)}.items():
        assert table[column].to_numpy() == pytest.approx(expected, rel=REL, abs=1e-8), column
    # Squares around a chunk's mean are added in float32.
    assert table["std"].to_numpy() == pytest.approx(f.std(0), rel=1e-5)


def test_redundancy_equals_numpy_in_float64_however_it_is_cut() -> None:
    """A dictionary with twins, opposites and a zero row, 16 blocks."""
    generator = torch.Generator().manual_seed(8)
    W_dec = torch.randn(300, D_MODEL, generator=generator) * torch.rand(300, 1, generator=generator)
    W_dec[10], W_dec[20], W_dec[30] = 3 * W_dec[11], -0.5 * W_dec[21], 0
    found = decoder_similarity(W_dec, block_elements=300 * 19).metrics
    rows = W_dec.double().numpy()[W_dec.norm(dim=1).numpy() > 0]
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    cosines = unit @ unit.T
    pairs = cosines[np.triu_indices(len(unit), 1)]
    np.fill_diagonal(cosines, -2)
    expected = {
        "decoder_mean_cos": pairs.mean(),
        "decoder_mean_abs_cos": np.abs(pairs).mean(),
        "decoder_mean_max_cos": cosines.max(1).mean(),
        "decoder_top100_pair_cos": np.sort(pairs)[-100:].mean(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, rel=REL, abs=1e-8), name

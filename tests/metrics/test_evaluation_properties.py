"""What may not change any metric: how latents share their scale with the decoder, and positions that hold no text."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from metrics_toys import BOS, Evaluated, LinearModel, MemoryShards, corpus_of, evaluated, random_corpus, random_sae
from torch import Tensor

from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.metrics.registry import METRICS
from sae_pipeline.saes.inference import InferenceSAE

D_MODEL, D_SAE, VOCABULARY = 6, 16, 40
few = settings(max_examples=10, deadline=None)
SEEDS = st.integers(0, 10**6)

OF_LATENTS_AMONG_EACH_OTHER = ("feature_diversity_10", "effective_latents", "firing_gini", "fake_feature_ratio")
"""Metrics that compare activations of different latents, or with a cut: a scale of each latent's own may change them."""


def text(seed: int) -> tuple[torch.Generator, Corpus, LinearModel]:
    """A corpus, and a model whose activation is the token's embedding."""
    generator = torch.Generator().manual_seed(seed)
    corpus = random_corpus(10, 16, VOCABULARY, generator)
    embedding = torch.randn(VOCABULARY, D_MODEL, generator=generator) + 0.5
    return generator, corpus, LinearModel(embedding, 0.3 * torch.randn(D_MODEL, VOCABULARY, generator=generator))


def run(sae: InferenceSAE, corpus: Corpus, model: LinearModel) -> Evaluated:
    x = model.embedding[corpus.tokens.long()].flatten(0, 1)
    return evaluated({"sae": sae}, MemoryShards(x, corpus.document.flatten()), corpus, model)["sae"]


def same(first: Evaluated, second: Evaluated, *, but: tuple[str, ...] = (), rel: float = 1e-4) -> None:
    for name in METRICS:
        if name not in but:
            value = second.metrics[name]
            assert first.metrics[name] == (None if value is None else pytest.approx(value, rel=rel, abs=1e-6)), name


def scaled(sae: InferenceSAE, scale: Tensor) -> InferenceSAE:
    """Decoder rows times ``scale`` (d_sae,), activations divided by it: the same function from x to x_hat."""
    threshold = None if sae.threshold is None else sae.threshold / scale
    return replace(sae, W_enc=sae.W_enc / scale, b_enc=sae.b_enc / scale, W_dec=sae.W_dec * scale[:, None], threshold=threshold)


def clear_of_ties(sae: InferenceSAE, x: Tensor) -> bool:
    """Whether no rounding can turn a latent of any token on or off."""
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    ranked = pre.sort(dim=-1, descending=True).values
    cut = (ranked[:, sae.k - 1] + ranked[:, sae.k])[:, None] / 2 if sae.k is not None else (0.0 if sae.threshold is None else sae.threshold)
    return bool(((pre - cut).abs().amin(-1) > 1e-5 * pre.abs().amax(-1)).all())


@few
@given(seed=SEEDS, architecture=st.sampled_from(["topk", "jumprelu", "relu"]), scale=st.sampled_from([1e-3, 0.5, 3.0, 1e3]))
def test_a_scale_of_the_decoder_against_the_activations_changes_no_metric(seed: int, architecture: str, scale: float) -> None:
    """Also not l1, which weighs activations by decoder norms; the table of latents is in the activations' own units."""
    generator, corpus, model = text(seed)
    sae = random_sae(D_MODEL, D_SAE, architecture, generator)
    assume(clear_of_ties(sae, model.embedding))
    first, second = run(sae, corpus, model), run(scaled(sae, torch.full((D_SAE,), scale)), corpus, model)
    same(second, first)
    assert second.latents["fired"].tolist() == first.latents["fired"].tolist()
    for column in ("mean", "std", "max"):
        assert (second.latents[column] * scale).to_numpy() == pytest.approx(first.latents[column].to_numpy(), rel=1e-3, abs=1e-5)


@few
@given(seed=SEEDS, architecture=st.sampled_from(["jumprelu", "relu"]))
def test_scales_of_single_latents_change_no_metric_that_looks_at_each_latent_alone(seed: int, architecture: str) -> None:
    """Not for TopK, where the scale of a latent decides whether it is among the largest."""
    generator, corpus, model = text(seed)
    sae = random_sae(D_MODEL, D_SAE, architecture, generator)
    assume(clear_of_ties(sae, model.embedding))
    scale = 10 ** (2 * torch.rand(D_SAE, generator=generator) - 1)
    same(run(scaled(sae, scale), corpus, model), run(sae, corpus, model), but=OF_LATENTS_AMONG_EACH_OTHER)


@few
@given(seed=SEEDS, architecture=st.sampled_from(["topk", "jumprelu", "relu"]), behind=st.integers(0, 9), contexts=st.integers(0, 5))
def test_padding_behind_the_text_and_contexts_of_nothing_but_padding_change_no_metric(
    seed: int, architecture: str, behind: int, contexts: int
) -> None:
    """Padding is any token that is special: neither its activation nor its prediction enters, in whatever number."""
    generator, corpus, model = text(seed)
    sae = random_sae(D_MODEL, D_SAE, architecture, generator)
    assume(clear_of_ties(sae, model.embedding))
    length = corpus.context_length
    tokens = torch.full((corpus.n_contexts + contexts, length + behind), BOS)
    document = torch.full_like(tokens, -1)
    tokens[: corpus.n_contexts, :length], document[: corpus.n_contexts, :length] = corpus.tokens.long(), corpus.document.long()
    order = torch.randperm(len(tokens), generator=generator)
    padded = run(sae, corpus_of(tokens[order], document[order]), model)
    same(padded, run(sae, corpus, model))
    assert padded.metrics["n_tokens"] == int((~corpus.special).sum())
    assert padded.summary["ce_tokens"] == int((~corpus.special)[:, 1:].sum())


@few
@given(seed=SEEDS, architecture=st.sampled_from(["topk", "jumprelu", "relu"]))
def test_documents_that_are_split_or_joined_change_no_metric_of_the_whole_set(seed: int, architecture: str) -> None:
    """Sums are kept by document so that documents can be resampled; how many there are is another question."""
    generator, corpus, model = text(seed)
    sae = random_sae(D_MODEL, D_SAE, architecture, generator)
    assume(clear_of_ties(sae, model.embedding))
    joined = corpus_of(corpus.tokens, torch.where(corpus.special, -1, corpus.document // 2))
    same(run(sae, joined, model), run(sae, corpus, model), but=("n_documents", "feature_diversity_10"))

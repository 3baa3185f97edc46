"""Whole evaluations: against an independent recomputation, and the invariances every metric must have."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from metrics_toys import (
    Evaluated,
    LinearModel,
    MemoryShards,
    constant_sae,
    corpus_of,
    evaluated,
    identity_sae,
    margins,
    numpy_metrics,
    random_corpus,
    random_sae,
)
from torch import Tensor

from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.errors import StorageError
from sae_pipeline.metrics import evaluate, reconstruction, token_batches
from sae_pipeline.metrics.registry import METRICS
from sae_pipeline.metrics.rivals import RivalBatch
from sae_pipeline.saes.inference import InferenceSAE

D_MODEL, D_SAE, VOCABULARY = 6, 16, 40
ARCHITECTURES = st.sampled_from(["topk", "jumprelu", "relu"])
few = settings(max_examples=15, deadline=None)


def make(seed: int, contexts: int = 12, length: int = 16) -> tuple[torch.Generator, Corpus, LinearModel, Tensor]:
    """A corpus, a model, and the activations of the corpus (rows, d_model) with an offset and one massive token id."""
    generator = torch.Generator().manual_seed(seed)
    corpus = random_corpus(contexts, length, VOCABULARY, generator)
    embedding = torch.randn(VOCABULARY, D_MODEL, generator=generator) + 0.5
    embedding[7] = 40.0
    model = LinearModel(embedding, 0.3 * torch.randn(D_MODEL, VOCABULARY, generator=generator))
    return generator, corpus, model, embedding[corpus.tokens.long()].flatten(0, 1)


def run(sae: InferenceSAE, x: Tensor, corpus: Corpus, model: LinearModel, **options: Any) -> Evaluated:
    """Evaluate one SAE."""
    return evaluated({"sae": sae}, MemoryShards(x, corpus.document.flatten()), corpus, model, **options)["sae"]


def decided_sae(architecture: str, x: Tensor, generator: torch.Generator) -> InferenceSAE:
    """A random SAE whose choice of active latents on `x` no rounding can turn: a property is not about exact ties."""
    sae = random_sae(D_MODEL, D_SAE, architecture, generator)
    assume(bool((margins(sae, x) > 1e-5).all()))
    return sae


def close(first: dict[str, float | None], second: dict[str, float | None], *, but: tuple[str, ...] = (), rel: float = 1e-4) -> None:
    """All metrics agree up to float32 rounding of the latents."""
    for name in METRICS:
        if name not in but:
            assert first[name] == (None if second[name] is None else pytest.approx(second[name], rel=rel, abs=1e-6)), name


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "relu"])
def test_every_metric_equals_an_independent_numpy_recomputation(architecture: str) -> None:
    """7840 tokens with outliers, separators and documents across contexts, against float64 NumPy straight from the definitions."""
    generator, corpus, model, x = make(3, contexts=280, length=30)
    sae = random_sae(D_MODEL, D_SAE, architecture, generator)
    sae.b_enc[0], sae.b_enc[1] = -1e4, 1e2  # one latent that never fires and one that is always on
    random_text = torch.randint(1, VOCABULARY, (40, 30), generator=generator)
    result = run(sae, x, corpus, model, batch_size=7, random_text=random_text)
    expected = numpy_metrics(sae, x, corpus, model, ratio=10, random_text=random_text)
    assert result.summary["outlier_tokens"] > 0
    assert expected["dead_share"] > 0
    assert expected["dense_share@0.95"] > 0
    assert list(result.metrics) == list(METRICS)
    for name in METRICS.keys() - {"first_letter_absorption", "first_letter_absorption_full"}:
        assert result.metrics[name] == pytest.approx(expected[name], rel=2e-5), name


@few
@given(seed=st.integers(0, 10**6), architecture=ARCHITECTURES, batch=st.integers(1, 20), read=st.integers(1, 300), chunk=st.integers(1, 4000))
def test_batch_and_chunk_sizes_do_not_matter(seed: int, architecture: str, batch: int, read: int, chunk: int) -> None:
    """However the same tokens are cut, the sums are the same."""
    generator, corpus, model, x = make(seed)
    sae = decided_sae(architecture, x, generator)
    with mock.patch.object(token_batches, "READ_ROWS", read), mock.patch.object(reconstruction, "CPU_CHUNK_ELEMENTS", chunk):
        cut = run(sae, x, corpus, model, batch_size=batch)
    close(cut.metrics, run(sae, x, corpus, model).metrics)


@few
@given(seed=st.integers(0, 10**6), architecture=ARCHITECTURES)
def test_order_of_contexts_and_numbering_of_documents_do_not_matter(seed: int, architecture: str) -> None:
    """Contexts shuffled and documents renumbered: the same tokens, the same metrics, the same sums per document."""
    generator, corpus, model, x = make(seed)
    sae = decided_sae(architecture, x, generator)
    order = torch.randperm(corpus.n_contexts, generator=generator)
    number = torch.randperm(len(corpus.documents), generator=generator)
    document = torch.where(corpus.special, -1, number[corpus.document.clamp(min=0).long()])[order]
    shuffled = corpus_of(corpus.tokens[order], document)
    first = run(sae, x, corpus, model)
    second = run(sae, x.view(*corpus.tokens.shape, -1)[order].flatten(0, 1), shuffled, model)
    close(first.metrics, second.metrics)
    renumbered = second.documents.set_index("document").loc[number[first.documents["document"].to_numpy()].numpy()]
    np.testing.assert_allclose(renumbered[["n", "sse", "kl"]], first.documents[["n", "sse", "kl"]], rtol=1e-5, atol=1e-6)


@few
@given(seed=st.integers(0, 10**6), architecture=ARCHITECTURES, scale=st.sampled_from([1e-3, 0.3, 7.0, 1e3]))
def test_a_common_scale_of_activations_and_sae_only_scales_mse_and_l1(seed: int, architecture: str, scale: float) -> None:
    """x and the decoder times c, the encoder over c, the unembedding over c: squares grow by c^2, lengths by c, the rest stays."""
    generator, corpus, model, x = make(seed)
    sae = decided_sae(architecture, x, generator)
    scaled_sae = replace(sae, W_enc=sae.W_enc / scale, W_dec=sae.W_dec * scale, b_dec=sae.b_dec * scale)
    first = run(sae, x, corpus, model).metrics
    second = run(scaled_sae, x * scale, corpus, LinearModel(model.embedding * scale, model.unembedding / scale)).metrics
    expected = first | {"mse": first["mse"] * scale**2, "l1": first["l1"] * scale}  # type: ignore[operator]
    close(second, expected, but=("legacy.sae_bench.explained_variance",))


@few
@given(seed=st.integers(0, 10**6), architecture=ARCHITECTURES, offset=st.sampled_from([-30.0, 2.0, 200.0]))
def test_a_constant_offset_with_b_dec_shifted_leaves_variance_metrics_alone(seed: int, architecture: str, offset: float) -> None:
    """Only metrics that look at the origin (norms, cosine, zero ablation, outliers) may see where the origin is."""
    generator, corpus, model, x = make(seed)
    sae = decided_sae(architecture, x, generator)
    first = run(sae, x, corpus, model).metrics
    second = run(replace(sae, b_dec=sae.b_dec + offset), x + offset, corpus, model).metrics
    for name in ("explained_variance", "fvu", "mse", "l0", "l1", "dead_share", "dense_share@0.1", "decoder_mean_cos"):
        assert second[name] == pytest.approx(first[name], rel=2e-3, abs=1e-6), name


@few
@given(seed=st.integers(0, 10**6), architecture=ARCHITECTURES)
@example(seed=262143, architecture="topk").via("third and fourth latent of one token tie exactly")
def test_the_order_of_latents_does_not_matter(seed: int, architecture: str) -> None:
    """A permuted dictionary is the same dictionary; its table of latents is permuted."""
    generator, corpus, model, x = make(seed)
    sae = decided_sae(architecture, x, generator)
    order = torch.randperm(D_SAE, generator=generator)
    permuted = replace(sae, W_enc=sae.W_enc[:, order], b_enc=sae.b_enc[order], W_dec=sae.W_dec[order])
    first, second = run(sae, x, corpus, model), run(permuted, x, corpus, model)
    close(first.metrics, second.metrics)
    assert second.latents["fired"].tolist() == first.latents["fired"].to_numpy()[order.numpy()].tolist()


@few
@given(seed=st.integers(0, 10**6))
def test_special_tokens_never_enter(seed: int) -> None:
    """Garbage in the stored activations of BOS and separators changes no bit of any metric."""
    generator, corpus, model, x = make(seed)
    sae = random_sae(D_MODEL, D_SAE, "jumprelu", generator)
    garbage = torch.where(corpus.special.flatten()[:, None], 1e30, x)
    first, second = run(sae, x, corpus, model), run(sae, garbage, corpus, model)
    assert first.metrics == second.metrics
    assert first.summary == second.summary


@few
@given(seed=st.integers(0, 10**6))
def test_topk_never_has_more_than_k_active_latents(seed: int) -> None:
    """k = 3: on average and so for every document."""
    generator, corpus, model, x = make(seed)
    result = run(random_sae(D_MODEL, D_SAE, "topk", generator), x, corpus, model)
    assert 0 < result.metrics["l0"] <= 3  # type: ignore[operator]
    assert (result.documents["l0"] <= 3 * result.documents["n"]).all()


def test_explained_variance_of_predicting_the_mean_is_zero_and_of_perfect_reconstruction_one() -> None:
    """The two fixed points of the scale, with outliers in the set."""
    _, corpus, model, x = make(5)
    mean = x[~corpus.special.flatten()].double().mean(0).float()
    results = evaluated({"mean": constant_sae(mean), "identity": identity_sae(D_MODEL)}, MemoryShards(x, corpus.document.flatten()), corpus, model)
    assert results["mean"].metrics["explained_variance"] == pytest.approx(0, abs=1e-6)
    assert results["mean"].metrics["ce_sae"] == pytest.approx(results["mean"].metrics["ce_mean"], rel=1e-6)
    assert results["identity"].metrics["explained_variance"] == 1
    assert results["identity"].metrics["mse"] == 0
    assert results["identity"].metrics["cosine_similarity"] == pytest.approx(1)


def test_a_constant_error_counts_and_explained_variance_goes_below_zero() -> None:
    """x_hat = x + c has no residual variance, yet |c|^2 = 4 x total variance gives exactly 1 - 4 = -3, not clamped."""
    _, corpus, model, x = make(6)
    usable = x[~corpus.special.flatten()].double()
    variance = ((usable - usable.mean(0)) ** 2).sum(1).mean().item()
    exact = identity_sae(D_MODEL)
    biased = replace(  # one more latent, always at 1, that writes c
        exact,
        W_enc=torch.cat([exact.W_enc, torch.zeros(D_MODEL, 1)], dim=1),
        b_enc=torch.cat([exact.b_enc, torch.ones(1)]),
        W_dec=torch.cat([exact.W_dec, torch.full((1, D_MODEL), (4 * variance / D_MODEL) ** 0.5)]),
    )
    assert run(biased, x, corpus, model).metrics["explained_variance"] == pytest.approx(-3, rel=1e-5)


def test_massive_tokens_lift_explained_variance_and_are_removed_from_the_second_figure() -> None:
    """A dictionary that knows only the massive direction explains nearly all variance, and almost none without outliers."""
    _, corpus, model, x = make(8)
    direction = model.embedding[7] / model.embedding[7].norm()
    sae = InferenceSAE(W_enc=direction[:, None], b_enc=torch.zeros(1), W_dec=direction[None], b_dec=torch.zeros(D_MODEL), activation="relu")
    result = run(sae, x, corpus, model)
    tokens = corpus.tokens[~corpus.special]
    assert result.summary["outlier_tokens"] == int((tokens == 7).sum()) > 0
    assert int(result.documents["n_inlier"].sum()) == len(tokens) - int((tokens == 7).sum())
    assert result.metrics["explained_variance"] > 0.95  # type: ignore[operator]
    assert result.metrics["explained_variance_excl_outliers"] < 0.5  # type: ignore[operator]


def test_an_sae_gives_the_same_bits_alone_and_among_others() -> None:
    """One pass for many SAEs is a matter of speed alone."""
    generator, corpus, model, x = make(9)
    saes = {name: random_sae(D_MODEL, D_SAE, name, generator) for name in ("topk", "jumprelu", "relu")}
    together = evaluated(saes, MemoryShards(x, corpus.document.flatten()), corpus, model)
    for name, sae in saes.items():
        alone = run(sae, x, corpus, model)
        assert alone.metrics == together[name].metrics
        assert alone.documents.equals(together[name].documents)
        assert alone.latents.equals(together[name].latents)


def test_sums_by_position_equal_those_of_the_tokens_there() -> None:
    """Every position on its own, against NumPy on the tokens at it; a special position holds none, and sums add up to the documents'."""
    generator, corpus, model, x = make(11)
    sae = random_sae(D_MODEL, D_SAE, "jumprelu", generator)
    result = run(sae, x, corpus, model)
    x_hat = sae.decode(sae.encode(x)).double().numpy()
    usable = ~corpus.special.flatten().numpy()
    at = np.arange(len(x)) % corpus.context_length
    assert result.positions["position"].tolist() == sorted(set(at[usable]))
    assert 0 not in result.positions["position"].tolist()
    for row, norms in zip(result.positions.itertuples(), result.baseline.positions.itertuples(), strict=True):
        here = usable & (at == row.position)
        tokens, errors = x.double().numpy()[here], ((x.double().numpy() - x_hat)[here] ** 2).sum()
        assert row.n == norms.n == len(tokens)
        assert row.sse == pytest.approx(errors, rel=1e-5)
        assert norms.sum_sq == pytest.approx((tokens**2).sum())
        assert row.explained_variance == pytest.approx(1 - errors / ((tokens - tokens.mean(0)) ** 2).sum(), rel=1e-4, abs=1e-6)
    for by_position, by_document in ((result.positions, result.documents), (result.baseline.positions, result.baseline.documents)):
        for column in ("n", "ce_n", *({"sse", "ce_sae", "kl", "sum_sq", "ce_clean", "ce_zero", "ce_mean"} & set(by_position))):
            assert by_position[column].sum() == pytest.approx(by_document[column].sum()), column


def test_figures_of_the_sae_itself_enter_as_they_are_given() -> None:
    """What no evaluation set changes is measured elsewhere; not given is None."""
    generator, corpus, model, x = make(12)
    sae = random_sae(D_MODEL, D_SAE, "relu", generator)
    given_figures = {"first_letter_absorption": 0.25, "fake_feature_ratio": 0.125}
    result = evaluated({"sae": sae}, MemoryShards(x, corpus.document.flatten()), corpus, model, of_saes={"sae": given_figures})["sae"]
    assert (result.metrics["first_letter_absorption"], result.metrics["fake_feature_ratio"]) == (0.25, 0.125)
    assert result.metrics["first_letter_absorption_full"] is None


def test_what_is_accumulated_does_not_grow_with_the_tokens() -> None:
    """Ten times the text of the same documents needs the same memory, and batches have one size."""

    def held(repeats: int) -> tuple[int, set[int]]:
        _, corpus, model, x = make(13)
        document = corpus.document.repeat(repeats, 1)
        longer = corpus_of(corpus.tokens.repeat(repeats, 1), document)
        shards = MemoryShards(x.repeat(repeats, 1), document.flatten())
        sae = random_sae(D_MODEL, D_SAE, "relu", torch.Generator().manual_seed(0))
        baseline = run(sae, shards.activations, longer, model, ce_tokens=1).baseline
        sums = evaluate.StreamedSums(sae, baseline, longer.context_length, 5)
        sizes = set()
        with mock.patch.object(token_batches, "RIVAL_BATCH", 64):
            for batch in token_batches.token_batches(shards, baseline.rows(len(longer.documents)), longer.context_length, 1e9):  # type: ignore[arg-type]
                sums.update(batch, RivalBatch(batch.x))
                sizes.add(len(batch.x))
        parts = [sums, *(value for value in vars(sums).values() if hasattr(value, "__dict__"))]
        return sum(value.nbytes for part in parts for value in vars(part).values() if isinstance(value, Tensor)), sizes

    (once, _), (tenfold, sizes) = held(1), held(10)
    assert once == tenfold
    assert max(sizes) == 64
    assert len(sizes) <= 2


def test_a_baseline_of_other_activations_is_refused() -> None:
    """Ratios of sums from two different sets would be numbers without meaning."""
    generator, corpus, model, x = make(10)
    sae = random_sae(D_MODEL, D_SAE, "relu", generator)
    baseline = run(sae, x, corpus, model).baseline
    half = len(x) // 2
    with pytest.raises(StorageError, match="measure the baseline"):
        evaluate.evaluate_saes(
            {}, {}, activations=MemoryShards(x[:half], corpus.document.flatten()[:half]), corpus=corpus, baseline=baseline, model=model, hook="site", ce_tokens=10, batch_size=2
        )  # fmt: skip

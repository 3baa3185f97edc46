"""Small evaluation sets, a language model with closed-form logits, and a plain NumPy recomputation of every metric."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import comb
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import log_softmax
from torch import Tensor

from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.metrics.baselines import Baseline, measure_baseline
from sae_pipeline.metrics.evaluate import evaluate_saes
from sae_pipeline.saes.inference import InferenceSAE

BOS = 0


def corpus_of(tokens: Tensor, document: Tensor) -> Corpus:
    """A corpus from token ids and document numbers (n_contexts, context_length), -1 where special."""
    count = int(document.max()) + 1
    documents = pd.DataFrame({"document_hash": [f"hash{n}" for n in range(count)], "text": [""] * count})
    return Corpus(tokens.int(), document.int(), document.clamp(max=0).int(), torch.zeros(len(tokens), dtype=torch.uint8), documents, {})


def random_corpus(contexts: int, length: int, vocabulary: int, generator: torch.Generator) -> Corpus:
    """Contexts with BOS, three documents each and a separator before the third; documents continue in the next context."""
    tokens = torch.randint(1, vocabulary, (contexts, length), generator=generator)
    document = (torch.arange(length) * 3 // length)[None] + 2 * torch.arange(contexts)[:, None]
    separator = int((document[0] < 2).sum())
    tokens[:, [0, separator]] = BOS
    document[:, [0, separator]] = -1
    return corpus_of(tokens, document)


@dataclass
class MemoryShards:
    """Stored activations held in memory, with the interface of ``ActivationShards`` that metrics use."""

    activations: Tensor
    document: Tensor

    @property
    def rows(self) -> int:
        return len(self.activations)

    @property
    def d_model(self) -> int:
        return self.activations.shape[1]

    @property
    def usable(self) -> Tensor:
        return (self.document >= 0).nonzero()[:, 0]

    def chunks(self, rows: int) -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, self.rows, rows):
            where = slice(start, min(start + rows, self.rows))
            yield where, self.activations[where].float()


@dataclass
class LinearModel:
    """A language model without attention: the site's activation is the token's embedding, logits are linear in it."""

    embedding: Tensor
    unembedding: Tensor
    causal: bool = True

    def logits(self, tokens: Tensor, replace: tuple[str, Callable[[Tensor], Tensor]] | None = None) -> Tensor:
        x = self.embedding[tokens]
        return (x if replace is None else replace[1](x)) @ self.unembedding

    def capture(self, tokens: Tensor, hooks: list[str]) -> dict[str, Tensor]:
        return dict.fromkeys(hooks, self.embedding[tokens])

    def splice(self, tokens: Tensor, hook: str, streams: object = None) -> SimpleNamespace:
        return SimpleNamespace(clean=self.logits(tokens), streams=None, logits=lambda replacement: self.logits(tokens, (hook, replacement)))


@dataclass
class Evaluated:
    """What an evaluation left: metrics, and the tables it wrote."""

    metrics: dict[str, float | None]
    documents: pd.DataFrame
    positions: pd.DataFrame
    latents: pd.DataFrame
    top_contexts: pd.DataFrame
    dense: dict[str, Any]
    baseline: Baseline
    summary: dict[str, Any]


def evaluated(
    saes: dict[str, InferenceSAE],
    shards: Any,
    corpus: Corpus,
    model: Any,
    *,
    hook: str = "site",
    ce_tokens: int = 10**9,
    batch_size: int = 4,
    ratio: float = 10.0,
    random_text: Tensor | None = None,
    of_saes: Mapping[str, Mapping[str, float]] | None = None,
) -> dict[str, Evaluated]:
    """Baseline and evaluation of some SAEs through their files."""
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        for name in ("baseline", *saes):
            (root / name).mkdir()
        common = {"activations": shards, "corpus": corpus, "model": model, "hook": hook, "ce_tokens": ce_tokens, "batch_size": batch_size}
        summary = measure_baseline(root / "baseline", **common, outlier_norm_ratio=ratio, random_text=random_text)
        baseline = Baseline.load(SimpleNamespace(file=lambda name: root / "baseline" / name, summary=summary))  # type: ignore[arg-type]
        metrics = evaluate_saes({name: root / name for name in saes}, saes, baseline=baseline, of_saes=of_saes or {}, **common)
        return {
            name: Evaluated(
                metrics=metrics[name],
                **{
                    table: pd.read_parquet(root / name / f"{table}.parquet")  # type: ignore[arg-type]
                    for table in ("documents", "positions", "latents", "top_contexts")
                },
                dense=json.loads((root / name / "dense_latents.json").read_text()),
                baseline=baseline,
                summary=summary,
            )
            for name in saes
        }


def random_sae(d_model: int, d_sae: int, activation: str, generator: torch.Generator) -> InferenceSAE:
    """An SAE with random weights; jumprelu has thresholds of 0.5, topk has k = 3."""
    weights = [torch.randn(shape, generator=generator) for shape in ((d_model, d_sae), (d_sae,), (d_sae, d_model), (d_model,))]
    return InferenceSAE(
        W_enc=weights[0],
        b_enc=weights[1] * 0.3,
        W_dec=weights[2] * 0.3,
        b_dec=weights[3],
        activation=activation,
        k=3 if activation == "topk" else None,
        threshold=torch.full((d_sae,), 0.5) if activation == "jumprelu" else None,
    )


def margins(sae: InferenceSAE, x: Tensor) -> Tensor:
    """(n_tokens,) how near each token's activations (n_tokens, d_model) are to activating other latents, relative to its largest pre-activation."""
    pre = (x - sae.b_dec) @ sae.W_enc + sae.b_enc
    if sae.k is not None:
        ranked = pre.sort(dim=-1, descending=True).values
        margin = ranked[:, sae.k - 1] - ranked[:, sae.k]
    else:
        margin = (pre - (0.0 if sae.threshold is None else sae.threshold)).abs().amin(-1)
    return margin / pre.abs().amax(-1)


def identity_sae(d_model: int) -> InferenceSAE:
    """Reconstructs exactly: a latent for each sign of each coordinate."""
    eye = torch.eye(d_model)
    return InferenceSAE(
        W_enc=torch.cat([eye, -eye], dim=1),
        b_enc=torch.zeros(2 * d_model),
        W_dec=torch.cat([eye, -eye]),
        b_dec=torch.zeros(d_model),
        activation="relu",
    )


def constant_sae(value: Tensor, d_sae: int = 4) -> InferenceSAE:
    """Reconstructs everything as one vector (d_model,): no latent ever fires."""
    d_model = len(value)
    return InferenceSAE(W_enc=torch.zeros(d_model, d_sae), b_enc=-torch.ones(d_sae), W_dec=torch.ones(d_sae, d_model), b_dec=value, activation="relu")


# ------------------------------------------------------------------------------------------------ the independent recomputation


def _latents(sae: InferenceSAE, x: np.ndarray) -> np.ndarray:
    """Latents token by token, in float64 NumPy, straight from the definitions."""
    W_enc, b_enc, b_dec = (t.double().numpy() for t in (sae.W_enc, sae.b_enc, sae.b_dec))
    latents = np.zeros((len(x), sae.d_sae))
    for row, token in enumerate(x):
        pre = (token - b_dec) @ W_enc + b_enc
        if sae.activation == "topk":
            chosen = np.argsort(-pre)[: sae.k]
            latents[row, chosen] = np.maximum(pre[chosen], 0)
        else:
            threshold = sae.threshold.double().numpy() if sae.threshold is not None else 0.0
            latents[row] = np.where(pre > threshold, np.maximum(pre, 0), 0)
    return latents


def _expected_distinct(top: np.ndarray, document: np.ndarray, drawn: int) -> float:
    """Expected number of distinct values of `top` (n_tokens,) over one random token each of `drawn` random documents; -1 adds none.

    A value is missed by all of them with e_drawn(q) / C(documents, drawn), q_d the share of the document's tokens without it.
    """
    found, documents = 0.0, np.unique(document)
    for value in np.unique(top[top >= 0]):
        polynomial = np.zeros(drawn + 1)
        polynomial[0] = 1
        for number in documents:
            polynomial[1:] = polynomial[1:] + polynomial[:-1] * (top[document == number] != value).mean()
        found += 1 - polynomial[drawn] / comb(len(documents), drawn)
    return found


def _rivals(x: np.ndarray, x_hat: np.ndarray, batch: int) -> dict[str, float]:
    """Other tools' formulas, each as its tool writes it."""
    residual = x - x_hat
    explained = 1 - (residual**2).sum(1).mean() / (((x - x.mean(0)) ** 2).sum(1)).mean()
    batches = [slice(start, start + batch) for start in range(0, max(len(x) - batch, 0) + 1, batch)]
    token_ratios = [1 - (residual[b] ** 2).sum(1) / ((x[b] - x[b].mean(0)) ** 2).sum(1) for b in batches]
    square = (x**2).sum(1).mean()
    return {
        "legacy.sae_lens.explained_variance": explained,
        "legacy.sae_lens.explained_variance_legacy": np.concatenate(token_ratios).mean(),
        "legacy.sae_bench.explained_variance": 1 - (residual**2).sum(1).mean() / (square - (x**2).mean() ** 2),
        "legacy.dictionary_learning.frac_variance_explained": float(
            np.mean([1 - residual[b].var(0, ddof=1).sum() / x[b].var(0, ddof=1).sum() for b in batches])
        ),
        "legacy.sparsify.fvu": float(np.mean([(residual[b] ** 2).sum() / ((x[b] - x[b].mean(0)) ** 2).sum() for b in batches])),
        "legacy.scikit_learn.explained_variance_score": 1 - residual.var(0).sum() / x.var(0).sum(),
        "legacy.s1.loss_recovered": max(0.0, explained),
    }


def numpy_metrics(
    sae: InferenceSAE, activations: Tensor, corpus: Corpus, model: LinearModel, ratio: float, random_text: Tensor | None = None
) -> dict[str, float]:
    """Every metric, recomputed from its definition without sums per document, chunks or torch."""
    document = corpus.document.numpy()
    x = activations.double().numpy()[document.ravel() >= 0]
    W_dec, b_dec = sae.W_dec.double().numpy(), sae.b_dec.double().numpy()
    latents = _latents(sae, x)
    x_hat = latents @ W_dec + b_dec
    errors, norms, norms_hat = ((x - x_hat) ** 2).sum(1), np.sqrt((x**2).sum(1)), np.sqrt((x_hat**2).sum(1))
    inlier = norms <= ratio * np.median(norms)
    variance = ((x - x.mean(0)) ** 2).sum()
    variance_inlier = ((x[inlier] - x[inlier].mean(0)) ** 2).sum()

    embedding, unembedding = model.embedding.double().numpy(), model.unembedding.double().numpy()
    losses: dict[str, list[float]] = {"ce_clean": [], "ce_sae": [], "ce_zero": [], "ce_mean": [], "kl_divergence": []}
    for text, owner in zip(corpus.tokens.numpy(), document, strict=True):
        site = embedding[text]
        replacements = {
            "ce_clean": site,
            "ce_zero": np.zeros_like(site),
            "ce_mean": np.tile(x.mean(0), (len(site), 1)),
            "ce_sae": _latents(sae, site) @ W_dec + b_dec,
        }
        log_probabilities = {
            name: log_softmax(np.where((owner >= 0)[:, None], new, site) @ unembedding, axis=-1) for name, new in replacements.items()
        }
        for target in range(1, len(text)):
            if owner[target] < 0:
                continue
            for name, values in log_probabilities.items():
                losses[name].append(-values[target - 1, text[target]])
            clean, spliced = log_probabilities["ce_clean"][target - 1], log_probabilities["ce_sae"][target - 1]
            losses["kl_divergence"].append((np.exp(clean) * (clean - spliced)).sum())
    ce = {name: float(np.mean(values)) for name, values in losses.items()}

    random = _latents(sae, np.empty((0, sae.d_model)) if random_text is None else embedding[random_text[:, 1:].numpy().ravel()])
    strongest = np.where(latents.max(1) > 0, latents.argmax(1), -1)
    density = (latents > 0).mean(0)
    shares = density / density.sum()
    directions = W_dec / np.sqrt((W_dec**2).sum(1, keepdims=True))
    cosines = directions @ directions.T
    pairs = np.array([cosines[i, j] for i in range(len(cosines)) for j in range(i)])
    return {
        "n_tokens": len(x),
        "n_documents": len(np.unique(document[document >= 0])),
        "explained_variance": 1 - errors.sum() / variance,
        "explained_variance_excl_outliers": 1 - errors[inlier].sum() / variance_inlier,
        "fvu": errors.sum() / variance,
        "mse": errors.mean(),
        "nmse": errors.sum() / (norms**2).sum(),
        "cosine_similarity": ((x * x_hat).sum(1) / (norms * norms_hat)).mean(),
        "l2_ratio": np.sqrt((norms_hat**2).sum() / (norms**2).sum()),
        "relative_reconstruction_bias": (norms_hat**2).sum() / (x * x_hat).sum(),
        "l0": (latents > 0).sum(1).mean(),
        "l0_fraction": (latents > 0).mean(),
        "l1": (latents @ np.sqrt((W_dec**2).sum(1))).mean(),
        **ce,
        "ce_loss_recovered_zero": (ce["ce_zero"] - ce["ce_sae"]) / (ce["ce_zero"] - ce["ce_clean"]),
        "ce_loss_recovered_mean": (ce["ce_mean"] - ce["ce_sae"]) / (ce["ce_mean"] - ce["ce_clean"]),
        "ce_delta": ce["ce_sae"] - ce["ce_clean"],
        "dead_share": (density == 0).mean(),
        "dead_share_lt5": ((latents > 0).sum(0) < 5).mean(),
        "dead_share_5e4": (density < 0.0005).mean(),
        **{f"dense_share@{cut:g}": (density > cut).mean() for cut in (0.1, 0.5, 0.8, 0.95)},
        "fake_feature_ratio": ((random > 0).mean(0) > 0.1).mean() if len(random) else np.nan,
        "feature_diversity_10": _expected_distinct(strongest, document.ravel()[document.ravel() >= 0], 10),
        "effective_latents": np.exp(-(shares[shares > 0] * np.log(shares[shares > 0])).sum()),
        "firing_gini": np.abs(density[:, None] - density).sum() / (2 * len(density) * density.sum()),
        "decoder_mean_cos": pairs.mean(),
        "decoder_mean_abs_cos": np.abs(pairs).mean(),
        "decoder_mean_max_cos": np.where(np.eye(len(cosines), dtype=bool), -2, cosines).max(1).mean(),
        "decoder_top100_pair_cos": np.sort(pairs)[-100:].mean(),
        "antipodal_pairs": (pairs < -0.9).sum(),
        **_rivals(x, x_hat, 2048),
    }

"""All metrics of several SAEs of one layer on one evaluation set, in one pass over its activations and one over its text."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import pandas as pd
import torch
from torch import Tensor

from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.errors import StorageError
from sae_pipeline.metrics.baselines import Baseline
from sae_pipeline.metrics.decoder.diversity import TopLatents, firing_spread
from sae_pipeline.metrics.decoder.redundancy import decoder_similarity
from sae_pipeline.metrics.fidelity import LossSums, fidelity_sums
from sae_pipeline.metrics.latents.activation_quantiles import DECILES, ActivationHistogram
from sae_pipeline.metrics.latents.dense_latents import dense_latents
from sae_pipeline.metrics.latents.fake_features import fake_feature_ratio
from sae_pipeline.metrics.latents.firing import FiringStatistics, firing_shares
from sae_pipeline.metrics.latents.firing_entries import firing_entries
from sae_pipeline.metrics.latents.top_contexts import TopContexts
from sae_pipeline.metrics.ratios import centred_squares, metrics_from_sums
from sae_pipeline.metrics.reconstruction import TERMS, add_per_document, reconstructions, token_chunks, token_terms, wide
from sae_pipeline.metrics.registry import METRICS
from sae_pipeline.metrics.rivals import RivalBatch, RivalSums
from sae_pipeline.metrics.token_batches import TokenBatch, token_batches
from sae_pipeline.progress import track
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.store import write_json

OF_SAE = ("fake_feature_ratio", "first_letter_absorption", "first_letter_absorption_full")
"""Metrics that are measured on text of their own and so are the same on every evaluation set."""


class StreamedSums:
    """What one SAE accumulates while the evaluation set's activations stream past; its memory does not depend on how many."""

    def __init__(self, sae: InferenceSAE, baseline: Baseline, context_length: int, top_contexts: int) -> None:
        n_documents = len(baseline.documents)
        self.sae = sae
        self.decoder_norms = torch.linalg.vector_norm(sae.W_dec, dim=-1)
        self.firing = FiringStatistics(sae.d_sae)
        self.histogram = ActivationHistogram(sae.d_sae)
        self.top_latents = TopLatents(sae.d_sae, baseline.documents["n"])
        self.top_contexts = TopContexts(sae.d_sae, top_contexts)
        self.rivals = RivalSums(sae.d_model)
        self.terms = torch.zeros(n_documents, len(TERMS), dtype=torch.float64)
        self.sse_inlier = torch.zeros(n_documents, 1, dtype=torch.float64)
        self.sse_position = torch.zeros(context_length, 1, dtype=torch.float64)

    def update(self, batch: TokenBatch, shared: RivalBatch) -> None:
        """Take in tokens, and what all SAEs share of the rival metrics' arithmetic on them."""
        x = batch.x.to(self.sae.W_enc)
        sum_x_hat = torch.zeros(self.sae.d_model, dtype=torch.float64)
        squared_errors = []
        for chunk in token_chunks(len(x), self.sae.d_sae, x.device):
            latents = self.sae.encode(x[chunk])
            entries = firing_entries(latents)
            x_hat = reconstructions(self.sae, latents, entries)
            terms = token_terms(x[chunk], x_hat, latents, self.decoder_norms)
            rows, kept, sse = batch.rows[chunk], batch.inlier[chunk], terms[:, :1]
            self.firing.update(latents)
            self.histogram.update(entries)
            self.top_contexts.update(entries, batch.places[chunk])
            self.top_latents.update(latents, rows)
            add_per_document(self.terms, rows, terms)
            add_per_document(self.sse_inlier, rows[kept], sse[kept])
            add_per_document(self.sse_position, batch.positions[chunk], sse)
            sum_x_hat += wide(x_hat).sum(0).cpu().double()
            squared_errors.append(sse[:, 0])
        self.rivals.update(shared, torch.cat(squared_errors), sum_x_hat)


@torch.inference_mode()
def evaluate_saes(
    folders: dict[str, Path],
    saes: dict[str, InferenceSAE],
    *,
    activations: ActivationShards,
    corpus: Corpus,
    baseline: Baseline,
    model: SubjectModel,
    hook: str,
    ce_tokens: int,
    batch_size: int,
    top_contexts: int = 5,
    of_saes: Mapping[str, Mapping[str, float | None]] = MappingProxyType({}),
) -> dict[str, dict[str, float | None]]:
    """Evaluate SAEs with their inference rule in raw model units, and write each one's evaluation files.

    Latents are float32; per-token squared norms and all sums over tokens are float64. Writes into each folder
    ``metrics.json``, ``documents.parquet`` (sums, same rows as the baseline's), ``positions.parquet`` (sums, same rows as
    the baseline's), ``latents.parquet``, ``top_contexts.parquet``, ``decoder_pairs.parquet`` and ``dense_latents.json``.

    Args:
        folders: existing folder per SAE name.
        saes: SAE per name, all of the layer and site of ``activations``.
        activations: stored activations of the evaluation set.
        corpus: the text they come from.
        baseline: the baseline of the same evaluation set, layer and site.
        model: the subject model.
        hook: name of the site whose activations are replaced.
        ce_tokens: tokens of text used for cross-entropy and KL, as in the baseline.
        batch_size: contexts per forward pass.
        top_contexts: strongest activations kept per latent.
        of_saes: by SAE name, figures of it that no evaluation set changes, by metric id. Of those of :data:`OF_SAE` that are
            not given, the fake feature ratio is measured here and the others are None.

    Returns:
        Per SAE all metrics of ``METRICS``, in its order; None where ``METRICS[id].null_when`` applies.

    Raises:
        StorageError: the baseline was measured on other activations or other text.
    """
    rows = baseline.rows(len(corpus.documents))
    _require_same_tokens(activations, baseline, len(corpus.documents))
    passes = {name: StreamedSums(sae, baseline, corpus.context_length, top_contexts) for name, sae in saes.items()}
    with track(f"reconstructions of {len(saes)} SAEs", int(baseline.documents["n"].sum()) * len(saes), "tokens") as progress:
        for batch in token_batches(activations, rows, corpus.context_length, baseline.outlier_norm):
            shared = RivalBatch(batch.x)
            for current in passes.values():
                current.update(batch, shared)
                progress.advance(len(batch.x))
    losses = fidelity_sums(
        saes, corpus, rows, len(baseline.documents), model=model, hook=hook, ce_tokens=ce_tokens, batch_size=batch_size, streams=baseline.streams
    )
    return {name: _write(folders[name], current, losses[name], baseline, corpus, of_saes.get(name, {})) for name, current in passes.items()}


def _require_same_tokens(activations: ActivationShards, baseline: Baseline, corpus_documents: int) -> None:
    """Refuse a baseline that was not measured on these activations."""
    seen, expected = (torch.zeros(corpus_documents, dtype=torch.int64) for _ in range(2))
    for document in activations.document.split(2**20):
        seen += torch.bincount(document[document >= 0].long(), minlength=corpus_documents)
    expected[torch.tensor(baseline.documents["document"].to_numpy()).long()] = torch.tensor(baseline.documents["n"].to_numpy())
    if not torch.equal(seen, expected):
        raise StorageError(
            f"expected a baseline of the {int(seen.sum())} tokens being evaluated, found one of {int(expected.sum())} tokens or of other documents; "
            "measure the baseline of this evaluation set and layer again"
        )


def _write(
    folder: Path, current: StreamedSums, losses: LossSums, baseline: Baseline, corpus: Corpus, of_sae: Mapping[str, float | None]
) -> dict[str, float | None]:
    """Write one SAE's evaluation and return its metrics."""
    documents = baseline.documents[["document", "document_hash", "n", "n_inlier"]].copy()
    documents[list(TERMS)] = current.terms.numpy()
    documents["sse_inlier"] = current.sse_inlier[:, 0].numpy()
    documents["ce_n"] = losses.documents[:, 0].long().numpy()
    documents["ce_sae"], documents["kl"] = losses.documents[:, 1:].T.numpy()
    if not documents["ce_n"].equals(baseline.documents["ce_n"]):
        raise StorageError(
            f"expected the {int(baseline.documents['ce_n'].sum())} scored tokens of the baseline, found {int(documents['ce_n'].sum())}; "
            "use the same ce_tokens for both, or measure the baseline again"
        )
    latents = current.firing.table()
    latents[[f"q{100 * share:.0f}" for share in DECILES]] = current.histogram.deciles()
    documents.to_parquet(folder / "documents.parquet", index=False)
    _position_sums(current.sse_position, losses.positions, baseline).to_parquet(folder / "positions.parquet", index=False)
    latents.to_parquet(folder / "latents.parquet", index=False)
    current.top_contexts.table(corpus).to_parquet(folder / "top_contexts.parquet", index=False)
    write_json(folder / "dense_latents.json", dense_latents(latents))
    similarity = decoder_similarity(current.sae.W_dec)
    similarity.most_similar.to_parquet(folder / "decoder_pairs.parquet", index=False)
    fired, totals = latents["fired"].to_numpy(), documents.sum(numeric_only=True)
    values = {
        **metrics_from_sums(documents, baseline.documents, baseline.sum_x, baseline.sum_x_inlier, d_sae=current.sae.d_sae),
        **firing_shares(fired, current.firing.tokens),
        **firing_spread(fired),
        **similarity.metrics,
        **current.rivals.values(n=int(totals["n"]), sse=totals["sse"], sum_sq=baseline.documents["sum_sq"].sum(), sum_x=baseline.sum_x.sum(0)),
        "feature_diversity_10": current.top_latents.diversity(),
        **dict.fromkeys(OF_SAE),
        **of_sae,
    }
    if "fake_feature_ratio" not in of_sae:
        values["fake_feature_ratio"] = fake_feature_ratio(current.sae, baseline.random).ratio
    metrics = {metric: values[metric] for metric in METRICS}
    write_json(folder / "metrics.json", metrics)
    return metrics


def _position_sums(sse: Tensor, losses: Tensor, baseline: Baseline) -> pd.DataFrame:
    """One SAE's table of positions, from sums over all positions of the context: squared errors (n, 1), and losses (n, 3)."""
    positions = baseline.positions[["position", "n"]].copy()
    held = torch.tensor(positions["position"].to_numpy())
    positions["sse"] = sse[held, 0].numpy()
    positions["explained_variance"] = 1 - positions["sse"] / centred_squares(positions["n"], baseline.positions["sum_sq"], baseline.sum_x_position)
    positions["ce_n"] = losses[held, 0].long().numpy()
    positions["ce_sae"], positions["kl"] = losses[held, 1:].T.numpy()
    return positions

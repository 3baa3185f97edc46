"""What the raw activations of an evaluation set are like, before any SAE: the yardstick all its SAEs are measured by.

Everything here depends on (evaluation set, layer, site) alone and is computed once: sums per document and per position,
the norms that define outlier tokens, the cross-entropy of the clean and the ablated model with the residual stream of the
clean one, and the activations of random token ids, which no latent should know.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.activations.statistics import NORM_QUANTILES
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.metrics.fidelity import ablation_sums, scored_contexts
from sae_pipeline.metrics.kept_streams import KeptStreams, StreamKeeper
from sae_pipeline.metrics.latents.fake_features import random_token_activations
from sae_pipeline.metrics.reconstruction import add_per_document, squared_norms
from sae_pipeline.progress import track
from sae_pipeline.store import Artifact

READ_ROWS = 8192
"""Activations read at once."""

ABLATIONS = ("ce_clean", "ce_zero", "ce_mean")
"""Losses of the clean and the ablated model, in the order of the sums."""


@dataclass(frozen=True)
class Baseline:
    """The stored baseline of one (evaluation set, layer, site)."""

    documents: pd.DataFrame
    """One row per document with usable tokens: ``document`` (row in the corpus's table), ``document_hash``, ``n``,
    ``sum_sq``, ``n_inlier``, ``sum_sq_inlier``, ``ce_n``, ``ce_clean``, ``ce_zero``, ``ce_mean`` (sums)."""
    sum_x: Tensor
    """(n_documents, d_model) float64, sums of activations."""
    sum_x_inlier: Tensor
    """The same over inlier tokens."""
    positions: pd.DataFrame
    """One row per position of the context that holds a usable token: ``position`` (0 is the first of the context, usually
    BOS and then absent), ``n``, ``sum_sq``, and over the scored targets at that position ``ce_n``, ``ce_clean``,
    ``ce_zero``, ``ce_mean`` (sums)."""
    sum_x_position: Tensor
    """(n_positions, d_model) float64, sums of activations by position, rows as in ``positions``."""
    mean: Tensor
    """(d_model,) float64, mean activation of the set."""
    outlier_norm: float
    """Norm above which a token is an outlier."""
    random: Tensor
    """(n_random, d_model) float32, activations of uniformly random token ids; empty when none were asked for."""
    streams: KeptStreams
    """The clean model's residual stream on the text that is scored."""

    @classmethod
    def load(cls, artifact: Artifact) -> Baseline:
        """Read a baseline artifact.

        Raises:
            DamagedArtifact: a file's bytes differ from the manifest.
        """
        documents, positions = (pd.read_parquet(artifact.file(f"{name}.parquet")) for name in ("documents", "positions"))
        sums, random = (load_file(artifact.file(f"{name}.safetensors")) for name in ("sums", "random"))
        return cls(
            documents=documents,
            sum_x=sums["sum_x"],
            sum_x_inlier=sums["sum_x_inlier"],
            positions=positions,
            sum_x_position=sums["sum_x_position"],
            mean=sums["mean"],
            outlier_norm=artifact.summary["outlier_norm"],
            random=random["activations"],
            streams=KeptStreams(artifact.file("streams.safetensors")),
        )

    def rows(self, corpus_documents: int) -> Tensor:
        """(corpus_documents,) int64: the row of each of the corpus's documents in ``documents``, -1 where it has none."""
        return document_rows(torch.tensor(self.documents["document"].to_numpy()), corpus_documents)


def document_rows(documents: Tensor, corpus_documents: int) -> Tensor:
    """Inverse of a list of document numbers: (corpus_documents,) int64, -1 where a document is not listed."""
    rows = torch.full((corpus_documents,), -1, dtype=torch.int64)
    rows[documents.long()] = torch.arange(len(documents))
    return rows


def measure_baseline(
    folder: Path,
    *,
    activations: ActivationShards,
    corpus: Corpus,
    model: SubjectModel,
    hook: str,
    ce_tokens: int,
    batch_size: int,
    outlier_norm_ratio: float,
    random_text: Tensor | None = None,
) -> dict[str, Any]:
    """Measure raw activations and ablated cross-entropies, and write the baseline's files.

    Special tokens never enter. Norms, sums and means are float64; the first pass over the activations finds the median
    norm, the second sums with and without the tokens above ``outlier_norm_ratio`` times that median.

    Args:
        folder: where ``documents.parquet``, ``positions.parquet``, ``sums.safetensors``, ``random.safetensors`` and
            ``streams.safetensors`` are written.
        activations: stored activations of the evaluation set.
        corpus: the text they come from.
        model: the subject model, for cross-entropies.
        hook: name of the site that is ablated.
        ce_tokens: tokens of text used for cross-entropies, rounded up to whole contexts.
        batch_size: contexts per forward pass.
        outlier_norm_ratio: multiple of the median norm above which a token is an outlier.
        random_text: (n_contexts, context_length) contexts of random token ids, the first of each opening it as BOS does;
            None when latents are not to be held against random text.

    Returns:
        The summary: ``tokens``, ``documents``, ``mean_norm``, ``total_variance`` (mean |x - mu|^2), ``norm_quantiles``,
        ``outlier_norm``, ``outlier_tokens``, ``random_tokens``, ``ce_tokens`` (scored targets), ``ce_clean``, ``ce_zero``,
        ``ce_mean`` (nats per token, None when nothing was scored, as with a model that is not causal).
    """
    used = torch.unique(activations.document[activations.usable]).long()
    rows = document_rows(used, len(corpus.documents))
    n_documents, d_model = len(used), activations.d_model
    norms = torch.empty(activations.rows, dtype=torch.float64)
    with track("norms and sums of raw activations", 2 * activations.rows, "tokens") as progress:
        for where, x in activations.chunks(READ_ROWS):
            norms[where] = squared_norms(x).cpu().double().sqrt()
            progress.advance(len(x))
        usable_norms = norms[activations.usable]
        quantiles = dict(zip(NORM_QUANTILES, np.quantile(usable_norms.numpy(), NORM_QUANTILES).tolist(), strict=True))
        outlier_norm = outlier_norm_ratio * quantiles[0.5]
        scalars = torch.zeros(n_documents, 4, dtype=torch.float64)
        sum_x, sum_x_inlier = (torch.zeros(n_documents, d_model, dtype=torch.float64) for _ in range(2))
        position_scalars = torch.zeros(corpus.context_length, 2, dtype=torch.float64)
        sum_x_position = torch.zeros(corpus.context_length, d_model, dtype=torch.float64)
        for where, x in activations.chunks(READ_ROWS):
            document = activations.document[where].long()
            usable = document >= 0
            position = torch.arange(where.start, where.stop)[usable] % corpus.context_length
            row, norm, vectors = rows[document[usable]], norms[where][usable], x[usable].double()
            inlier = norm <= outlier_norm
            add_per_document(scalars, row, torch.stack([torch.ones_like(norm), norm**2, inlier.double(), inlier * norm**2], dim=-1))
            add_per_document(sum_x, row, vectors)
            add_per_document(sum_x_inlier, row[inlier], vectors[inlier])
            add_per_document(position_scalars, position, torch.stack([torch.ones_like(norm), norm**2], dim=-1))
            add_per_document(sum_x_position, position, vectors)
            progress.advance(len(x))
    tokens = len(usable_norms)
    mean = sum_x.sum(0) / tokens
    keeper = StreamKeeper(scored_contexts(corpus, ce_tokens))
    losses = ablation_sums(corpus, rows, n_documents, model=model, hook=hook, mean=mean, ce_tokens=ce_tokens, batch_size=batch_size, keeper=keeper)
    keeper.write(folder / "streams.safetensors")
    documents = pd.DataFrame(
        {
            "document": used.numpy(),
            "document_hash": corpus.documents["document_hash"].to_numpy()[used.numpy()],
            "n": scalars[:, 0].long().numpy(),
            "sum_sq": scalars[:, 1].numpy(),
            "n_inlier": scalars[:, 2].long().numpy(),
            "sum_sq_inlier": scalars[:, 3].numpy(),
            "ce_n": losses.documents[:, 0].long().numpy(),
            **dict(zip(ABLATIONS, losses.documents[:, 1:].T.numpy(), strict=True)),
        }
    )
    held = position_scalars[:, 0].nonzero()[:, 0]
    positions = pd.DataFrame(
        {
            "position": held.numpy(),
            "n": position_scalars[held, 0].long().numpy(),
            "sum_sq": position_scalars[held, 1].numpy(),
            "ce_n": losses.positions[held, 0].long().numpy(),
            **dict(zip(ABLATIONS, losses.positions[held, 1:].T.numpy(), strict=True)),
        }
    )
    random = torch.empty(0, d_model) if random_text is None else random_token_activations(model, hook, random_text, batch_size)
    documents.to_parquet(folder / "documents.parquet", index=False)
    positions.to_parquet(folder / "positions.parquet", index=False)
    sums = {"sum_x": sum_x, "sum_x_inlier": sum_x_inlier, "sum_x_position": sum_x_position[held], "mean": mean}
    save_file(sums, folder / "sums.safetensors")
    save_file({"activations": random}, folder / "random.safetensors")
    scored = int(documents["ce_n"].sum())
    return {
        "tokens": tokens,
        "documents": n_documents,
        "mean_norm": usable_norms.mean().item(),
        "total_variance": ((scalars[:, 1].sum() - (sum_x.sum(0) ** 2).sum() / tokens) / tokens).item(),
        "norm_quantiles": {f"{share:g}": norm for share, norm in quantiles.items()},
        "outlier_norm": outlier_norm,
        "outlier_tokens": tokens - int(documents["n_inlier"].sum()),
        "random_tokens": len(random),
        "ce_tokens": scored,
        **{column: documents[column].sum() / scored if scored else None for column in ABLATIONS},
    }

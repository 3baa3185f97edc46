"""One reading of a text with the position embeddings as they are, zeroed or shuffled: what each token shows at one site.

The contexts are few enough that a figure per token is kept, and the site's activations of one reading with them, because
shares of variance are resampled over documents afterwards.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_pipeline.activations.position_embeddings import Condition, positions_under, shuffled_orders
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.corpora.packing import SPECIAL
from sae_pipeline.metrics.baselines import document_rows
from sae_pipeline.metrics.fidelity import TextBatch, reconstructed, scored_contexts, text_batches, token_losses
from sae_pipeline.metrics.latents.activation_quantiles import ActivationHistogram
from sae_pipeline.metrics.latents.firing import FiringStatistics
from sae_pipeline.metrics.latents.firing_entries import firing_entries
from sae_pipeline.metrics.positions.profiles import DECILE_COLUMNS, Places
from sae_pipeline.metrics.reconstruction import squared_norms, token_chunks, wide
from sae_pipeline.progress import track
from sae_pipeline.saes.inference import InferenceSAE


@dataclass(frozen=True)
class PositionText:
    """The contexts that are read; special tokens belong to no document and enter no statistic."""

    corpus: Corpus
    contexts: int
    places: Places
    document_hashes: list[str]

    @classmethod
    def of(cls, corpus: Corpus, tokens: int) -> PositionText:
        """The first contexts of a corpus that hold ``tokens`` tokens, or all of a shorter one."""
        contexts = scored_contexts(corpus, tokens)
        document = corpus.document[:contexts].long()
        used = torch.unique(document[document != SPECIAL])
        rows = document_rows(used, len(corpus.documents))
        places = Places(torch.where(document == SPECIAL, -1, rows[document.clamp(min=0)]).numpy(), len(used))
        return cls(corpus, contexts, places, corpus.documents["document_hash"].to_numpy()[used.numpy()].tolist())


class SaeReading:
    """What one SAE's latents do in one reading; per token float64 (n_contexts, context_length).

    Attributes:
        latent_mean: mean activation of all latents.
        latent_std: population standard deviation over the latents.
        mse: |x - x_hat|^2.
        document_latents: (n_documents, d_sae) float64, sums of activations.
        losses: cross-entropy in nats of the token at the position, with the reconstruction in place, NaN where not
            scored; None where it was not asked for.
    """

    def __init__(self, sae: InferenceSAE, places: Places) -> None:
        self.sae = sae
        self.latent_mean, self.latent_std, self.mse = (np.zeros(places.document.shape) for _ in range(3))
        self.document_latents = torch.zeros(places.n_documents, sae.d_sae, dtype=torch.float64)
        self.losses: np.ndarray | None = None
        self._firing = FiringStatistics(sae.d_sae)
        self._histogram = ActivationHistogram(sae.d_sae)

    def update(self, x: Tensor, document: Tensor, tokens: slice) -> None:
        """Take in tokens in order: activations (n_tokens, d_model) and documents (n_tokens,), the text's ``tokens`` when it is laid in a row."""
        x = x.to(self.sae.W_enc)
        for chunk in token_chunks(len(x), self.sae.d_sae, x.device):
            latents = self.sae.encode(x[chunk])
            spread, mean = torch.var_mean(latents, dim=1, correction=0)
            residual = wide(x[chunk]) - wide(self.sae.decode(latents))
            at = slice(tokens.start + chunk.start, tokens.start + chunk.stop)
            for kept, values in ((self.latent_mean, mean), (self.latent_std, spread.sqrt()), (self.mse, torch.linalg.vecdot(residual, residual))):
                kept.reshape(-1)[at] = values.cpu().double().numpy()
            mine = document[chunk] >= 0
            latents = latents[mine.to(latents.device)]
            self.document_latents.index_add_(0, document[chunk][mine], latents.cpu().double())
            self._firing.update(latents)
            self._histogram.update(firing_entries(latents))

    def features(self) -> pd.DataFrame:
        """One row per latent: ``latent``, ``mean``, ``std``, ``density``, and deciles ``d10`` to ``d90`` of its activation where it fires."""
        table = self._firing.table()[["latent", "mean", "std", "density"]]
        return table.join(pd.DataFrame(self._histogram.deciles(), columns=list(DECILE_COLUMNS)))


@dataclass(frozen=True)
class Reading:
    """What one reading showed; arrays per token are (n_contexts, context_length)."""

    activations: np.ndarray
    """float32 (n_contexts, context_length, d_model), of the site."""
    norm: np.ndarray
    """float64, length of the activation."""
    losses: np.ndarray | None
    """float64, cross-entropy in nats of the token at the position, NaN where not scored; None of a model that is not causal."""
    saes: dict[str, SaeReading]


@torch.inference_mode()
def read(
    text: PositionText, saes: Mapping[str, InferenceSAE], *, model: SubjectModel, hook: str, condition: Condition, seed: int, batch_size: int
) -> Reading:
    """Read the text under a condition. Intact, the model is also read with each SAE's reconstruction in place.

    Args:
        text: what is read.
        saes: SAE per name, on the model's device and for the hook's site.
        model: a subject with learned absolute positions, unless the condition is intact.
        hook: name of the site.
        condition: what becomes of the position embeddings.
        seed: which orders the embeddings are shuffled to.
        batch_size: contexts per forward pass.
    """
    length = text.corpus.context_length
    shape = (text.contexts, length)
    activations = np.empty((*shape, model.d_model), dtype=np.float32)
    norm = np.empty(shape)
    losses = np.full(shape, np.nan) if model.causal else None
    readings = {name: SaeReading(sae, text.places) for name, sae in saes.items()}
    if condition == "intact" and model.causal:
        for reading in readings.values():
            reading.losses = np.full(shape, np.nan)
    rows = torch.arange(len(text.corpus.documents))
    start = 0
    with track(f"reading with positions {condition}", text.contexts, "contexts") as progress:
        for batch in text_batches(text.corpus, rows, ce_tokens=text.contexts * length, batch_size=batch_size):
            stop = start + len(batch.tokens)
            orders = shuffled_orders(range(start, stop), length, seed) if condition == "shuffle" else None
            with positions_under(model, condition, orders):
                x, logits = _site_and_logits(model, batch.tokens, hook)
            if losses is not None and logits is not None:
                _place(losses[start:stop], logits, batch)
            activations[start:stop] = x.cpu().numpy()
            norm[start:stop] = squared_norms(x).sqrt().cpu().double().numpy()
            document = torch.from_numpy(text.places.document[start:stop]).flatten()
            for reading in readings.values():
                reading.update(x.flatten(0, 1), document, slice(start * length, stop * length))
            _with_reconstructions(model, batch, hook, readings, slice(start, stop))
            progress.advance(len(batch.tokens))
            start = stop
    return Reading(activations, norm, losses, readings)


def _site_and_logits(model: SubjectModel, tokens: Tensor, hook: str) -> tuple[Tensor, Tensor | None]:
    """The site's activations in float32, and logits where the model predicts the next token, of one forward pass."""
    if not model.causal:
        return model.capture(tokens, [hook])[hook], None
    seen: list[Tensor] = []

    def keep(x: Tensor) -> Tensor:
        seen.append(x.clone())
        return x

    logits = model.logits(tokens, (hook, keep))
    return seen[0], logits


def _with_reconstructions(model: SubjectModel, batch: TextBatch, hook: str, readings: dict[str, SaeReading], contexts: slice) -> None:
    """Losses with each SAE's reconstruction in place, for those that ask for them."""
    asking: dict[str, Any] = {name: reading.losses for name, reading in readings.items() if reading.losses is not None}
    if asking:
        splice = model.splice(batch.tokens, hook)
        for name, losses in asking.items():
            _place(losses[contexts], splice.logits(reconstructed(readings[name].sae, batch.replaced)), batch)


def _place(losses: np.ndarray, logits: Tensor, batch: TextBatch) -> None:
    """Write the losses of a batch to the positions of their targets."""
    losses[:, 1:][batch.scored.numpy()] = token_losses(logits, batch)[:, 0].numpy()

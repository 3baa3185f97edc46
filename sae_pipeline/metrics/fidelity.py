"""What replacing a site's activations does to the language model: cross-entropy and KL divergence per document and position.

Every branch (reconstruction, zero, mean) replaces the same positions, namely all that are not special, so never BOS.
Targets that are special tokens are not scored, and models that are not causal predict no next token, so nothing of
theirs is. Losses are sums in nats, credited to the target token's document and to its position in the context.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.corpora.packing import SPECIAL
from sae_pipeline.metrics.kept_streams import KeptStreams, StreamKeeper
from sae_pipeline.metrics.latents.firing_entries import firing_entries
from sae_pipeline.metrics.reconstruction import add_per_document, reconstructions, token_chunks
from sae_pipeline.progress import track
from sae_pipeline.saes.inference import InferenceSAE


@dataclass(frozen=True)
class TextBatch:
    """A few contexts of the evaluation text."""

    contexts: slice
    """Which contexts of the text they are."""
    tokens: Tensor
    """(n_contexts, context_length) int64 token ids."""
    replaced: Tensor
    """(n_contexts, context_length) bool, the positions whose activations are replaced: all but the special ones."""
    scored: Tensor
    """(n_contexts, context_length - 1) bool, whether the prediction at this position has a target that is scored."""
    rows: Tensor
    """(n_scored,) int64, the row in the document sums of each scored target, in order of context and position."""
    positions: Tensor
    """(n_scored,) int64, the position of each scored target in its context."""


@dataclass(frozen=True)
class LossSums:
    """Sums in nats over scored targets, once by document and once by position; column 0 counts the targets."""

    documents: Tensor
    """(n_documents, n_columns) float64."""
    positions: Tensor
    """(context_length, n_columns) float64."""

    @classmethod
    def zeros(cls, n_documents: int, context_length: int, columns: int) -> LossSums:
        """Nothing scored yet; ``columns`` losses beside the count."""
        return cls(*(torch.zeros(length, columns + 1, dtype=torch.float64) for length in (n_documents, context_length)))

    def add(self, batch: TextBatch, losses: Tensor) -> None:
        """Add the losses (n_scored, n_columns - 1) of a batch."""
        values = torch.cat([torch.ones_like(losses[:, :1]), losses], dim=-1)
        add_per_document(self.documents, batch.rows, values)
        add_per_document(self.positions, batch.positions, values)


def text_batches(corpus: Corpus, rows: Tensor, *, ce_tokens: int, batch_size: int) -> Iterator[TextBatch]:
    """The first ``ceil(ce_tokens / context_length)`` contexts of a corpus, ``batch_size`` at a time.

    Args:
        rows: (n_corpus_documents,) int64, row of each of the corpus's documents in the document sums.
    """
    contexts = scored_contexts(corpus, ce_tokens)
    for start in range(0, contexts, batch_size):
        chosen = slice(start, min(start + batch_size, contexts))
        replaced = corpus.document[chosen] != SPECIAL
        scored = replaced[:, 1:]
        owners = rows[corpus.document[chosen][:, 1:][scored].long()]
        yield TextBatch(chosen, corpus.tokens[chosen].long(), replaced, scored, owners, scored.nonzero()[:, 1] + 1)


def scored_contexts(corpus: Corpus, ce_tokens: int) -> int:
    """Number of contexts that cover ``ce_tokens`` tokens, or all of a shorter corpus."""
    return min(ceil(ce_tokens / corpus.context_length), corpus.n_contexts)


def token_losses(logits: Tensor, batch: TextBatch, clean: Tensor | None = None) -> Tensor:
    """Cross-entropy, and KL divergence from the clean model, of the scored targets.

    Args:
        logits: (n_contexts, context_length, vocab).
        batch: the text they belong to.
        clean: (n_contexts, context_length, vocab) log-probabilities of the clean model, or None for cross-entropy alone.

    Returns:
        (n_scored, 1 or 2) float64 on the CPU, in nats: -log q(target) and sum_v p(v) (log p(v) - log q(v)).
    """
    losses = []
    for context, text in enumerate(batch.tokens):  # one context at a time keeps its logits in cache
        keep = batch.scored[context].to(logits.device)
        log_q = torch.log_softmax(logits[context, :-1].float(), dim=-1)
        columns = [-log_q.gather(-1, text[1:, None].to(logits.device))[:, 0]]
        if clean is not None:
            log_p = clean[context, :-1]
            columns.append(torch.linalg.vecdot(log_p.exp(), log_p - log_q))
        losses.append(torch.stack(columns, dim=-1)[keep])
    return torch.cat(losses).cpu().double()


def constant(value: Tensor, replaced: Tensor) -> Callable[[Tensor], Tensor]:
    """A replacement that puts one vector (d_model,) at the positions ``replaced`` (n_contexts, context_length)."""
    return lambda x: torch.where(replaced.to(x.device)[..., None], value.to(x), x)


def reconstructed(sae: InferenceSAE, replaced: Tensor) -> Callable[[Tensor], Tensor]:
    """A replacement that puts the SAE's reconstructions at the positions ``replaced`` (n_contexts, context_length)."""

    def replace(x: Tensor) -> Tensor:
        where = replaced.to(x.device)
        inputs = x[where].to(sae.W_enc)
        outputs = []
        for chunk in token_chunks(len(inputs), sae.d_sae, inputs.device):
            latents = sae.encode(inputs[chunk])
            outputs.append(reconstructions(sae, latents, firing_entries(latents)))
        spliced = x.clone()
        spliced[where] = torch.cat([inputs[:0], *outputs]).to(x)  # contexts of padding alone have no inputs
        return spliced

    return replace


@torch.inference_mode()
def ablation_sums(
    corpus: Corpus,
    rows: Tensor,
    n_documents: int,
    *,
    model: SubjectModel,
    hook: str,
    mean: Tensor,
    ce_tokens: int,
    batch_size: int,
    keeper: StreamKeeper | None = None,
) -> LossSums:
    """Losses of the clean model and with the site ablated.

    Args:
        rows: as in :func:`text_batches`.
        mean: (d_model,) the activation put in place by mean ablation.
        keeper: what the streams of the clean passes are handed to.

    Returns:
        Scored targets, and the sums of clean, zero-ablated and mean-ablated losses; zeros when the model is not causal.
    """
    sums = LossSums.zeros(n_documents, corpus.context_length, 3)
    if not model.causal:
        return sums
    with track("cross-entropy of clean and ablated model", scored_contexts(corpus, ce_tokens), "contexts") as progress:
        for batch in text_batches(corpus, rows, ce_tokens=ce_tokens, batch_size=batch_size):
            splice = model.splice(batch.tokens, hook)
            branches = [splice.clean, *(splice.logits(constant(value, batch.replaced)) for value in (torch.zeros_like(mean), mean))]
            sums.add(batch, torch.cat([token_losses(logits, batch) for logits in branches], dim=-1))
            if keeper is not None:
                keeper.take(splice.streams)
            progress.advance(len(batch.tokens))
    return sums


@torch.inference_mode()
def fidelity_sums(
    saes: Mapping[str, InferenceSAE],
    corpus: Corpus,
    rows: Tensor,
    n_documents: int,
    *,
    model: SubjectModel,
    hook: str,
    ce_tokens: int,
    batch_size: int,
    streams: KeptStreams,
) -> dict[str, LossSums]:
    """Losses with each SAE's reconstruction in place.

    Where a text's streams were not kept, the clean model, and its blocks before the hook, run once per batch for all SAEs.

    Args:
        rows: as in :func:`text_batches`.
        streams: those of the clean model on the same text.

    Returns:
        Per SAE scored targets, sum of losses and sum of KL divergences; zeros when the model is not causal.
    """
    sums = {name: LossSums.zeros(n_documents, corpus.context_length, 2) for name in saes}
    if not model.causal:
        return sums
    with track(f"cross-entropy with {len(saes)} SAEs", scored_contexts(corpus, ce_tokens) * len(saes), "contexts") as progress:
        for batch in text_batches(corpus, rows, ce_tokens=ce_tokens, batch_size=batch_size):
            splice = model.splice(batch.tokens, hook, streams.of(batch.contexts))
            clean = torch.log_softmax(splice.clean, dim=-1)
            for name, sae in saes.items():
                sums[name].add(batch, token_losses(splice.logits(reconstructed(sae, batch.replaced)), batch, clean))
                progress.advance(len(batch.tokens))
    return sums

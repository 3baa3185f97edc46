"""Ranking by meaning: cosine between the embedding of a document and that of the keywords.

Embeddings come from a sentence-transformers model, or from the subject model itself: the mean of its activations over
a document, which needs no second model and ranks by what the subject, and so the SAE, can tell apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from sae_pipeline.corpora.documents import Document
from sae_pipeline.errors import BadInput

if TYPE_CHECKING:
    from sae_pipeline.activations.subject import SubjectModel
    from sae_pipeline.corpora.tokenization import TextTokenizer

NO_TEXT = -1.0
"""Score of a document without an embedding: the lowest cosine."""


class Encoder(Protocol):
    """Anything that turns documents and keywords into vectors whose cosines mean something."""

    def embed(self, documents: Sequence[Document], keywords: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Embeddings float (n_documents, width) and (n_keywords, width); a zero row where there is nothing to embed."""
        ...


class SentenceEncoder:
    """A sentence-transformers model, which cuts long texts at its own context limit.

    Args:
        model: hub id or local folder.
        device: where it runs.
        revision: commit of a hub id.

    Raises:
        BadInput: the package is not installed, or the model cannot be loaded.
    """

    def __init__(self, model: str, device: str, revision: str | None = None) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise BadInput(
                f"encoder: expected the package sentence-transformers for the encoder {model}, found it not installed; "
                "pip install sentence-transformers, or set encoder: subject"
            ) from None
        try:
            self._model = SentenceTransformer(
                model, device=device, revision=revision, trust_remote_code=False, model_kwargs={"use_safetensors": True}
            )
        except Exception as error:  # the hub client, transformers and safetensors each raise their own kinds
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise BadInput(
                f"encoder: expected a sentence-transformers model, found {model}, which cannot be loaded ({reason}); correct the name"
            ) from error

    def embed(self, documents: Sequence[Document], keywords: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Encoder`."""
        return self._encoded([document.text for document in documents]), self._encoded(list(keywords))

    def _encoded(self, texts: list[str]) -> np.ndarray:
        return np.asarray(self._model.encode(texts, show_progress_bar=False, convert_to_numpy=True))


class SubjectEncoder:
    """Mean activation of the subject model over a document at one hook, special tokens left out.

    From each token's activation the mean of the ranked documents at the same position is taken off first. Without it all
    cosines are nearly 1, because residual streams share a large common component (Mu & Viswanath 2018), and keywords,
    which have early positions only, find short documents rather than those about them.

    Args:
        subject: the loaded model.
        tokenizer: its tokenizer.
        hook: from ``subject.hook_name``.
        context_length: longer documents are cut to this many tokens, BOS included.
    """

    def __init__(self, subject: SubjectModel, tokenizer: TextTokenizer, hook: str, context_length: int) -> None:
        self.subject, self.tokenizer, self.hook, self.context_length = subject, tokenizer, hook, context_length

    def embed(self, documents: Sequence[Document], keywords: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Encoder`."""
        total = np.zeros((self.context_length, self.subject.d_model))
        count = np.zeros(self.context_length, np.int64)
        pooled, positions = self._pooled(documents, total, count)
        asked, asked_positions = self._pooled([Document(keyword, f"keyword {keyword}") for keyword in keywords])
        if sum(len(each) > 0 for each in positions) > 1:  # the mean of a single document would leave nothing of it
            # a keyword may be longer than every document: there the mean over all positions stands in
            common = np.where(count[:, None] > 0, total / np.maximum(count, 1)[:, None], total.sum(0) / count.sum())
            for embedded, places in ((pooled, positions), (asked, asked_positions)):
                for row, at in zip(embedded, places, strict=True):
                    if len(at):
                        row -= common[at].mean(0)
        return pooled, asked

    def _pooled(
        self, documents: Sequence[Document], total: np.ndarray | None = None, count: np.ndarray | None = None
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        """Mean activation of every document and the positions it is over; adds to sums and counts by position where given."""
        from sae_pipeline.corpora.retrieval.document_activations import document_activations

        pooled = np.zeros((len(documents), self.subject.d_model))
        positions = [np.zeros(0, np.int32)] * len(documents)
        for index, at, rows in document_activations(self.subject, self.tokenizer, documents, self.hook, self.context_length, "embedding"):
            if not len(rows):
                continue
            exact, places = rows.cpu().double().numpy(), at.cpu().numpy()
            pooled[index], positions[index] = exact.mean(0), places.astype(np.int32)
            if total is not None and count is not None:
                total[places] += exact  # a document has each position once
                count[places] += 1
        return pooled, positions


def rank_by_embedding(documents: Sequence[Document], keywords: Sequence[str], encoder: Encoder) -> np.ndarray:
    """Cosine between each document's embedding and the mean of the keywords' embeddings; float64 (n,), -1 without text.

    The keywords' embeddings are scaled to unit norm before their mean, so that each counts the same.

    Raises:
        BadInput: the keywords have no embedding.
    """
    embedded, query = (np.asarray(rows, np.float64) for rows in encoder.embed(documents, keywords))
    direction = _unit(_unit(query).sum(0, keepdims=True))[0]
    if not direction.any():
        raise BadInput(f"keywords: expected text that the encoder can embed, found {', '.join(keywords) or 'none'}; give words to look for")
    return np.where(embedded.any(axis=1), _unit(embedded) @ direction, NO_TEXT)


def _unit(rows: np.ndarray) -> np.ndarray:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norm, out=np.zeros_like(rows), where=norm > 0)

"""Activations of single documents, each in a context of its own: what dense retrieval pools and TracIn differentiates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sae_pipeline.corpora.documents import Document
from sae_pipeline.corpora.tokenization import token_ids
from sae_pipeline.progress import track

if TYPE_CHECKING:
    from sae_pipeline.activations.subject import SubjectModel
    from sae_pipeline.corpora.tokenization import TextTokenizer

DOCUMENTS_AT_ONCE = 1_024
"""Documents tokenized together; among them those of equal length share forward passes."""

BATCH_TOKENS = 4_096
"""Tokens of a forward pass, BOS included."""


def document_activations(
    subject: SubjectModel, tokenizer: TextTokenizer, documents: Sequence[Document], hook: str, context_length: int, label: str
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Index of a document, positions int64 (n_tokens,) and activations at ``hook`` float32 (n_tokens, d_model); not in order.

    A document is read after BOS and cut at ``context_length`` tokens, BOS included. BOS and the tokenizer's special tokens
    are left out, so a document may have no row; position 0 is the document's first token. Tensors are on the model's device. Only documents of equal length are batched: there is no padding.

    Raises:
        SubjectError: the context is longer than the model's positions.
    """
    subject.check_context(context_length)
    special = torch.tensor(sorted(tokenizer.special_ids), dtype=torch.long)
    with track(label, len(documents), "documents") as progress:
        for start in range(0, len(documents), DOCUMENTS_AT_ONCE):
            of_length: defaultdict[int, list[tuple[int, list[int]]]] = defaultdict(list)
            held = documents[start : start + DOCUMENTS_AT_ONCE]
            for index, ids in enumerate(token_ids(tokenizer, held), start):
                of_length[min(len(ids), context_length - 1)].append((index, ids[: context_length - 1]))
            for length in sorted(of_length):
                members = iter(of_length[length])
                while batch := list(islice(members, max(1, BATCH_TOKENS // (length + 1)))):
                    tokens = torch.tensor([[tokenizer.bos_id, *ids] for _, ids in batch])
                    captured = subject.capture(tokens, [hook])[hook][:, 1:]
                    usable = ~torch.isin(tokens[:, 1:], special).to(captured.device)
                    for row, (index, _) in enumerate(batch):
                        yield index, usable[row].nonzero().squeeze(1), captured[row][usable[row]]
                    progress.advance(len(batch))

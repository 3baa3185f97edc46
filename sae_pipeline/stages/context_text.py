"""The text around the tokens that latents fire on most strongly: each token once, however many latents point at it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import corpora, subject
from sae_pipeline.stages.context import StudyContext

if TYPE_CHECKING:
    import pandas as pd

TOKENS_AROUND = 16
"""Tokens shown on either side of a token, fewer at the ends of its context."""

COLUMNS: dict[str, Any] = {
    "evaluation_set": "string",
    "context": int,
    "position": int,
    "document": int,
    "token": int,
    "before": "string",
    "text": "string",
    "after": "string",
}
"""Columns and their types, which an empty table has too."""


def rows(ctx: StudyContext, top_contexts: pd.DataFrame) -> pd.DataFrame:
    """One row per token of an evaluation set that the table ``top_contexts`` names, in the order of the text.

    ``token`` is its id, ``text`` what it stands for, ``before`` and ``after`` the text of the tokens around it, across
    documents as they are packed.
    """
    import pandas as pd

    from sae_pipeline.corpora.corpus import Corpus

    model = subject.need(ctx)
    tokenizer = model.tokenizer()
    found: list[tuple[Any, ...]] = []
    for name, named in top_contexts.groupby("evaluation_set", sort=False):
        corpus = Corpus.load(corpora.need(ctx, f"held_out/{name}"))
        for context, position in sorted(set(zip(named["context"].tolist(), named["position"].tolist(), strict=True))):
            tokens = corpus.tokens[context].tolist()
            around = tokens[max(position - TOKENS_AROUND, 0) : position], [tokens[position]], tokens[position + 1 : position + 1 + TOKENS_AROUND]
            before, text, after = tokenizer.decode(list(around))
            document = int(corpus.document[context, position])
            found.append((name, context, position, document, tokens[position], before, text, after))
    return pd.DataFrame(found, columns=list(COLUMNS)).astype(COLUMNS)

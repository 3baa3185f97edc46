"""How often each token of the vocabulary occurs in a corpus, by source: what the analysis of concepts ranks its tokens by."""

from __future__ import annotations

import numpy as np
import pandas as pd

from sae_pipeline.corpora.packing import SPECIAL
from sae_pipeline.corpora.statistics import CorpusText
from sae_pipeline.errors import SubjectError

TOKENS_AT_ONCE = 2**20
"""Tokens counted together: a few MB, whatever the size of the corpus."""

RANK_COLUMNS = {
    "source": ("source the tokens are counted in", ""),
    "rank": ("place by count in this source, 1 for the most frequent; powers of ten, and ranks evenly spaced on a logarithmic axis", ""),
    "count": ("occurrences of the token of that rank", "tokens"),
    "share": ("count / all tokens of the source", "share"),
    "cumulative_share": ("share of the tokens of the source that ranks up to this one make up", "share"),
}
"""Columns of :func:`rank_frequency`: name, meaning, unit."""


def token_frequencies(corpus: CorpusText, vocab_size: int) -> pd.DataFrame:
    """Occurrences of every token, one row per id in ``[0, vocab_size)`` whether it occurs or not.

    Special positions (document -1) are not counted; an id that is special elsewhere but stands for text here is.

    Returns:
        ``token`` (its id), ``count_<source>`` (occurrences in the contexts of the source), ``total`` (in the corpus) and ``rank``
        (place by total, 1 for the most frequent; equal totals in the order of their ids).

    Raises:
        SubjectError: the corpus holds an id of ``vocab_size`` or more.
    """
    names = list(corpus.summary["sources"])
    counts = np.zeros((len(names), vocab_size), np.int64)
    contexts, context_length = corpus.tokens.shape
    step = max(TOKENS_AT_ONCE // context_length, 1)
    for start in range(0, contexts, step):
        tokens, document, source = (np.asarray(part[start : start + step]) for part in (corpus.tokens, corpus.document, corpus.source))
        counted = document != SPECIAL
        for number in np.unique(source):
            found = np.bincount(tokens[counted & (source == number)[:, None]], minlength=vocab_size)
            if len(found) > vocab_size:
                raise SubjectError(
                    f"source {names[number]}: expected token ids below the vocabulary size {vocab_size}, found {len(found) - 1}; "
                    "count with the tokenizer that the corpus was packed with"
                )
            counts[number] += found
    total = counts.sum(0)
    rank = np.empty(vocab_size, np.int64)
    rank[np.argsort(-total, kind="stable")] = np.arange(1, vocab_size + 1)
    by_source = {f"count_{name}": counts[number] for number, name in enumerate(names)}
    return pd.DataFrame({"token": np.arange(vocab_size), **by_source, "total": total, "rank": rank})


def rank_frequency(frequencies: pd.DataFrame, points: int = 200) -> pd.DataFrame:
    """Count against rank of each source, at ranks evenly spaced on a logarithmic axis and at every power of ten; columns :data:`RANK_COLUMNS`.

    Args:
        frequencies: from :func:`token_frequencies`; columns of sources without a token are passed over.
        points: evenly spaced ranks per source.
    """
    tables = []
    for column in (name for name in frequencies.columns if name.startswith("count_")):
        counts = np.sort(frequencies[column].fillna(0).to_numpy(np.int64))[::-1]
        counts = counts[counts > 0]
        if not len(counts):
            continue
        tens = 10 ** np.arange(len(str(len(counts))))
        ranks = np.union1d(np.geomspace(1, len(counts), points).round().astype(np.int64), tens)
        shown, upto = counts[ranks - 1], np.cumsum(counts)[ranks - 1]
        name = column.removeprefix("count_")
        table = {"source": name, "rank": ranks, "count": shown, "share": shown / counts.sum(), "cumulative_share": upto / counts.sum()}
        tables.append(pd.DataFrame(table))
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(RANK_COLUMNS))

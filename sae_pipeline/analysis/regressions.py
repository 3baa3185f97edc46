"""What got worse from one recorded evaluation to the next: a new version of an SAE on the same text, or the same SAE on new text.

On the same window two versions are paired by document. On another window the same SAE meets other documents, so each side is
resampled on its own, and a difference that is no fault of the SAE's is told by being shared: it is reported, and held against
the tolerance like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sae_pipeline.analysis.bootstrap import document_weights, percentile_interval

COLUMNS: dict[str, Any] = {
    "sae_id": "string", "evaluation_set": "string", "compared": "string", "recorded": "string", "held_out_window": int, "against": "string", "against_window": int,
    "before": float, "after": float, "change": float, "low": float, "high": float, "documents": int, "worse": bool,
}  # fmt: skip
"""Columns and types of the table, which an empty one has too."""

NEW_VERSION, NEW_TEXT = "a new version on the same text", "the same SAE on other text"


def regressions(
    records: Sequence[tuple[dict[str, Any], pd.DataFrame]], *, tolerance: float, bootstrap_samples: int, confidence: float, seed: int
) -> pd.DataFrame:
    """Changes of explained variance in the latest record, one row per SAE, evaluation set and kind of comparison.

    A document's share of the variance is its squared error over that of the whole set, which is held fixed while documents
    are resampled; both versions have the same one on the same text.

    Args:
        records: (about, documents) of every record, oldest first; ``about`` holds ``recorded``, ``window`` and ``saes``
            (fingerprint by id), ``documents`` the columns sae_id, evaluation_set, document_hash, n, sse, variance.
        tolerance: a fall of explained variance up to this is none.
        bootstrap_samples, confidence, seed: of the intervals.

    Returns:
        Columns of :data:`COLUMNS`; ``worse`` where the interval of ``change`` lies below minus the tolerance.
    """
    rows: list[dict[str, Any]] = []
    if records:
        latest, documents = records[-1]
        earlier = records[:-1]
        for (sae_id, name), now in documents.groupby(["sae_id", "evaluation_set"], sort=False):
            for kind, about, then in _comparable(str(sae_id), str(name), latest, earlier):
                change = _change(now, then, kind == NEW_VERSION, str(name), bootstrap_samples, confidence, seed)
                where = {
                    "recorded": latest["recorded"],
                    "held_out_window": latest["window"],
                    "against": about["recorded"],
                    "against_window": about["window"],
                }
                rows.append({"sae_id": sae_id, "evaluation_set": name, "compared": kind} | where | change | {"worse": change["high"] < -tolerance})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _comparable(
    sae_id: str, name: str, latest: dict[str, Any], earlier: Sequence[tuple[dict[str, Any], pd.DataFrame]]
) -> list[tuple[str, dict[str, Any], pd.DataFrame]]:
    """The last record of another version on the same window, and the last of the same version on another one."""
    found: dict[str, tuple[str, dict[str, Any], pd.DataFrame]] = {}
    for about, documents in earlier:
        if sae_id not in about["saes"]:
            continue
        same_sae, same_text = about["saes"][sae_id] == latest["saes"][sae_id], about["window"] == latest["window"]
        if same_sae == same_text:
            continue
        then = documents[(documents["sae_id"] == sae_id) & (documents["evaluation_set"] == name)]
        if len(then):
            kind = NEW_TEXT if same_sae else NEW_VERSION
            found[kind] = kind, about, then
    return list(found.values())


def _change(now: pd.DataFrame, then: pd.DataFrame, paired: bool, name: str, samples: int, confidence: float, seed: int) -> dict[str, Any]:
    """Explained variance then and now, and the change with its interval."""
    now, then = (side.sort_values("document_hash", kind="stable") for side in (now, then))
    same_documents = paired and now["document_hash"].tolist() == then["document_hash"].tolist()
    weights = [document_weights(seed, name, side["document_hash"].tolist(), samples) for side in (now, then)]
    if same_documents:
        weights[1] = weights[0]
    after, before = (_explained(side, np.vstack([np.ones(len(side)), drawn])) for side, drawn in zip((now, then), weights, strict=True))
    change = after - before
    low, high = percentile_interval(change[1:], confidence)
    return {
        "before": before[0], "after": after[0], "change": change[0], "low": low, "high": high,
        "documents": len(now) if same_documents else len(now) + len(then),
    }  # fmt: skip


def _explained(side: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Explained variance in each sample of documents, (1 + samples,): the set's variance per token is held fixed."""
    tokens, errors = weights @ side["n"].to_numpy(float), weights @ side["sse"].to_numpy(float)
    per_token = side["variance"].iloc[0] / side["n"].sum()
    explained: np.ndarray = 1 - errors / (tokens * per_token)
    return explained

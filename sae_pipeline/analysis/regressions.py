"""What got worse from one recorded evaluation to the next: a new version of an SAE on the same text, or the same SAE on other text.

On the same text two versions are paired by document. On other text each side is resampled on its own, and a difference that is
no fault of the SAE's is told by being shared: it is reported, and held against the tolerance like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtr

from sae_pipeline.analysis.bootstrap import document_weights, percentile_interval
from sae_pipeline.analysis.significance import holm

COLUMNS: dict[str, Any] = {
    "sae_id": "string", "evaluation_set": "string", "compared": "string", "recorded": "string", "held_out_window": int, "against": "string", "against_window": int,
    "before": float, "after": float, "change": float, "low": float, "high": float, "p_value": float, "p_adjusted": float, "documents": int, "worse": bool,
}  # fmt: skip
"""Columns and types of the table, which an empty one has too."""

NEW_VERSION, NEW_TEXT = "a new version on the same text", "the same SAE on other text"

Recorded = tuple[dict[str, Any], pd.DataFrame]
"""What a record says of itself (``recorded``, ``window``, ``text``, and ``saes``: fingerprint by id) and its documents."""


def regressions(records: Sequence[Recorded], *, tolerance: float, bootstrap_samples: int, confidence: float, seed: int) -> pd.DataFrame:
    """Changes of explained variance in the latest record, one row per SAE, evaluation set and kind of comparison.

    Squared errors and the variance that they are a share of are resampled together, document by document.

    Args:
        records: oldest first; documents have the columns sae_id, evaluation_set, document_hash, n, sse, and sst (squared
            distances from the mean of the whole set).
        tolerance: a fall of explained variance up to this is none.
        bootstrap_samples, confidence, seed: of the intervals.

    Returns:
        Columns of :data:`COLUMNS`. ``p_value`` is that of a fall beyond the tolerance, one-sided and from the spread of the
        resamples; ``p_adjusted`` is Holm's correction over all rows, and ``worse`` where it is at most half of one minus the
        confidence.
    """
    rows: list[dict[str, Any]] = []
    if records:
        (latest, documents), earlier = records[-1], records[:-1]
        for (sae_id, name), now in documents.groupby(["sae_id", "evaluation_set"], sort=False):
            for kind, about, then in _comparable(str(sae_id), str(name), latest, earlier):
                before, after, resampled, seen = _resampled(now, then, kind == NEW_VERSION, str(name), bootstrap_samples, seed)
                low, high = percentile_interval(resampled, confidence)
                rows.append(
                    {"sae_id": sae_id, "evaluation_set": name, "compared": kind, "recorded": latest["recorded"], "held_out_window": latest["window"]}
                    | {"against": about["recorded"], "against_window": about["window"], "before": before, "after": after, "change": after - before}
                    | {"low": low, "high": high, "p_value": _p_value(after - before + tolerance, resampled), "documents": seen}
                )
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row |= {"p_adjusted": adjusted, "worse": adjusted <= (1 - confidence) / 2}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _comparable(sae_id: str, name: str, latest: dict[str, Any], earlier: Sequence[Recorded]) -> list[tuple[str, dict[str, Any], pd.DataFrame]]:
    """The last record of another version on the same text, and the last of the same version on other text."""
    found: dict[str, tuple[str, dict[str, Any], pd.DataFrame]] = {}
    for about, documents in earlier:
        if sae_id not in about["saes"]:
            continue
        same_sae, same_text = about["saes"][sae_id] == latest["saes"][sae_id], about["text"] == latest["text"]
        then = documents[(documents["sae_id"] == sae_id) & (documents["evaluation_set"] == name)]
        if same_sae != same_text and len(then):
            kind = NEW_TEXT if same_sae else NEW_VERSION
            found[kind] = kind, about, then
    return list(found.values())


def _resampled(now: pd.DataFrame, then: pd.DataFrame, paired: bool, name: str, samples: int, seed: int) -> tuple[float, float, np.ndarray, int]:
    """Explained variance before and after, the change in each resample of the documents, and how many documents there are."""
    now, then = (side.sort_values("document_hash", kind="stable") for side in (now, then))
    same = paired and now["document_hash"].tolist() == then["document_hash"].tolist()
    drawn = [document_weights(seed, name, side["document_hash"].tolist(), samples) for side in (now, then)]
    if same:
        drawn[1] = drawn[0]
    after, before = (_explained(side, np.vstack([np.ones(len(side)), weights])) for side, weights in zip((now, then), drawn, strict=True))
    return float(before[0]), float(after[0]), (after - before)[1:], len(now) if same else len(now) + len(then)


def _explained(side: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Explained variance in each sample of documents, (samples,)."""
    explained: np.ndarray = 1 - (weights @ side["sse"].to_numpy(float)) / (weights @ side["sst"].to_numpy(float))
    return explained


def _p_value(change: float, resampled: np.ndarray) -> float:
    """Chance of a change this far below zero where there is none; normal, because resamples are too few to have tails."""
    spread = float(np.std(resampled))
    return float(ndtr(change / spread)) if spread > 0 else float(change >= 0)

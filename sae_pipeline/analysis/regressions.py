"""What got worse from one recorded evaluation to the next: a new version of an SAE on the same text, or the same SAE on other text.

On the same text, which is the same documents, two versions are paired by document. On other text each side is resampled on its
own, and a difference that is no fault of the SAE's is told by being shared: it is reported, and held against the tolerance like
any other. An SAE that the latest evaluation lacks though the study declares it has become worse without a figure.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from math import isfinite, nan
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import stdtr

from sae_pipeline.analysis.bootstrap import FEW_DOCUMENTS, document_weights, percentile_interval
from sae_pipeline.analysis.significance import holm

COLUMNS: dict[str, Any] = {
    "sae_id": "string", "evaluation_set": "string", "compared": "string", "recorded": "string", "held_out_window": int, "against": "string", "against_window": int,
    "before": float, "after": float, "change": float, "low": float, "high": float, "p_value": float, "p_adjusted": float, "documents": int, "worse": bool,
    "note": "string",
}  # fmt: skip
"""Columns and types of the table, which an empty one has too."""

NEW_VERSION, NEW_TEXT = "a new version on the same text", "the same SAE on other text"
NOT_EVALUATED = "a new version without an evaluation"

ROUNDING = 1e-12
"""Resamples whose explained variance differs by less than this differ in nothing but the order of a sum."""

Recorded = tuple[dict[str, Any], pd.DataFrame]
"""What a record says of itself (``recorded``, ``window``, ``text``, and ``saes``: fingerprint by id) and its documents."""


def regressions(
    records: Sequence[Recorded], *, declared: Collection[str] = (), tolerance: float, bootstrap_samples: int, confidence: float, seed: int
) -> pd.DataFrame:
    """Changes of explained variance in the latest record, one row per SAE, evaluation set and kind of comparison.

    Squared errors and the variance that they are a share of are resampled together, document by document.

    Args:
        records: oldest first; documents have the columns sae_id, evaluation_set, document_hash, n, sse, and sst (squared
            distances from the mean of the whole set).
        declared: ids of the study's SAEs. Those of them that an earlier record has and the latest lacks get a row without
            ``after``; one that the study has given up gets none.
        tolerance: a fall of explained variance up to this is none.
        bootstrap_samples, confidence, seed: of the intervals.

    Returns:
        Columns of :data:`COLUMNS`. ``p_value`` is that of a fall beyond the tolerance, one-sided and from the spread of the
        resamples; nan where nothing varies between them, or a side has no value. ``p_adjusted`` is Holm's correction over all
        rows. ``worse`` where that is at most half of one minus the confidence, and where a value was there and is no more.
        ``documents`` counts each text once.
    """
    rows: list[dict[str, Any]] = []
    if records:
        (latest, documents), earlier = records[-1], records[:-1]
        about = {"recorded": latest["recorded"], "held_out_window": latest["window"]}
        for (sae_id, name), now in documents.groupby(["sae_id", "evaluation_set"], sort=False):
            for kind, then_about, then in _comparable(str(sae_id), str(name), latest, now, earlier):
                before, after, resampled = _resampled(now, then, kind == NEW_VERSION, str(name), bootstrap_samples, seed)
                fewest, distinct = min(_texts(now), _texts(then)), _texts(pd.concat([now, then]))
                p = _p_value(after - before + tolerance, resampled, fewest)
                low, high = percentile_interval(resampled, confidence) if isfinite(p) else (nan, nan)
                notes = [_about_values(before, after, p) or _about_documents(fewest, str(name))]
                if kind == NEW_VERSION and then_about["text"] != latest["text"]:
                    notes.append("the settings or the program of the evaluation changed in between, which may be a part of the change")
                rows.append(
                    {"sae_id": sae_id, "evaluation_set": name, "compared": kind} | about | _against(then_about)
                    | {"before": before, "after": after, "change": after - before, "low": low, "high": high, "p_value": p, "documents": distinct}
                    | {"note": "; ".join(filter(None, notes))}
                )  # fmt: skip
        for sae_id, name, then_about, then in _lost(latest, documents, earlier, declared):
            before = _explained_variance(then)
            rows.append(
                {"sae_id": sae_id, "evaluation_set": name, "compared": NOT_EVALUATED} | about | _against(then_about)
                | {"before": before, "after": nan, "change": nan, "low": nan, "high": nan, "p_value": nan, "documents": _texts(then)}
                | {"note": "the SAE is not in the latest evaluation, for example because it diverged"}
            )  # fmt: skip
    for row, adjusted in zip(rows, holm([row["p_value"] for row in rows]), strict=True):
        row |= {"p_adjusted": adjusted, "worse": adjusted <= (1 - confidence) / 2 or (isfinite(row["before"]) and not isfinite(row["after"]))}
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _against(about: dict[str, Any]) -> dict[str, Any]:
    return {"against": about["recorded"], "against_window": about["window"]}


def _comparable(
    sae_id: str, name: str, latest: dict[str, Any], now: pd.DataFrame, earlier: Sequence[Recorded]
) -> list[tuple[str, dict[str, Any], pd.DataFrame]]:
    """The last record of another version on the same documents, and the last of the same version on others.

    A record's ``text`` says more than which documents were read: it also changes with the settings and the program of the evaluation.
    """
    found: dict[str, tuple[str, dict[str, Any], pd.DataFrame]] = {}
    for about, documents in earlier:
        if sae_id not in about["saes"]:
            continue
        then = documents[(documents["sae_id"] == sae_id) & (documents["evaluation_set"] == name)]
        same_sae, same_text = about["saes"][sae_id] == latest["saes"][sae_id], sorted(then["document_hash"]) == sorted(now["document_hash"])
        if same_sae != same_text and len(then):
            kind = NEW_TEXT if same_sae else NEW_VERSION
            found[kind] = kind, about, then
    return list(found.values())


def _lost(
    latest: dict[str, Any], documents: pd.DataFrame, earlier: Sequence[Recorded], declared: Collection[str]
) -> Iterator[tuple[str, str, dict[str, Any], pd.DataFrame]]:
    """Declared SAEs that the latest record lacks, on each of its evaluation sets, with the last record that has them there."""
    for sae_id in sorted(set(declared) - set(latest["saes"])):
        for name in dict.fromkeys(documents["evaluation_set"]) or dict.fromkeys(earlier[-1][1]["evaluation_set"] if earlier else ()):
            found = [(about, then[(then["sae_id"] == sae_id) & (then["evaluation_set"] == name)]) for about, then in earlier]
            if having := [(about, then) for about, then in found if len(then)]:
                yield sae_id, str(name), *having[-1]


def _resampled(now: pd.DataFrame, then: pd.DataFrame, paired: bool, name: str, samples: int, seed: int) -> tuple[float, float, np.ndarray]:
    """Explained variance before and after, and the change in each resample of the documents."""
    now, then = (side.sort_values("document_hash", kind="stable") for side in (now, then))
    drawn = [document_weights(seed, name, side["document_hash"].tolist(), samples) for side in (now, then)]
    if paired:
        drawn[1] = drawn[0]
    after, before = (_explained(side, weights) for side, weights in zip((now, then), drawn, strict=True))
    return _explained_variance(then), _explained_variance(now), after - before


def _explained_variance(side: pd.DataFrame) -> float:
    """Explained variance on the documents as they are; nan where their sums are missing or infinite, as those of a diverged SAE."""
    value = float(_explained(side, np.ones((1, len(side))))[0])
    return value if isfinite(value) else nan


def _explained(side: pd.DataFrame, weights: np.ndarray) -> np.ndarray:
    """Explained variance in each sample of documents, (samples,)."""
    with np.errstate(invalid="ignore"):  # infinite errors of a diverged SAE in a resample that leaves their document out
        explained: np.ndarray = 1 - (weights @ side["sse"].to_numpy(float)) / (weights @ side["sst"].to_numpy(float))
    return explained


def _texts(side: pd.DataFrame) -> int:
    """Distinct documents: a set of several sources may hold one text twice, and two sides may share texts."""
    return int(side["document_hash"].nunique())


def _p_value(change: float, resampled: np.ndarray, documents: int) -> float:
    """Chance of a change this far below zero where there is none; nan where the resamples do not vary.

    By Student's distribution, because resamples are too few to have tails, with one degree of freedom less than the documents of
    the smaller side has: their spread is estimated. A resample of n documents varies as if they were all there are, which is less
    by (n - 1) / n in the variance.
    """
    spread = float(np.std(resampled[np.isfinite(resampled)])) if isfinite(change) else nan
    if documents < 2 or not spread > ROUNDING:
        return nan
    return float(stdtr(documents - 1, change / (spread * (documents / (documents - 1)) ** 0.5)))


def _about_values(before: float, after: float, p_value: float) -> str:
    """Why a change cannot be tested; empty where it can."""
    lacking = [when for when, value in (("before", before), ("after", after)) if not isfinite(value)]
    if lacking:
        return f"no value {' and '.join(lacking)}, for example because the SAE diverged"
    return "" if isfinite(p_value) else "nothing that was resampled varies, so there is no interval and no test"


def _about_documents(documents: int, name: str) -> str:
    """That the documents of an evaluation set are few."""
    return f"fewer than {FEW_DOCUMENTS} documents in {name}, so the interval may be too narrow" if documents < FEW_DOCUMENTS else ""

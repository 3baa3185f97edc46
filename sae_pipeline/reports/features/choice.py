"""Which latents get a place on a page: those that the tables speak of, and an even sample of the rest so that the pages are no selection of oddities."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pandas as pd

from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.reports.wording import decimal, percent

LATENTS_PER_SAE = 24
"""Latents on one page: about 60 kB of text."""

LATENTS_IN_ALL = 2_000
"""Latents on all pages: with more SAEs each page gets fewer, so that the pages stay within about 6 MB."""

DENSE = 0.1
"""Latents that fire on more than this share of tokens are called dense: the lowest cut of ``dense_share``."""

Reasons = dict[tuple[str, int], list[str]]
"""Why each latent is shown, by SAE and latent."""


def per_page(saes: int) -> int:
    """How many latents a page shows where there are that many SAEs."""
    return max(1, min(LATENTS_PER_SAE, LATENTS_IN_ALL // max(saes, 1)))


def chosen_latents(frames: StudyFrames, stats: pd.DataFrame) -> Reasons:
    """The latents shown, each with why: dense ones, orphans, shared ones, and an even sample of all that fired.

    Args:
        frames: the study; the matching tables are read where it has them.
        stats: rows of ``feature_stats`` of one evaluation set.
    """
    most = per_page(len(frames.tables.saes))
    quota = max(1, most // 4)
    reasons: Reasons = {}
    for candidates, limit in ((_dense(stats), quota), (_orphans(frames), 2 * quota), (_shared(frames), 3 * quota)):
        _add(reasons, candidates, min(limit, most))
    _fill(reasons, stats, most)
    return reasons


def kind_of(reason: str) -> str:
    """The first words of a reason: dense, orphan, shared, or that it is one of a sample."""
    return reason.split(":")[0]


Candidates = Iterator[tuple[str, int, str]]


def _add(reasons: Reasons, candidates: Candidates, limit: int) -> None:
    """Take candidates in their order until an SAE has ``limit`` latents; one that is in for another kind of reason gets this one too."""
    count = Counter(sae_id for sae_id, _ in reasons)
    for sae_id, latent, reason in candidates:
        if (sae_id, latent) in reasons:
            if kind_of(reason) not in map(kind_of, reasons[sae_id, latent]):
                reasons[sae_id, latent].append(reason)
        elif count[sae_id] < limit:
            reasons[sae_id, latent] = [reason]
            count[sae_id] += 1


def _dense(stats: pd.DataFrame) -> Candidates:
    found = stats[stats["density"] > DENSE].sort_values("density", ascending=False, kind="stable")
    for row in rows_of(found):
        yield row.sae_id, int(row.latent), f"dense: fires on {percent(row.density)} of the tokens"


def _orphans(frames: StudyFrames) -> Candidates:
    if frames.matching is None:
        return
    for row in rows_of(frames.matching["orphan_features"].sort_values("density", ascending=False, kind="stable")):
        reason = f"orphan: its nearest direction in SAEs that differ in the {row.factor} alone has cosine {decimal(row.best_cosine, 2)}"
        yield row.sae_id, int(row.latent), reason


def _shared(frames: StudyFrames) -> Candidates:
    """Both latents of the pairs that two training mixes (or, where there is one, any two SAEs) share most clearly."""
    if frames.matching is None:
        return
    pairs = frames.matching["one_to_one"][["sae_id", "other_sae_id", "factor", "threshold"]].drop_duplicates()
    near = frames.matching["feature_neighbours"]
    near = near[near["matched_one_to_one"].astype(bool)].merge(pairs, on=["sae_id", "other_sae_id"])
    near = near[near["cosine"] > near["threshold"]]
    of_mix = near[near["factor"] == "mix"]
    near = of_mix if len(of_mix) else near
    for row in rows_of(near.sort_values("cosine", ascending=False, kind="stable")):
        for one, latent, other, other_latent in (
            (row.sae_id, row.latent, row.other_sae_id, row.other_latent),
            (row.other_sae_id, row.other_latent, row.sae_id, row.latent),
        ):
            yield (
                one,
                int(latent),
                f"shared: cosine {decimal(row.cosine, 2)} with latent {int(other_latent)} of {other}, which differs in the {row.factor}",
            )


def _fill(reasons: Reasons, stats: pd.DataFrame, most: int) -> None:
    """Give the places that are left to latents that fired, evenly spaced from the most to the least frequent."""
    count = Counter(sae_id for sae_id, _ in reasons)
    for sae_id, rows in stats[stats["density"] > 0].groupby("sae_id", sort=False):
        ordered = [
            latent for latent in rows.sort_values("density", ascending=False, kind="stable")["latent"].astype(int) if (sae_id, latent) not in reasons
        ]
        free = min(most - count[str(sae_id)], len(ordered))
        for place in np.linspace(0, len(ordered) - 1, num=max(free, 0)).round().astype(int):
            reasons[str(sae_id), ordered[place]] = ["one of an even sample over firing rates"]

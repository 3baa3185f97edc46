"""The claim that gives every other effect its yardstick: how far apart SAEs lie that differ in the seed alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from itertools import combinations
from math import isfinite

import numpy as np
import pandas as pd
from scipy.special import chdtri

from sae_pipeline.analysis.claims.registry import claim
from sae_pipeline.analysis.contrasts import Contrast, Evidence, averaged, combined, scaled
from sae_pipeline.analysis.significance import Spread, level_of
from sae_pipeline.analysis.tables import SETTING
from sae_pipeline.analysis.verdicts import Finding, Test, listed


@claim("SEED")
def seed_spread(test: Test) -> Iterator[Finding]:
    """How far apart SAEs lie that differ in the seed alone, the yardstick of every other effect, held against that of the mix.

    Two intervals are compared: that of the standard deviation between seeds (chi-square) and that of the difference between
    the two mixes furthest apart, its size averaged over the in-sample sets. The claim is supported where the first lies below
    the second, contradicted where it lies above.
    """
    sentence = "Another seed changes explained variance less than another training mix does."
    sets, substitute = test.in_sample()
    between = _variance_between_seeds(test.evidence, sets)
    if not len(between):
        yield test.not_testable(sentence, "needs two seeds of one setting, found one of each")
        return
    mixes = _furthest_mixes(test, sets)
    if mixes is None:
        yield test.not_testable(
            sentence, f"needs SAEs that differ in nothing but the training mix, found the mixes {listed(test.levels('mix'))} without such a pair"
        )
        return
    documents = sum(test.evidence.resamples.documents[name] for name in sets)
    for scope, where in test.scopes():
        chosen = between[between["layer"] == where["layer"]] if where else between
        units = test.evidence.matched("mix", mixes, sets, **where)
        if not len(chosen) or not len(units):
            continue
        deviation, low, high = _pooled_deviation(chosen, test.evidence.confidence)
        contrast = _difference(test.evidence, units, mixes, sets)
        spread = test.evidence.spread(contrast)
        effect = test.evidence.figure(contrast, spread)
        smallest, largest = _size((effect.low, effect.high))
        verdict = "supported" if high < smallest else "contradicted" if largest < low else "inconclusive"
        p = level_of(partial(_overlap, chosen, spread))
        where_compared = f"on {', '.join(sets)}{' (mean over the sets)' if len(sets) > 1 else ''}"
        interval = f"[{smallest:.4f}, {largest:.4f}]" if isfinite(effect.low) else "without an interval"
        remarks = [
            f"standard deviation between seeds {where_compared}, pooled over {len(chosen)} settings; the difference between {mixes[0]} and {mixes[1]} "
            f"is {effect.estimate:.4f} {interval} there",
            "" if effect.seeds > 1 else "that difference rests on one seed, so its interval leaves out the noise of training",
            substitute,
        ]
        yield Finding(
            id=test.id, claim=sentence, scope=scope, estimate=deviation, low=low, high=high, p_value=p, p_adjusted=p, verdict=verdict,
            cells=len(chosen[["mix", "layer", "expansion"]].drop_duplicates()), documents=documents, seeds=int(chosen["seeds"].max()),
            note="; ".join(filter(None, remarks)),
        )  # fmt: skip


def _variance_between_seeds(evidence: Evidence, sets: Sequence[str]) -> pd.DataFrame:
    """One row per setting with two seeds or more: its columns of ``SETTING``, ``seeds`` and ``variance`` (mean over the sets)."""
    rows, values = evidence.resamples.values("explained_variance")
    complete = [sae_id for sae_id in evidence.design["sae_id"] if all((sae_id, name) in rows for name in sets)] if sets else []
    scores = pd.DataFrame({name: [values[rows[sae_id, name], 0] for sae_id in complete] for name in sets}, index=pd.Index(complete, dtype=object))
    by_setting = evidence.design[list(SETTING)].join(scores, how="inner").groupby(list(SETTING))
    spread = pd.DataFrame({"variance": by_setting[list(sets)].var(ddof=1).mean(axis=1), "seeds": by_setting.size()})
    return spread[spread["seeds"] > 1].reset_index()


def _pooled_deviation(spread: pd.DataFrame, confidence: float) -> tuple[float, float, float]:
    """Standard deviation between seeds pooled over settings, with its chi-square interval.

    Settings of one layer and width share their initial weights seed by seed, so they do not vary independently: together
    they count for the degrees of freedom of one of them, which errs on the wide side.
    """
    weights = spread["seeds"] - 1
    variance = float((spread["variance"] * weights).sum() / weights.sum())
    freedom = int(weights.groupby([spread["layer"], spread["expansion"]]).max().sum())
    tail = (1 - confidence) / 2
    low, high = (float(np.sqrt(variance * freedom / chdtri(freedom, p))) for p in (tail, 1 - tail))
    return variance**0.5, low, high


def _overlap(between_seeds: pd.DataFrame, difference: Spread, level: float) -> float:
    """How far the two intervals of the claim reach into each other at a level; negative where they lie apart."""
    _, low, high = _pooled_deviation(between_seeds, 1 - level)
    smallest, largest = _size(difference.interval(1 - level))
    return min(high - smallest, largest - low)


def _furthest_mixes(test: Test, sets: Sequence[str]) -> tuple[str, str] | None:
    """The two mixes with matching SAEs whose token shares differ most; of equals, those declared furthest apart."""
    shares, sources = test.study.mixes, test.study.sources
    order = {mix: place for place, mix in enumerate(shares)}
    pairs = [pair for pair in combinations(order, 2) if sets and len(test.evidence.matched("mix", pair, sets))]

    def apart(pair: tuple[str, str]) -> tuple[float, int]:
        one, other = (shares[mix] for mix in pair)
        return round(sum(abs(one.get(source, 0.0) - other.get(source, 0.0)) for source in sources), 9), order[pair[1]] - order[pair[0]]

    return max(pairs, key=apart, default=None)


def _difference(evidence: Evidence, units: pd.DataFrame, mixes: tuple[str, str], sets: Sequence[str]) -> Contrast:
    """The difference between two mixes on every set, in the direction it has there: a mix that helps on one and harms on another has an effect."""
    differences = [averaged(units, {(mixes[0], name): 1 / len(sets), (mixes[1], name): -1 / len(sets)}) for name in sets]
    return combined(*(scaled(difference, float(np.sign(evidence.spread(difference).value)) or 1.0) for difference in differences))


def _size(interval: tuple[float, float]) -> tuple[float, float]:
    """The interval of a size. The sign is the sample's: an interval across zero means a size between zero and its farther end."""
    low, high = interval
    return max(low, 0.0), max(high, -low)

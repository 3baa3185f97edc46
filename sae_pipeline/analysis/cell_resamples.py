"""Uncertainty of a table that holds metrics and no sums per document: cells are resampled, paired across what is compared.

A cell is one mix, layer and expansion factor. A comparison of mixes pairs SAEs of the same layer and expansion factor, so
each such pair of cells is drawn or left out as a whole, with all its arms and seeds. What the interval then covers is how
the difference varies from cell to cell, seeds included; how it varies from document to document no such table can tell.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import ndtri, stdtrit

from sae_pipeline.analysis.bootstrap import Array, Resamples
from sae_pipeline.analysis.tables import DESIGN, SETTING, StudyTables, design, evaluation_sets
from sae_pipeline.store.fingerprints import digest

CELL = ("mix", "layer", "expansion")
"""Settings that name a cell."""

ENOUGH = 5
"""Fewer pairs of cells than this are split into their settings and then their seeds, which are taken as independent of each other then."""

MOST_COMPARED = 3
"""Most settings that the SAEs of one comparison differ in; no claim varies more at a time."""


class CellResamples(Resamples):
    """Every metric as the table has it, and every comparison resampled over its cells.

    Args:
        tables: the tables; of ``document_sums`` and ``baseline_sums`` nothing is read.
        samples: resamples beside the table as it is.
        seed: of the draws.
        confidence: level at which the resamples are widened for small numbers of cells.
    """

    def __init__(self, tables: StudyTables, samples: int, seed: int, confidence: float) -> None:
        self.documents = dict.fromkeys(evaluation_sets(tables), 0)
        self._metrics, self._samples, self._seed, self._confidence = tables.sae_metrics, samples, seed, confidence
        self._design = design(tables.saes).set_index("sae_id")
        self._values: dict[str, tuple[dict[tuple[str, str], int], Array]] = {}

    def values(self, metric: str) -> tuple[dict[tuple[str, str], int], Array]:
        """Row of each (sae_id, evaluation_set) that has a value, and the values, (rows, 1): one alone has no resamples.

        There are no rows where the table lacks the metric.
        """
        if metric not in self._metrics.columns:
            return {}, np.empty((0, 1))
        if metric not in self._values:
            finite = self._metrics[np.isfinite(self._metrics[metric].astype(float))]
            rows = {key: row for row, key in enumerate(zip(finite["sae_id"], finite["evaluation_set"], strict=True))}
            self._values[metric] = rows, finite[[metric]].to_numpy(float)
        return self._values[metric]

    def weighted_sum(self, coefficients: Mapping[tuple[str, str], float], metric: str) -> Array:
        """The sum of a metric over (sae_id, evaluation_set) times its coefficient, (1 + samples,); entry 0 is as found."""
        return self.distribution(coefficients, metric)[0]

    def distribution(self, coefficients: Mapping[tuple[str, str], float], metric: str) -> tuple[Array, float]:
        """The weighted sum, and one degree of freedom less than there are clusters.

        A resample draws as many clusters as there are and scales their sum to the weight of all. Deviations are widened by
        sqrt(n / (n - 1)) and by Student's over the normal quantile (Hesterberg 2015), because the percentiles of few clusters
        lie too near each other. Of fewer than :data:`ENOUGH` clusters hardly any resamples differ; there the deviation of each is
        multiplied by a standard normal number instead (a wild bootstrap, Wu 1986). Where nothing is compared, or in one cluster only, the resamples are nan.
        """
        found = self._contributions(coefficients, metric)
        estimate = float(found["value"].sum())
        clusters = self._clusters(found)
        n = len(clusters)
        if n < 2:
            return np.array([estimate, *np.full(self._samples, np.nan)]), 1.0
        generator = np.random.default_rng(
            int(digest("cell bootstrap", self._seed, [list(map(str, np.atleast_1d(key))) for key in clusters.index]), 16)
        )
        value, weight = clusters["value"].to_numpy(), clusters["weight"].to_numpy()
        if n < ENOUGH:
            resampled = estimate + generator.normal(size=(self._samples, n)) @ (value - estimate * weight / weight.sum())
        else:
            drawn = generator.multinomial(n, np.full(n, 1 / n), size=self._samples)
            resampled = (drawn @ value) / (drawn @ weight) * weight.sum()
        return np.concatenate([[estimate], estimate + widening(n, self._confidence) * (resampled - estimate)]), float(n - 1)

    def holds_seeds(self, coefficients: Mapping[tuple[str, str], float]) -> bool:
        """Whether what the SAEs of one layer, width and seed have in common cancels, their initial weights above all.

        It does between mixes. Between widths or layers it stays, the same in the cells of every mix, and no resampling of
        those can show how large it is.
        """
        blocks = [self._design.loc[[sae_id for sae_id, _ in coefficients], name].to_numpy() for name in ("layer", "expansion", "replicate")]
        left = pd.Series(list(coefficients.values())).groupby(blocks).sum().abs().max()
        return bool(left <= 1e-9 * max(map(abs, coefficients.values())))

    def caution(self, keys: Iterable[tuple[str, str]]) -> str:
        """What the interval rests on."""
        return "the table has no sums per document, so the interval resamples paired cells"

    def _contributions(self, coefficients: Mapping[tuple[str, str], float], metric: str) -> pd.DataFrame:
        """One row per term: its settings, ``evaluation_set``, ``coefficient``, ``value`` (times the coefficient) and ``weight``."""
        rows, values = self.values(metric)
        used = sorted(coefficients)
        terms = pd.DataFrame(used, columns=["sae_id", "evaluation_set"]).join(self._design, on="sae_id")
        terms["coefficient"] = [coefficients[key] for key in used]
        terms["value"] = terms["coefficient"] * values[[rows[key] for key in used], 0]
        return terms.assign(weight=terms["coefficient"].abs())

    def _clusters(self, terms: pd.DataFrame) -> pd.DataFrame:
        """Sums of ``value`` and ``weight`` per cluster: cells where there are enough, otherwise settings, otherwise seeds; empty without a comparison."""
        factors = compared(terms)
        if factors is None:
            return pd.DataFrame(columns=["value", "weight"])
        for shared in (CELL, SETTING, DESIGN):
            keys = [name for name in shared if name not in factors]
            clusters = terms.groupby(keys or terms.index * 0, sort=True)[["value", "weight"]].sum()
            if len(clusters) >= ENOUGH:
                break
        return clusters


def widening(n: int, confidence: float) -> float:
    """How much farther from the estimate the percentiles of a bootstrap of n clusters, at least two, are to lie (Hesterberg 2015)."""
    tail = (1 + confidence) / 2
    return (n / (n - 1)) ** 0.5 * float(stdtrit(n - 1, tail) / ndtri(tail))


def compared(terms: pd.DataFrame) -> tuple[str, ...] | None:
    """The settings that a contrast compares, or None where it compares nothing, as a mean does.

    They are the fewest of which this holds: SAEs that share all others make up groups, and either the coefficients cancel
    within each group, set by set, or every group has the same coefficients of both signs.

    Args:
        terms: columns of :data:`~sae_pipeline.analysis.tables.DESIGN`, ``evaluation_set`` and ``coefficient``.
    """
    if (terms["coefficient"] >= 0).all() or (terms["coefficient"] <= 0).all():
        return None
    varying = [name for name in DESIGN if terms[name].nunique() > 1]
    for size in range(MOST_COMPARED + 1):
        for factors in combinations(varying, size):
            kept = [name for name in varying if name not in factors]
            if _cancels(terms, kept) or _repeats(terms, kept, list(factors)):
                return factors
    return None


def _cancels(terms: pd.DataFrame, kept: list[str]) -> bool:
    left = terms.groupby([*kept, "evaluation_set"], sort=False)["coefficient"].sum()
    return bool(left.abs().max() <= 1e-9 * terms["coefficient"].abs().max())


def _repeats(terms: pd.DataFrame, kept: list[str], factors: list[str]) -> bool:
    """Whether every group has the same coefficient of each level and set, and they have both signs."""
    patterns: set[frozenset[Any]] = set()
    for _, group in terms.groupby(kept, sort=False) if kept else [((), terms)]:
        patterns.add(frozenset(zip(*(group[name] for name in factors), group["evaluation_set"], group["coefficient"].round(12), strict=True)))
        if len(patterns) > 1:
            return False
    coefficients = [entry[-1] for entry in patterns.pop()]
    return bool(min(coefficients) < 0 < max(coefficients))

"""Comparing SAEs that differ in exactly one setting, and estimating any linear combination of their metrics.

Everything the analysis reports (a mean, a difference, a difference of differences) is a *contrast*: a weighted sum of one
metric over (SAE, evaluation set) pairs. So there is one way to a point estimate, an interval and a figure per seed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from sae_pipeline.analysis.bootstrap import Estimate, Resamples, percentile_interval, resample
from sae_pipeline.analysis.significance import Spread
from sae_pipeline.analysis.tables import DESIGN, SETTING, StudyTables, design
from sae_pipeline.study.schema import Study

Contrast = Mapping[tuple[str, str], float]
"""Coefficient of each (sae_id, evaluation_set)."""


def averaged(units: pd.DataFrame, terms: Mapping[tuple[Any, str], float]) -> dict[tuple[str, str], float]:
    """The contrast that averages, over matched units, the sum of ``terms``.

    Args:
        units: one row per unit, one column per level of the factor compared, holding SAE ids (see :meth:`Evidence.matched`).
        terms: coefficient of each (level, evaluation set).
    """
    contrast: dict[tuple[str, str], float] = {}
    for (level, evaluation_set), coefficient in terms.items():
        for sae_id in units[level]:
            key = (sae_id, evaluation_set)
            contrast[key] = contrast.get(key, 0.0) + coefficient / len(units)
    return contrast


def combined(*contrasts: Contrast) -> dict[tuple[str, str], float]:
    """The sum of contrasts."""
    total: dict[tuple[str, str], float] = {}
    for contrast in contrasts:
        for key, coefficient in contrast.items():
            total[key] = total.get(key, 0.0) + coefficient
    return total


def scaled(contrast: Contrast, factor: float) -> dict[tuple[str, str], float]:
    """The contrast times a factor."""
    return {key: coefficient * factor for key, coefficient in contrast.items()}


@dataclass(frozen=True)
class Evidence:
    """The SAEs of a study as a design, with every metric resampled."""

    tables: StudyTables
    resamples: Resamples
    confidence: float

    @classmethod
    def of(cls, tables: StudyTables, study: Study) -> Evidence:
        """Evidence with the study's number of resamples, seed and confidence."""
        return cls(tables, resample(tables, study.analysis.bootstrap_samples, study.analysis.seed), study.analysis.confidence)

    @cached_property
    def design(self) -> pd.DataFrame:
        """One row per SAE, as :func:`sae_pipeline.analysis.tables.design`, indexed by ``sae_id``."""
        return design(self.tables.saes).set_index("sae_id", drop=False)

    def matched(self, factor: str, levels: Sequence[Any], sets: Sequence[str], *, metric: str = "explained_variance", **where: Any) -> pd.DataFrame:
        """SAEs that share every setting but one, as units: rows of SAE ids, one column per level of ``factor``.

        Only units with an SAE at every level and a value of the metric on every set are kept, so that no level is averaged
        over other arms than the next. The index holds the settings shared; ``where`` restricts the design by equality.
        """
        chosen = self.design
        for column, value in where.items():
            chosen = chosen[chosen[column] == value]
        valued = self.resamples.values(metric)[0]
        # An array and not a list: an empty list would choose no columns instead of no rows.
        chosen = chosen[np.array([bool(sets) and all((sae_id, name) in valued for name in sets) for sae_id in chosen["sae_id"]], dtype=bool)]
        units = chosen.pivot(index=[name for name in DESIGN if name != factor], columns=factor, values="sae_id")
        return units.reindex(columns=list(levels)).dropna().sort_index()

    def estimate(self, contrast: Contrast, metric: str = "explained_variance") -> Estimate:
        """The contrast with its interval: documents resampled, seeds as replicates.

        Seed noise: the SAEs of one layer and width share their initial weights and the order of their data when they share a
        seed, those of another layer or width do not. So per layer and width the contrast's contribution is summed per seed,
        its variance between seeds is estimated, and the variances of layers and widths add (degrees of freedom by
        Satterthwaite). Settings trained with one seed contribute none, which the ``seeds`` of the estimate gives away.
        """
        return self.figure(contrast, self.spread(contrast, metric))

    def spread(self, contrast: Contrast, metric: str = "explained_variance") -> Spread:
        """The contrast with what its interval is made of."""
        resampled, resample_freedom = self.resamples.distribution(contrast, metric)
        variance, freedom = (0.0, 1.0) if self.resamples.holds_seeds(contrast) else self._seed_variance(contrast, metric)
        low, high = percentile_interval(resampled[1:], self.confidence)
        return Spread(float(resampled[0]), low, high, self.confidence, variance, freedom, resample_freedom)

    def figure(self, contrast: Contrast, spread: Spread) -> Estimate:
        """The estimate of a contrast whose spread is known."""
        return Estimate(spread.value, *spread.interval(self.confidence), self._documents(contrast), self._used(contrast)["replicate"].nunique())

    def by_seed(self, averages: Sequence[Contrast], metric: str = "explained_variance") -> dict[str, float]:
        """The sum of the averages within each replicate, over the same settings in each.

        Each average is taken over those of its settings that have every replicate of the whole sum, and normalised by itself:
        otherwise two seeds would differ by the settings that only one of them has. Empty where an average has no such setting.

        Args:
            averages: contrasts whose units are matched on the replicate, as :func:`averaged` gives them.
        """
        replicates = sorted(self._used(combined(*averages))["replicate"].unique())
        total = pd.Series(0.0, index=replicates)
        for average in averages:
            parts = self._parts(average, metric)
            complete = parts[parts.groupby(list(SETTING))["replicate"].transform("nunique") == len(replicates)]
            if complete.empty:
                return {}
            sums = complete.groupby("replicate")[["value", "weight"]].sum()
            total += sums["value"] * parts["weight"].sum() / sums["weight"]
        return {str(seed): float(value) for seed, value in total.items()}

    def cells(self, contrast: Contrast) -> int:
        """Number of (mix, layer, expansion) cells that the contrast draws on."""
        return len(self._used(contrast)[["mix", "layer", "expansion"]].drop_duplicates())

    def settings_without_replicates(self, contrast: Contrast) -> int:
        """Settings (everything but the seed) in the contrast that were trained with one seed only."""
        used = self._used(contrast)
        return int((used.groupby(list(SETTING))["replicate"].nunique() == 1).sum())

    def _documents(self, contrast: Contrast) -> int:
        return sum(self.resamples.documents[name] for name in {name for _, name in contrast})

    def _used(self, contrast: Contrast) -> pd.DataFrame:
        return self.design.loc[sorted({sae_id for sae_id, _ in contrast})]

    def _parts(self, contrast: Contrast, metric: str) -> pd.DataFrame:
        """Each SAE's contribution to the contrast (``value``) and its share of the coefficients (``weight``)."""
        rows, values = self.resamples.values(metric)
        parts = pd.DataFrame([(sae_id, c * values[rows[sae_id, name], 0], abs(c)) for (sae_id, name), c in sorted(contrast.items())])
        parts.columns = pd.Index(["sae_id", "value", "weight"])
        return parts.groupby("sae_id").sum().join(self.design.drop(columns="sae_id"))

    def _seed_variance(self, contrast: Contrast, metric: str) -> tuple[float, float]:
        """Variance of the contrast due to seeds, and its degrees of freedom."""
        parts = self._parts(contrast, metric)
        setting = [name for name in DESIGN if name not in ("replicate", "mix", "layer", "expansion")]
        seeds_of = parts.groupby(setting)["replicate"].transform(lambda seeds: ",".join(sorted(set(seeds))))
        variances, weighted = 0.0, 0.0
        for _, block in parts.groupby(["layer", "expansion", seeds_of]):
            by_seed = block.groupby("replicate")["value"].sum()
            if len(by_seed) > 1:
                variance = len(by_seed) * float(by_seed.var(ddof=1))
                variances += variance
                weighted += variance**2 / (len(by_seed) - 1)
        return variances, variances**2 / weighted if weighted else 1.0

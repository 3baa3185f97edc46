"""The tables behind the report's figures: matrix, curves and trade-off, every entry with its interval.

Only arms present in all the cells compared are averaged: a curve or a row of the matrix never mixes different sets of arms.
An entry with ``n`` 0 has no SAEs that match.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from sae_pipeline.analysis.bootstrap import Estimate
from sae_pipeline.analysis.contrasts import Evidence, averaged
from sae_pipeline.analysis.tables import SETTING, evaluation_sets, regime
from sae_pipeline.study.schema import Study

ALL_MIXES = "all mixes"
"""Value of the column ``mix`` in a curve averaged over the mixes."""

UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"), 0)
"""Of a metric that a table from elsewhere does not have."""

FIGURES = ["estimate", "low", "high", "n", "documents", "seeds"]


def matrix(evidence: Evidence, study: Study, metric: str = "explained_variance") -> pd.DataFrame:
    """Training mix against evaluation set, per layer, over the arms that all mixes with SAEs at the layer have.

    Columns: ``layer``, ``mix``, ``evaluation_set``, ``metric``, ``estimate``, ``low``, ``high``, ``n`` (SAEs averaged),
    ``documents``, ``seeds``.
    """
    sets = evaluation_sets(evidence.tables)
    mixes = [mix for mix in study.mixes if mix in set(evidence.design["mix"])]
    rows = []
    for layer in _levels(evidence.design, "layer"):
        there = set(evidence.design.loc[evidence.design["layer"] == layer, "mix"])
        units = evidence.matched("mix", [mix for mix in mixes if mix in there], sets, metric=metric, layer=layer)
        for mix in mixes:
            matched = units if mix in there else units.iloc[:0]
            rows += [
                {"layer": layer, "mix": mix, "evaluation_set": name, "metric": metric} | _figures(evidence, matched, mix, name, metric)
                for name in sets
            ]
    return pd.DataFrame(rows, columns=["layer", "mix", "evaluation_set", "metric", *FIGURES])


def expansion_curve(evidence: Evidence, study: Study, metric: str = "explained_variance") -> pd.DataFrame:
    """A metric over the expansion factor, per layer, evaluation set and mix (and over all mixes).

    Columns: ``layer``, ``mix`` (or :data:`ALL_MIXES`), ``regime`` (undercomplete and overcomplete are curves of their own),
    ``evaluation_set``, ``expansion``, ``metric``, ``estimate``, ``low``, ``high``, ``n``, ``documents``, ``seeds``.
    """
    expansions = _levels(evidence.design, "expansion")
    rows = []
    for name in sorted({regime(expansion) for expansion in expansions}, reverse=True):
        levels = [expansion for expansion in expansions if regime(expansion) == name]
        rows += [{"regime": name} | row for row in _curve(evidence, study, "expansion", levels, metric)]
    return pd.DataFrame(rows, columns=["layer", "mix", "regime", "evaluation_set", "expansion", "metric", *FIGURES])


def budget_curve(evidence: Evidence, study: Study, metric: str = "explained_variance") -> pd.DataFrame:
    """A metric over the training tokens, per layer, evaluation set and mix (and over all mixes).

    Columns: ``layer``, ``mix`` (or :data:`ALL_MIXES`), ``evaluation_set``, ``tokens``, ``metric``, ``estimate``, ``low``,
    ``high``, ``n``, ``documents``, ``seeds``.
    """
    rows = list(_curve(evidence, study, "tokens", _levels(evidence.design, "tokens"), metric))
    return pd.DataFrame(rows, columns=["layer", "mix", "evaluation_set", "tokens", "metric", *FIGURES])


def tradeoff(evidence: Evidence) -> pd.DataFrame:
    """Explained variance against active latents: one row per setting (its seeds averaged) and evaluation set.

    Columns: ``mix``, ``layer``, ``expansion``, ``architecture``, ``sparsity``, ``tokens``, ``evaluation_set``; ``estimate``,
    ``low``, ``high`` (explained variance); ``l0`` (nan where the tables have none), ``l0_low``, ``l0_high``; ``n`` (SAEs), ``documents``, ``seeds``.
    """
    valued, counted = evidence.resamples.values("explained_variance")[0], evidence.resamples.values("l0")[0]
    shown = ["mix", "layer", "expansion", "architecture", "sparsity", "tokens"]
    rows = []
    for _, seeds in evidence.design.groupby(list(SETTING), sort=True):
        for evaluation_set in evaluation_sets(evidence.tables):
            present = [sae_id for sae_id in seeds["sae_id"] if (sae_id, evaluation_set) in valued]
            if not present:
                continue
            mean = {(sae_id, evaluation_set): 1 / len(present) for sae_id in present}
            figure = evidence.estimate(mean)
            l0 = evidence.estimate(mean, "l0") if all(key in counted for key in mean) else UNKNOWN
            rows.append(
                {name: seeds[name].iloc[0] for name in shown}
                | {"evaluation_set": evaluation_set, "estimate": figure.estimate, "low": figure.low, "high": figure.high}
                | {"l0": l0.estimate, "l0_low": l0.low, "l0_high": l0.high}
                | {"n": len(present), "documents": figure.documents, "seeds": figure.seeds}
            )
    columns = [*shown, "evaluation_set", "estimate", "low", "high", "l0", "l0_low", "l0_high", "n", "documents", "seeds"]
    return pd.DataFrame(rows, columns=columns)


def _curve(evidence: Evidence, study: Study, factor: str, levels: Sequence[Any], metric: str) -> Iterator[dict[str, Any]]:
    """Rows of a curve, averaged over the SAEs that exist at every level, for all mixes together and for each."""
    sets = evaluation_sets(evidence.tables)
    for layer in _levels(evidence.design, "layer"):
        everything = evidence.matched(factor, levels, sets, metric=metric, layer=layer)
        lines = _comparable({mix: evidence.matched(factor, levels, sets, metric=metric, layer=layer, mix=mix) for mix in study.mixes})
        for mix, units in {ALL_MIXES: everything, **lines}.items():
            for name in sets:
                for level in levels:
                    row = {"layer": layer, "mix": mix, "evaluation_set": name, factor: level, "metric": metric}
                    yield row | _figures(evidence, units, level, name, metric)


def _comparable(lines: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Lines of one panel over the same settings: those that every mix with a line has, or each its own where they share none."""
    settings = {
        mix: list(units.index.to_frame(index=False).drop(columns="mix").itertuples(index=False, name=None))
        for mix, units in lines.items()
        if len(units)
    }
    shared = set.intersection(*map(set, settings.values())) if settings else set()
    if not shared:
        return lines
    return {mix: units[[setting in shared for setting in settings[mix]]] if mix in settings else units for mix, units in lines.items()}


def _figures(evidence: Evidence, units: pd.DataFrame, level: Any, evaluation_set: str, metric: str) -> dict[str, Any]:
    """Mean over the matched SAEs at one level, with its interval."""
    if not len(units):
        nan = float("nan")
        return dict(zip(FIGURES, (nan, nan, nan, 0, 0, 0), strict=True))
    figure = evidence.estimate(averaged(units, {(level, evaluation_set): 1.0}), metric)
    return dict(zip(FIGURES, (figure.estimate, figure.low, figure.high, len(units), figure.documents, figure.seeds), strict=True))


def _levels(design: pd.DataFrame, factor: str) -> list[Any]:
    return sorted(design[factor].unique().tolist())

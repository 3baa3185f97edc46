"""Which factor accounts for how much of the variance of a metric: a part of the findings."""

from __future__ import annotations

from functools import partial

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_pipeline.reports.blocks import FOLD_ROWS, Cell, Plot, Section, Table, number_cell, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.style import ordered_colours, styled
from sae_pipeline.reports.wording import decimal, interval, layer_name

DRAWN = "explained_variance"
"""The metric of the figure; the table has every metric."""

ALL = -1.0
"""Stands for all layers together, where a layer's number is wanted to sort by."""


def variance_part(shares: pd.DataFrame, confidence: float) -> Section:
    """Shares of the variance of every metric by factor.

    Args:
        shares: columns metric, layer (missing: all layers together), factor, share, low, high.
        confidence: level of the intervals.
    """
    known = shares.astype({"layer": float, "share": float, "low": float, "high": float})
    drawn = known[known["metric"] == DRAWN] if (known["metric"] == DRAWN).any() else known[known["metric"] == known["metric"].iloc[0]]
    together = drawn[drawn["layer"].isna()] if drawn["layer"].isna().any() else drawn[drawn["layer"] == drawn["layer"].iloc[0]]
    first = together.sort_values("share", ascending=False, kind="stable").iloc[0]
    metric = str(first["metric"]).replace("_", " ")
    said = (
        f"The largest share of the variance of {metric} goes with the factor {_factor(first['factor'])} ({layer_name(first['layer'])}): "
        f"{decimal(100 * first['share'], 1)} % {interval(100 * first['low'], 100 * first['high'], 1)}"
    )
    sentences = (
        f"{said}.",
        f"Shares of a metric at a layer sum to one and depend on how far the study varies each factor; {100 * confidence:g} % intervals where there are any.",
    )
    rows = tuple(
        text_row(
            r.metric, Cell(layer_name(r.layer), ALL if r.layer != r.layer else r.layer), _factor(r.factor),
            number_cell(r.share, 1, scale=100), interval(100 * r.low, 100 * r.high, 1),
        ) for r in rows_of(known)
    )  # fmt: skip
    table = Table("Share of the variance by factor", ("metric", "layer", "factor", "share (%)", "interval (%)"), rows, folded=len(rows) > FOLD_ROWS)
    plot = Plot(
        "variance",
        said,
        "A dot per factor and layer, with its interval; dots of one layer sum to 100 %.",
        drawn,
        partial(variance_figure, drawn, said),
    )
    return Section("variance", "Which factor accounts for how much", sentences, plots=(plot,), tables=(table,))


def variance_figure(frame: pd.DataFrame, title: str) -> Figure:
    """Shares by factor, a dot per layer.

    Args:
        frame: columns layer (missing: all layers together), factor, share, low, high, of one metric.
        title: the statement the figure supports.
    """
    factors = list(dict.fromkeys(frame["factor"]))
    layers = sorted(frame["layer"].dropna().unique())
    colours: dict[float, str] = ordered_colours("layer", layers) | ({ALL: "#333333"} if frame["layer"].isna().any() else {})
    with styled():
        fig = Figure(figsize=(8.4, 1.5 + 0.42 * len(factors)), layout="constrained")
        fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
        ax = fig.subplots()
        for n, (layer, colour) in enumerate(colours.items()):
            here = frame[frame["layer"].fillna(ALL) == layer].set_index("factor").reindex(factors)
            y = np.arange(len(factors)) + 0.5 * ((n + 0.5) / len(colours) - 0.5)
            reach = np.nan_to_num(np.stack([here["share"] - here["low"], here["high"] - here["share"]])).clip(min=0)
            ax.errorbar(100 * here["share"], y, xerr=100 * reach, fmt="o", color=colour, markersize=6)
        ax.set_yticks(range(len(factors)), [_factor(factor) for factor in factors])
        ax.set(ylim=(len(factors) - 0.4, -0.6), xlabel="share of the variance (%)")
        ax.grid(axis="y", visible=False)
        handles = [
            Line2D([], [], color=colour, marker="o", linestyle="", label="all layers" if layer == ALL else layer_name(layer))
            for layer, colour in colours.items()
        ]
        fig.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), 6), fontsize=9)
        return fig


def _factor(name: str) -> str:
    return str(name).replace("_", " ")

"""The figures of a comparison report: pure functions of tidy frames, in the order their rows come.

Every figure takes the statement it supports as its title; an interval in the frame becomes a bar or a bracket in the
figure. Names (mixes, sets, layers) keep the order in which the frame first mentions them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, isfinite
from typing import Any, Literal

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

from sae_pipeline.analysis.amounts import compact
from sae_pipeline.reports.style import MARK_COLOURS, VERDICT_COLOURS, markers, named_colours, ordered_colours, styled, value_colours
from sae_pipeline.reports.wording import VERDICT_WORDS, common_digits, decimal, layer_name, times

EXPLAINED_VARIANCE = "explained variance (share of 1)"

MAX_PANELS = 12
"""Beyond this many layers x evaluation sets a figure shows the first set, and at most this many layers; its CSV holds all."""

AXES: dict[str, tuple[Callable[[float], str], int, str]] = {
    "expansion": (times, 2, "expansion factor (log scale)"),
    "tokens": (compact, 10, "training tokens (log scale)"),
}
"""Tick text, base of the logarithm and label of the x axis of each kind of curve."""

MAX_FOREST_ROWS = 60
"""Rows a reader can still tell apart in one forest plot; its CSV holds all."""


def matrix(frame: pd.DataFrame, title: str) -> Figure:
    """Training mix x evaluation set, one heat map per layer, with interval; a star marks the best of each column.

    Args:
        frame: columns layer, mix, evaluation_set, estimate, low, high.
        title: the statement the figure supports.
    """
    layers, mixes, sets = (distinct(frame, c) for c in ("layer", "mix", "evaluation_set"))
    low, high = frame["estimate"].min(), frame["estimate"].max()
    digits = common_digits(frame["low"], frame["high"])
    with styled():
        fig, axes = panels(len(layers), title, width=1.3 + 1.25 * len(sets), height=1.0 + 0.62 * len(mixes), columns=2 if len(sets) <= 5 else 1)
        for ax, layer in zip(axes, layers, strict=True):
            here = frame[frame["layer"] == layer]
            best = set(here.dropna(subset="estimate").groupby("evaluation_set")["estimate"].idxmax())
            for index, row in here.iterrows():
                x, y = sets.index(row["evaluation_set"]), mixes.index(row["mix"])
                _matrix_cell(ax, x, y, row, (row["estimate"] - low) / max(high - low, 1e-12), index in best, digits)
            ax.set(xlim=(-0.5, len(sets) - 0.5), ylim=(len(mixes) - 0.5, -0.5), title=layer_name(layer))
            ax.set(xlabel="evaluation set (held-out text)", ylabel="training mix")
            ax.set_xticks(range(len(sets)), sets, rotation=20 if max(map(len, sets)) > 11 else 0)
            ax.set_yticks(range(len(mixes)), mixes)
            ax.grid(False)
            ax.spines[:].set_visible(False)
            ax.tick_params(length=0)
        brackets = ", in brackets its interval" if frame["low"].notna().any() else ""
        fig.supxlabel(f"explained variance (share of 1){brackets}; ★ highest estimate of the column", fontsize=9)
        return fig


def _matrix_cell(ax: Axes, x: int, y: int, row: pd.Series, share: float, best: bool, digits: int) -> None:
    if not isfinite(row["estimate"]):
        ax.text(x, y, "no value", ha="center", va="center", fontsize=8, color="#555555")
        return
    background, ink = value_colours(share)
    ax.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, facecolor=background, edgecolor="#111111" if best else "none", linewidth=1.8))
    mark = " ★" if best else ""
    ax.text(
        x, y - 0.1, decimal(row["estimate"], digits) + mark, ha="center", va="center", color=ink, fontsize=10, fontweight="bold" if best else "normal"
    )
    if isfinite(row["low"]):
        ax.text(x, y + 0.24, f"[{decimal(row['low'], digits)}, {decimal(row['high'], digits)}]", ha="center", va="center", color=ink, fontsize=6.8)


def curves(frame: pd.DataFrame, title: str, *, factor: str, mixes: Sequence[str]) -> Figure:
    """Explained variance over the expansion factor or the token budget: rows layers, columns evaluation sets, a line per mix.

    A line never crosses expansion factor 1: under- and overcomplete dictionaries are not one series.

    Args:
        frame: columns layer, mix, evaluation_set, estimate, low, high, and ``regime`` where it has one.
        title: the statement the figure supports.
        factor: the column on the x axis, "expansion" or "tokens".
        mixes: all mixes of the study in its order, so that a mix has one colour whichever of them a figure shows.
    """
    layers, sets = distinct(frame, "layer"), distinct(frame, "evaluation_set")
    places = _places(layers, sets)
    colours, shapes = named_colours(mixes), markers(mixes)
    mixes = [mix for mix in mixes if mix in set(frame["mix"])]
    shown, base, label = AXES[factor]
    with styled():
        fig, axes = panels(len(places), title, width=3.2, height=2.9, columns=_columns(places), sharey="row")
        for n, (ax, (layer, name)) in enumerate(zip(axes, places, strict=True)):
            here = frame[(frame["layer"] == layer) & (frame["evaluation_set"] == name)]
            for m, mix in enumerate(mixes):
                shift = 1 + 0.03 * (m - (len(mixes) - 1) / 2)  # side by side, so that intervals do not cover each other
                line = here[here["mix"] == mix].sort_values(factor)
                for _, part in line.groupby(line.get("regime", pd.Series("", line.index))):
                    _curve(ax, part[factor].to_numpy() * shift, part, color=colours[mix], marker=shapes[mix])
            _log_axis(ax, sorted(set(frame[factor])), shown, base)
            ax.set(title=f"{layer_name(layer)}, {name}", xlabel=label)
            if n % _columns(places) == 0:
                ax.set_ylabel(EXPLAINED_VARIANCE)
        _legend(fig, [Line2D([], [], color=colours[m], marker=shapes[m], label=m) for m in mixes], "training mix")
        return fig


def tradeoff(frame: pd.DataFrame, title: str) -> Figure:
    """Explained variance against L0, one point per setting: colour by expansion, marker by architecture.

    Args:
        frame: columns layer, evaluation_set, expansion, architecture, estimate, low, high, l0, l0_low, l0_high.
        title: the statement the figure supports.
    """
    layers, sets, architectures = (distinct(frame, c) for c in ("layer", "evaluation_set", "architecture"))
    colours, shapes = ordered_colours("expansion", frame["expansion"]), markers(architectures)
    places = _places(layers, sets)
    with styled():
        fig, axes = panels(len(places), title, width=3.2, height=2.9, columns=_columns(places), sharey="row")
        for n, (ax, (layer, name)) in enumerate(zip(axes, places, strict=True)):
            here = frame[(frame["layer"] == layer) & (frame["evaluation_set"] == name)]
            for (factor, architecture), points in here.groupby(["expansion", "architecture"], sort=True):
                across = _bars(points, "l0", "l0_low", "l0_high")
                ax.errorbar(
                    points["l0"], points["estimate"], xerr=across, yerr=_bars(points), fmt=shapes[architecture], color=colours[factor],
                    markersize=6, markeredgecolor="white", markeredgewidth=0.6, elinewidth=0.8, capsize=0, alpha=0.85,
                )  # fmt: skip
            ax.set(title=f"{layer_name(layer)}, {name}", xlabel="L0 (active latents per token)")
            if n % _columns(places) == 0:
                ax.set_ylabel(EXPLAINED_VARIANCE)
        handles: list[Artist] = [Patch(color=colours[e], label=f"expansion {times(e)}") for e in colours]
        handles += [Line2D([], [], color="#555555", marker=shapes[a], linestyle="", label=a) for a in architectures]
        _legend(fig, handles, None)
        return fig


def forest(frame: pd.DataFrame, title: str, unit: str) -> Figure:
    """Estimates with their intervals, one row each and grouped by layer; filled markers exclude zero.

    Args:
        frame: columns label, layer (or None), estimate, low, high, verdict.
        title: the statement the figure supports.
        unit: label of the x axis.
    """
    shown = frame.head(MAX_FOREST_ROWS).reset_index(drop=True)
    layers = sorted({int(layer) for layer in shown["layer"].dropna()})
    colours = ordered_colours("layer", layers)
    with styled():
        fig = Figure(figsize=(9.2, 1.7 + 0.36 * len(shown)), layout="constrained")
        fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
        ax = fig.subplots()
        for y, (_, row) in enumerate(shown.iterrows()):
            colour = colours[int(row["layer"])] if pd.notna(row["layer"]) else "#333333"
            clear = row["low"] > 0 or row["high"] < 0
            bars = _bars(shown.loc[[y]])
            ax.errorbar(row["estimate"], y, xerr=bars, fmt="o", color=colour, markerfacecolor=colour if clear else "white", markersize=7)
            word = VERDICT_WORDS.get(row["verdict"], row["verdict"])
            colour = VERDICT_COLOURS.get(row["verdict"], "#6B6B6B")
            ax.annotate(word, (1.01, y), xycoords=("axes fraction", "data"), va="center", fontsize=9, color=colour, annotation_clip=False)
        ax.axvline(0, color="#333333", linewidth=1)
        ax.set_yticks(range(len(shown)), shown["label"])
        ax.set(ylim=(len(shown) - 0.4, -0.6), xlabel=unit)
        ax.grid(axis="y", visible=False)
        handles = [Line2D([], [], color=colours[layer], marker="o", label=layer_name(layer)) for layer in layers]
        handles += [Line2D([], [], color="#555555", marker="o", markerfacecolor="white", linestyle="", label="interval includes 0")]
        _legend(fig, handles, None)
        return fig


def health(frame: pd.DataFrame, title: str) -> Figure:
    """Share of each mark per metric, as stacked bars with counts.

    Args:
        frame: columns metric, mark, count, share; marks in the order of the rubric.
        title: the statement the figure supports.
    """
    metrics, marks = distinct(frame, "metric"), distinct(frame, "mark")
    with styled():
        fig = Figure(figsize=(9.2, 1.7 + 0.42 * len(metrics)), layout="constrained")
        fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
        ax = fig.subplots()
        start = np.zeros(len(metrics))
        for mark in marks:
            share = frame[frame["mark"] == mark].set_index("metric")["share"].reindex(metrics).fillna(0).to_numpy()
            counts = frame[frame["mark"] == mark].set_index("metric")["count"].reindex(metrics).fillna(0).astype(int)
            colour, ink = MARK_COLOURS[mark]
            ax.barh(range(len(metrics)), 100 * share, left=100 * start, color=colour, edgecolor="white", height=0.72)
            for y, (width, left, count) in enumerate(zip(share, start, counts, strict=True)):
                if width > 0.03:
                    ax.text(100 * (left + width / 2), y, str(count), ha="center", va="center", fontsize=8.5, color=ink)
            start += share
        ax.set_yticks(range(len(metrics)), metrics)
        ax.set(xlim=(0, 100), ylim=(len(metrics) - 0.4, -0.6), xlabel="share of marks (%), with the number of SAE x evaluation-set pairs in each")
        ax.grid(axis="y", visible=False)
        _legend(fig, [Patch(color=MARK_COLOURS[m][0], label=m.replace("_", " ")) for m in marks], None)
        return fig


# ------------------------------------------------------------------------------------------------ parts


def distinct(frame: pd.DataFrame, column: str) -> list[Any]:
    """The values of a column in the order in which they first come."""
    return list(dict.fromkeys(frame[column]))


def _places(layers: list[Any], sets: list[Any]) -> list[tuple[Any, Any]]:
    """The panels drawn, row by row: all layers x sets, or the first set of the first layers where that is too many."""
    if len(layers) * len(sets) > MAX_PANELS:
        layers, sets = layers[:MAX_PANELS], sets[:1]
    return [(layer, name) for layer in layers for name in sets]


def _columns(places: list[tuple[Any, Any]]) -> int:
    sets = len({name for _, name in places})
    return sets if 1 < sets <= 4 else min(3, len(places))


def panels(count: int, title: str, *, width: float, height: float, columns: int, sharey: Literal["row"] | bool = False) -> tuple[Figure, list[Axes]]:
    """A figure of ``count`` equal panels (inches each) under a title that is a statement, at most ``columns`` of them side by side."""
    columns = max(1, min(columns, count))
    rows = ceil(count / columns)
    fig = Figure(figsize=(max(width * columns, 6.4), height * rows + 1.0), layout="constrained")
    fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
    axes = fig.subplots(rows, columns, squeeze=False, sharey=sharey).ravel().tolist()
    for ax in axes[count:]:
        ax.set_visible(False)
    for ax in axes[:count] if sharey else ():
        ax.yaxis.set_tick_params(labelleft=True)
    return fig, axes[:count]


def _bars(rows: pd.DataFrame, value: str = "estimate", low: str = "low", high: str = "high") -> np.ndarray:
    """Distances from value to interval ends, (2, n); no bar where there is no interval."""
    reach = np.stack([rows[value] - rows[low], rows[high] - rows[value]]).astype(float)
    return np.nan_to_num(reach, nan=0.0).clip(min=0.0)


def _curve(ax: Axes, x: np.ndarray, rows: pd.DataFrame, **look: Any) -> None:
    if len(rows):
        ax.errorbar(x, rows["estimate"], yerr=_bars(rows), markersize=5.5, elinewidth=1.2, **look)


def _log_axis(ax: Axes, values: list[float], shown: Callable[[float], str], base: int) -> None:
    """A logarithmic x axis with a tick at each value that was measured, and at no other."""
    ax.set_xscale("log", base=base)
    ax.set_xlim(values[0] / 1.35, values[-1] * 1.35)
    ax.set_xticks(values)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_minor_formatter(NullFormatter())


def _legend(fig: Figure, handles: Sequence[Artist], title: str | None) -> None:
    fig.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), 6), title=title, alignment="left", fontsize=9, title_fontsize=9)

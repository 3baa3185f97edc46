"""The figures of the concept study: curves over frequency, rank and number of latents, a colour per mix and a panel per layer."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.special import expit

from sae_pipeline.concepts.directions import MEAN_DIFFERENCE, PURSUIT
from sae_pipeline.reports.figures import MAX_PANELS, panels
from sae_pipeline.reports.style import CHANCE, markers, named_colours, styled
from sae_pipeline.reports.wording import layer_name

PANELS_IN_A_ROW = 3
"""Panels side by side: what the width of a page can show."""

WIDTH, HEIGHT = 3.6, 3.1
"""Inches of a panel."""

BIN_WIDTH = {"decade": 0.5, "bin": 1.0}
"""Width of a bin on the axis of each figure of shares."""


def by_frequency(bins: pd.DataFrame, fits: pd.DataFrame, title: str) -> Figure:
    """Share of tokens with a feature against their frequency, with the logistic fits.

    Args:
        bins: columns layer, mix, frequency, share, low, high.
        fits: columns layer, mix, slope, frequency_half; a curve is drawn where both are finite.
        title: the statement the figure supports.
    """
    layers, mixes = sorted(set(bins["layer"]))[:MAX_PANELS], list(dict.fromkeys(bins["mix"]))
    decades = np.log10(bins["frequency"])
    x = np.linspace(decades.min() - 0.4, decades.max() + 0.4, 200)
    with styled():
        fig, axes = panels(len(layers), title, width=WIDTH, height=HEIGHT, columns=PANELS_IN_A_ROW)
        for ax, layer in zip(axes, layers, strict=True):
            _shares(ax, bins[bins["layer"] == layer].assign(decade=lambda frame: np.log10(frame["frequency"])), "decade", mixes)
            for mix, colour in named_colours(mixes).items():
                fit = fits[(fits["layer"] == layer) & (fits["mix"] == mix)]
                for slope, half in zip(fit["slope"], fit["frequency_half"], strict=True):
                    if np.isfinite(slope) and np.isfinite(half) and half > 0:
                        ax.plot(x, expit(slope * (x - np.log10(half))), color=colour, linewidth=1.3)
            ticks = range(int(np.ceil(x[0])), int(np.floor(x[-1])) + 1)
            ax.set_xticks(ticks, [f"{10**tick:,}" if tick >= 0 else f"{10**tick:g}" for tick in ticks])
            ax.set(title=layer_name(layer), xlabel="occurrences per million tokens", ylabel="share with a feature", xlim=(x[0], x[-1]))
        _legend(fig, mixes)
        return fig


def by_rank(recall: pd.DataFrame, title: str) -> Figure:
    """Share of tokens with a feature by rank of frequency.

    Args:
        recall: columns layer, mix, rank_low, rank_high, share, low, high.
        title: the statement the figure supports.
    """
    layers, mixes = sorted(set(recall["layer"]))[:MAX_PANELS], list(dict.fromkeys(recall["mix"]))
    edges = recall[["rank_low", "rank_high"]].drop_duplicates().sort_values("rank_low").astype(int).to_numpy().tolist()
    rows = recall.assign(bin=recall["rank_low"].map({low: float(n) for n, (low, _) in enumerate(edges)}))
    with styled():
        fig, axes = panels(len(layers), title, width=WIDTH, height=HEIGHT, columns=PANELS_IN_A_ROW)
        for ax, layer in zip(axes, layers, strict=True):
            _shares(ax, rows[rows["layer"] == layer], "bin", mixes)
            ax.set_xticks(range(len(edges)), [f"{low:,} to\n{high:,}" for low, high in edges])
            ax.set(title=layer_name(layer), xlabel="rank by frequency in the mix", ylabel="share with a feature")
        _legend(fig, mixes)
        return fig


def by_latents(curves: pd.DataFrame, title: str) -> Figure:
    """Cosine of directions with their fits on n latents, a panel per direction and layer.

    Args:
        curves: columns direction, layer, mix, method, latents, cosine, cosine_low, cosine_high, chance_cosine.
        title: the statement the figure supports.
    """
    places = [(str(direction), int(layer)) for direction, layer in curves[["direction", "layer"]].drop_duplicates().to_numpy().tolist()]
    places = sorted(places, key=lambda place: list(dict.fromkeys(curves["direction"])).index(place[0]))[:MAX_PANELS]
    mixes = list(dict.fromkeys(curves["mix"]))
    with styled():
        fig, axes = panels(len(places), title, width=WIDTH, height=HEIGHT, columns=min(PANELS_IN_A_ROW, len({layer for _, layer in places})))
        for ax, (direction, layer) in zip(axes, places, strict=True):
            here = curves[(curves["direction"] == direction) & (curves["layer"] == layer)].sort_values("latents")
            for mix, colour in named_colours(mixes).items():
                for method, line in ((MEAN_DIFFERENCE, "-"), (PURSUIT, "--")):
                    rows = here[(here["mix"] == mix) & (here["method"] == method)]
                    ax.plot(rows["latents"], rows["cosine"], color=colour, linestyle=line, linewidth=1.3)
                    if method == MEAN_DIFFERENCE:
                        ax.fill_between(rows["latents"], rows["cosine_low"], rows["cosine_high"], color=colour, alpha=0.15, linewidth=0)
            for method, line in ((MEAN_DIFFERENCE, "-"), (PURSUIT, "--")):
                chance = here[here["method"] == method].groupby("latents")["chance_cosine"].mean()
                ax.plot(chance.index, chance, color=CHANCE, linestyle=line, linewidth=1.1)
            counts = sorted(set(here["latents"]))
            ax.set_xscale("log", base=2)
            ax.set_xticks(counts, [str(count) for count in counts])
            ax.minorticks_off()
            ax.set(title=f"{direction}, {layer_name(layer)}", xlabel="latents", ylabel="cosine with the direction", ylim=(0, 1.02))
        handles = [
            Line2D([], [], color="#333333", linestyle="-", label="by mean difference"),
            Line2D([], [], color="#333333", linestyle="--", label="by matching pursuit"),
            Line2D([], [], color=CHANCE, label="random decoder"),
        ]
        _legend(fig, mixes, handles)
        return fig


def _shares(ax: Axes, rows: pd.DataFrame, x: str, mixes: list[str]) -> None:
    """Shares with their intervals, a marker and colour per mix, those of one place side by side."""
    shapes, colours = markers(mixes), named_colours(mixes)
    for number, mix in enumerate(mixes):
        here = rows[rows["mix"] == mix].sort_values(x)
        beside = here[x].astype(float) + 0.3 * ((number + 0.5) / len(mixes) - 0.5) * BIN_WIDTH[x]
        reach = [(here["share"] - here["low"]).clip(lower=0), (here["high"] - here["share"]).clip(lower=0)]
        ax.errorbar(beside, here["share"], yerr=reach, color=colours[mix], marker=shapes[mix], markersize=4, linestyle="", elinewidth=0.8)
    ax.set_ylim(-0.03, 1.03)


def _legend(fig: Figure, mixes: list[str], others: list[Line2D] | None = None) -> None:
    shapes = markers(mixes)
    handles = [Line2D([], [], color=colour, marker=shapes[mix], label=mix) for mix, colour in named_colours(mixes).items()]
    fig.legend(handles=handles + (others or []), loc="outside lower left", ncols=6, fontsize=9)

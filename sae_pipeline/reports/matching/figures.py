"""The figures of the matching section: pure functions of tidy frames.

Shares are per cent throughout. A dashed grey mark is chance: random unit vectors of the same shapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from sae_pipeline.reports.figures import MAX_PANELS, distinct, panels
from sae_pipeline.reports.matching.comparisons import factor_name
from sae_pipeline.reports.style import CHANCE, VALUES, colour_map, markers, named_colours, ordered_colours, styled, value_colours
from sae_pipeline.reports.wording import layer_name

ORPHAN = "#D55E00"
PANELS_IN_A_ROW = 3
BIN = 0.05
EDGES = np.linspace(-1, 1, round(2 / BIN) + 1)
"""Bins of the cosine."""

MAX_DOTS = 20_000
"""Dots a reader can still tell apart; a map of more latents is thinned evenly, its CSV holds all."""


def factor_bars(effects: pd.DataFrame, levels: pd.DataFrame, title: str) -> Figure:
    """What pairs have in common by the factor they differ in: a bar with its interval, a dot per pair of levels, a mark for chance; a panel per layer.

    Args:
        effects: columns layer, factor, estimate, low, high, chance; sorted by estimate.
        levels: columns layer, factor, match_ratio, one row per pair of levels.
        title: the statement the figure supports.
    """
    layers, factors = distinct(effects, "layer")[:MAX_PANELS], distinct(effects, "factor")
    colours = named_colours(factors)
    with styled():
        fig, axes = panels(len(layers), title, width=4.3, height=1.1 + 0.45 * len(factors), columns=PANELS_IN_A_ROW)
        for ax, layer in zip(axes, layers, strict=True):
            here = effects[effects["layer"] == layer].set_index("factor")
            for y, factor in enumerate(factors):
                if factor not in here.index:
                    continue
                row = here.loc[factor]
                ax.barh(y, 100 * row["estimate"], height=0.62, color=colours[factor], alpha=0.55)
                reach = np.nan_to_num(np.array([[row["estimate"] - row["low"]], [row["high"] - row["estimate"]]], dtype=float)).clip(min=0)
                ax.errorbar(100 * row["estimate"], y, xerr=100 * reach, fmt="none", ecolor="#222222", elinewidth=1.5)
                dots = levels[(levels["layer"] == layer) & (levels["factor"] == factor)]["match_ratio"].to_numpy()
                ax.plot(
                    100 * dots,
                    np.full(len(dots), y - 0.19),
                    linestyle="",
                    marker="o",
                    markersize=3.5,
                    color=colours[factor],
                    markeredgecolor="white",
                    markeredgewidth=0.4,
                )
                ax.plot([100 * row["chance"]] * 2, [y - 0.36, y + 0.36], color=CHANCE, linestyle="--", linewidth=1.4)
            ax.set_yticks(range(len(factors)), [factor_name(factor) for factor in factors])
            ax.set(title=layer_name(layer), xlabel="match ratio (% of latents alive)", ylim=(len(factors) - 0.4, -0.6), xlim=(0, 100))
            ax.grid(axis="y", visible=False)
        handles: list[Any] = [Line2D([], [], color="#222222", label="interval of the mean"), _chance_handle()]
        handles.insert(0, Line2D([], [], color="#555555", marker="o", linestyle="", markersize=4, label="one pair of levels"))
        _legend(fig, handles)
        return fig


def top_cosines(frame: pd.DataFrame, title: str) -> Figure:
    """Distributions of the highest to fourth highest cosine: a row per factor, a column per side.

    Args:
        frame: columns factor, side, place, low, high, share (of the latents, summing to one over the bins of a place).
        title: the statement the figure supports.
    """
    factors, sides = distinct(frame, "factor"), distinct(frame, "side")
    colours = ordered_colours("place", frame["place"])
    with styled():
        fig = Figure(figsize=(max(4.2 * len(sides), 6.4), 2.1 * len(factors) + 1.2), layout="constrained")
        _title(fig, title)
        axes = fig.subplots(len(factors), len(sides), squeeze=False, sharex=True)
        for row, factor in zip(axes, factors, strict=True):
            for ax, side in zip(row, sides, strict=True):
                here = frame[(frame["factor"] == factor) & (frame["side"] == side)]
                for place, colour in colours.items():
                    of_place = here[here["place"] == place]
                    height = np.zeros(len(EDGES) - 1)  # bins without a latent have no row
                    np.add.at(height, (np.searchsorted(EDGES, of_place["low"] + BIN / 2) - 1).clip(0, len(height) - 1), 100 * of_place["share"])
                    ax.stairs(height, EDGES, color=colour, linewidth=1.5)
                ax.set_title(f"{side}, differing in the {factor_name(factor)}", fontsize=9)
        shown = frame[frame["share"] > 0]
        for ax in axes[-1]:
            ax.set(xlabel="cosine", xlim=(shown["low"].min(), 1))
        for ax in axes[:, 0]:
            ax.set_ylabel("% of latents")
        words = {1: "highest", 2: "2nd", 3: "3rd", 4: "4th"}
        _legend(fig, [Line2D([], [], color=colours[place], label=words.get(int(place), str(place))) for place in colours])
        return fig


def widths(frame: pd.DataFrame, title: str) -> Figure:
    """Match ratio against the number of latents, a line per kind of comparison, a panel per layer.

    Args:
        frame: columns layer, comparison, width, match_ratio, chance.
        title: the statement the figure supports.
    """
    layers, kinds = distinct(frame, "layer")[:MAX_PANELS], distinct(frame, "comparison")
    colours, shapes = named_colours(kinds), markers(kinds)
    with styled():
        fig, axes = panels(len(layers), title, width=3.6, height=3.0, columns=PANELS_IN_A_ROW)
        for ax, layer in zip(axes, layers, strict=True):
            for kind in kinds:
                line = frame[(frame["layer"] == layer) & (frame["comparison"] == kind)].sort_values("width")
                ax.plot(line["width"], 100 * line["match_ratio"], color=colours[kind], marker=shapes[kind], markersize=6)
                ax.plot(line["width"], 100 * line["chance"], color=CHANCE, linestyle="--", linewidth=1)
            ax.set_xscale("log", base=2)
            ticks = sorted(set(frame["width"]))
            ax.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
            ax.minorticks_off()
            ax.set(title=layer_name(layer), xlabel="latents of the SAE matched (log scale)", ylim=(0, 102))
            if ax is axes[0]:
                ax.set_ylabel("match ratio (% of latents alive)")
        _legend(fig, [*(Line2D([], [], color=colours[k], marker=shapes[k], label=k) for k in kinds), _chance_handle()], columns=2)
        return fig


def orphans(frame: pd.DataFrame, title: str) -> Figure:
    """Median firing rate of matched and of orphan latents: a row per SAE and factor, joined by a line.

    Args:
        frame: columns factor, matched, orphan (median share of tokens), one row per SAE.
        title: the statement the figure supports.
    """
    factors = distinct(frame, "factor")
    colours = named_colours(["matched", "orphan"])
    with styled():
        fig, axes = panels(len(factors), title, width=3.1, height=2.9, columns=PANELS_IN_A_ROW)
        for ax, factor in zip(axes, factors, strict=True):
            here = frame[frame["factor"] == factor]
            for _, row in here.iterrows():
                ax.plot([0, 1], [row["matched"], row["orphan"]], color="#B5B5B5", linewidth=0.8, zorder=1)
            for x, status in enumerate(("matched", "orphan")):
                ax.scatter(np.full(len(here), x), here[status], color=colours[status], s=18, zorder=2)
            ax.set(yscale="log", title=factor_name(factor), xlim=(-0.4, 1.4))
            ax.set_xticks([0, 1], ["matched", "orphan"])
            if ax is axes[0]:
                ax.set_ylabel("median firing rate (share of tokens)")
        return fig


def coverage(frame: pd.DataFrame, title: str) -> Figure:
    """Share of an SAE's latents found in the union of other seeds' dictionaries, against their number; a line per setting, coloured by layer.

    Args:
        frame: columns setting, layer, seeds, share, low, high.
        title: the statement the figure supports.
    """
    colours = ordered_colours("layer", frame["layer"])
    settings = distinct(frame, "setting")
    shapes = markers(settings)
    with styled():
        fig = Figure(figsize=(7.6, 3.8), layout="constrained")
        _title(fig, title)
        ax = fig.subplots()
        for setting, layer in dict.fromkeys(zip(frame["setting"], frame["layer"], strict=True)):
            line = frame[(frame["setting"] == setting) & (frame["layer"] == layer)].sort_values("seeds")
            reach = 100 * np.stack([line["share"] - line["low"], line["high"] - line["share"]]).astype(float)
            ax.errorbar(
                line["seeds"], 100 * line["share"], yerr=np.nan_to_num(reach).clip(min=0), color=colours[layer], marker=shapes[setting], markersize=6
            )
        ax.set_xticks(sorted(set(frame["seeds"])))
        ax.set(xlabel="other seeds whose dictionaries are put together", ylabel="latents found (%)", ylim=(0, 102))
        _legend(fig, [Line2D([], [], color=colours[layer], label=layer_name(layer)) for layer in colours])
        return fig


def layer_maps(frame: pd.DataFrame, title: str) -> Figure:
    """Match ratio of the latents of one layer (rows) in those of another (columns), a heat map per setting.

    Args:
        frame: columns setting, layer, other_layer, match_ratio.
        title: the statement the figure supports.
    """
    settings = distinct(frame, "setting")[:MAX_PANELS]
    layers = sorted(set(frame["layer"]) | set(frame["other_layer"]))
    top = max(float(frame["match_ratio"].max()), 1e-12)
    with styled():
        size = 1.1 + 0.55 * len(layers)
        fig, axes = panels(len(settings), title, width=max(size, 3.1), height=size, columns=PANELS_IN_A_ROW)
        for ax, setting in zip(axes, settings, strict=True):
            here = (
                frame[frame["setting"] == setting]
                .pivot_table(index="layer", columns="other_layer", values="match_ratio")
                .reindex(index=layers, columns=layers)
            )
            ax.imshow(here.to_numpy(dtype=float), cmap=_values(), vmin=0, vmax=top)
            for y in range(len(layers)):
                for x in range(len(layers)):
                    value = here.iloc[y, x]
                    if value == value and len(layers) <= MAX_PANELS:
                        ax.text(x, y, f"{100 * value:.0f}", ha="center", va="center", fontsize=8.5, color=value_colours(value / top)[1])
            ax.set_xticks(range(len(layers)), layers)
            ax.set_yticks(range(len(layers)), layers)
            ax.set_title(setting, fontsize=8.5)
            ax.set(xlabel="found in layer", ylabel="latents of layer")
            ax.grid(False)
        return fig


def directions_map(frame: pd.DataFrame, title: str) -> Figure:
    """Decoder directions laid out by UMAP, a panel per SAE: latents found in other SAEs in the colour of their layer, orphans apart.

    Args:
        frame: columns layer, setting, x, y, orphan (whether no SAE that differs in some factor alone has it).
        title: the statement the figure supports.
    """
    shown = frame.iloc[:: max(1, ceil(len(frame) / MAX_DOTS))]
    places = list(dict.fromkeys(zip(frame["layer"], frame["setting"], strict=True)))[:MAX_PANELS]
    colours = ordered_colours("layer", frame["layer"])
    with styled():
        fig, axes = panels(len(places), title, width=3.6, height=3.4, columns=PANELS_IN_A_ROW)
        for ax, (layer, setting) in zip(axes, places, strict=True):
            here = shown[(shown["layer"] == layer) & (shown["setting"] == setting)]
            for orphan, colour, marker in ((False, colours[layer], "o"), (True, ORPHAN, "x")):
                dots = here[here["orphan"] == orphan]
                ax.scatter(dots["x"], dots["y"], color=colour, marker=marker, s=9 if orphan else 6, linewidths=0.8 if orphan else 0, alpha=0.7)
            ax.set_title(f"{layer_name(layer)}, {setting}", fontsize=8.5)
            ax.set(xticks=[], yticks=[])
            ax.grid(False)
        handles = [Line2D([], [], color=colours[layer], marker="o", linestyle="", label=f"{layer_name(layer)}, found elsewhere") for layer in colours]
        _legend(fig, [*handles, Line2D([], [], color=ORPHAN, marker="x", linestyle="", label="orphan of some factor")])
        return fig


# ------------------------------------------------------------------------------------------------ parts


def _values() -> Any:
    """The map of shares, without its palest and darkest ends, as tables of values have it."""
    return colour_map(VALUES)


def _title(fig: Figure, title: str) -> None:
    fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)


def _chance_handle() -> Line2D:
    return Line2D([], [], color=CHANCE, linestyle="--", label="chance")


def _legend(fig: Figure, handles: Sequence[Any], columns: int = 6) -> None:
    fig.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), columns), fontsize=9)

"""The figures of the position study: curves over positions, and what tokens and latents look like, layer by layer.

Layers are viridis, positions flare and quantiles mako throughout. A figure shows at most as many layers as fit; its CSV
holds all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatter, NullFormatter

from sae_pipeline.reports.figures import MAX_PANELS, panels
from sae_pipeline.reports.style import colour_map, named_colours, ordered_colours, styled
from sae_pipeline.reports.wording import layer_name

PANELS_IN_A_ROW = 4
"""Layers side by side: what the width of a page can show."""

CONDITION_WORDS = {"intact": "intact", "zero": "zeroed", "shuffle": "shuffled", "reconstructed": "reconstructed"}


def with_and_without_position_0(frame: pd.DataFrame, title: str, ylabel: str) -> Figure:
    """A curve per layer over all positions (top) and without position 0 (bottom), a column per architecture.

    Args:
        frame: columns architecture, layer, position, mean, low, high.
        title: the statement the figure supports.
        ylabel: what is averaged.
    """
    architectures = list(dict.fromkeys(frame["architecture"]))[:PANELS_IN_A_ROW]
    colours = ordered_colours("layer", frame["layer"])
    with styled():
        fig = Figure(figsize=(max(3.4 * len(architectures), 7.2), 6.2), layout="constrained")
        fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
        axes = fig.subplots(2, len(architectures), squeeze=False)
        for column, architecture in zip(axes.T, architectures, strict=True):
            here = frame[frame["architecture"] == architecture]
            for ax, rows, words in ((column[0], here, "with"), (column[1], here[here["position"] > 0], "without")):
                _curves(ax, rows, colours)
                ax.set(title=f"{architecture}, {words} position 0", xlabel="position in the context", ylabel=ylabel)
        _layer_legend(fig, colours)
        return fig


def by_condition(frame: pd.DataFrame, title: str, ylabel: str) -> Figure:
    """A curve per layer, without position 0, a panel per condition on one scale.

    Args:
        frame: columns condition, layer, position, mean, low, high.
        title: the statement the figure supports.
        ylabel: what is averaged.
    """
    conditions = list(dict.fromkeys(frame["condition"]))
    colours = ordered_colours("layer", frame["layer"])
    rows = frame[frame["position"] > 0]
    with styled():
        fig = Figure(figsize=(max(3.4 * len(conditions), 6.4), 3.9), layout="constrained")
        fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
        for ax, condition in zip(fig.subplots(1, len(conditions), squeeze=False, sharey=True)[0], conditions, strict=True):
            _curves(ax, rows[rows["condition"] == condition], colours)
            ax.set(title=f"position embeddings {CONDITION_WORDS[condition]}", xlabel="position in the context")
            if (rows["mean"] > 0).all() and rows["mean"].max() > 10 * rows["mean"].min():
                ax.set_yscale("log")
                ax.yaxis.set_major_formatter(LogFormatter())
                ax.yaxis.set_minor_formatter(NullFormatter())
            if condition == conditions[0]:
                ax.set_ylabel(ylabel)
        _layer_legend(fig, colours)
        return fig


def losses(frame: pd.DataFrame, title: str) -> Figure:
    """Cross-entropy by position: of the model under each condition, and with reconstructions, a curve per layer; a band for the intact model.

    Args:
        frame: columns condition, layer, position, mean, low, high; the model's own losses are the same at every layer.
        title: the statement the figure supports.
    """
    own, replaced = frame[frame["condition"] != "reconstructed"], frame[frame["condition"] == "reconstructed"]
    own = own[own["layer"] == own["layer"].min()]
    conditions, layers = list(dict.fromkeys(own["condition"])), ordered_colours("layer", replaced["layer"])
    names = named_colours(list(CONDITION_WORDS))
    with styled():
        fig = Figure(figsize=(9.2, 4.1), layout="constrained")
        fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
        left, right = fig.subplots(1, 2, sharey=True)
        for condition in conditions:
            _curve(left, own[own["condition"] == condition], names[condition], band=condition == "intact")
        for layer, colour in layers.items():
            _curve(right, replaced[replaced["layer"] == layer], colour, band=False)
        _curve(right, own[own["condition"] == "intact"], "#333333", linestyle="--")
        left.set(title="the model by itself", xlabel="position in the context", ylabel="cross-entropy (nats per token)")
        right.set(title="with the site reconstructed", xlabel="position in the context")
        right.yaxis.set_tick_params(labelleft=True)
        handles = [Line2D([], [], color=names[c], label=f"positions {CONDITION_WORDS[c]}") for c in conditions]
        handles += [Line2D([], [], color=colour, label=layer_name(layer)) for layer, colour in layers.items()]
        handles += [Line2D([], [], color="#333333", linestyle="--", label="nothing reconstructed")]
        fig.legend(handles=handles, loc="outside lower left", ncols=6, fontsize=9)
        return fig


def token_spread(frame: pd.DataFrame, title: str) -> Figure:
    """Each token's mean activation over the latents against their standard deviation, a panel per layer, coloured by position.

    Args:
        frame: columns layer, position, mean, std.
        title: the statement the figure supports.
    """
    layers, colours = _layers(frame), colour_map("flare")
    scale = Normalize(frame["position"].min(), frame["position"].max())
    with styled():
        fig, axes = panels(len(layers), title, width=3.0, height=2.9, columns=PANELS_IN_A_ROW)
        for ax, layer in zip(axes, layers, strict=True):
            here = frame[frame["layer"] == layer]
            ax.scatter(here["mean"], here["std"], c=here["position"], cmap=colours, norm=scale, s=5, linewidths=0, alpha=0.8)
            ax.set(title=layer_name(layer), xlabel="mean over the latents", ylabel="standard deviation")
        fig.colorbar(ScalarMappable(scale, colours), ax=axes, label="position in the context")
        return fig


def feature_spread(frame: pd.DataFrame, title: str, *, against: str, ylabel: str) -> Figure:
    """Each latent's mean activation against another figure of it, on logarithmic axes, a panel per layer.

    Args:
        frame: columns layer, mean and ``against``; latents that never fired are left out.
        title: the statement the figure supports.
        against: column on the y axis, "std" or "density".
        ylabel: its words.
    """
    layers, colours = _layers(frame), ordered_colours("layer", frame["layer"])
    with styled():
        fig, axes = panels(len(layers), title, width=3.0, height=2.9, columns=PANELS_IN_A_ROW)
        for ax, layer in zip(axes, layers, strict=True):
            here = frame[(frame["layer"] == layer) & (frame["mean"] > 0)]
            ax.scatter(here["mean"], here[against], color=colours[layer], s=7, linewidths=0, alpha=0.7)
            ax.set(xscale="log", yscale="log", title=layer_name(layer), xlabel="mean activation of the latent", ylabel=ylabel)
        return fig


def decile_levels(frame: pd.DataFrame, title: str, deciles: Mapping[str, float]) -> Figure:
    """Deciles of every latent's activation where it fires, latents ordered by their median, a panel per layer.

    Args:
        frame: columns layer and the deciles; latents that never fired are left out.
        title: the statement the figure supports.
        deciles: column and share of each decile.
    """
    layers, colours = _layers(frame), ordered_colours("quantile", deciles.values())
    middle = min(deciles, key=lambda column: abs(deciles[column] - 0.5))
    with styled():
        fig, axes = panels(len(layers), title, width=3.0, height=2.9, columns=PANELS_IN_A_ROW)
        for ax, layer in zip(axes, layers, strict=True):
            here = frame[(frame["layer"] == layer) & frame[middle].notna()].sort_values(middle)
            for column, share in deciles.items():
                ax.plot(np.arange(len(here)), here[column], linestyle="", marker=".", markersize=2.5, color=colours[share])
            ax.set(title=layer_name(layer), xlabel="latents, by their median", ylabel="activation where it fires", yscale="log")
        handles = [Line2D([], [], color=colours[share], marker="o", linestyle="", label=f"{100 * share:.0f} %") for share in deciles.values()]
        fig.legend(handles=handles, loc="outside lower left", ncols=len(deciles), title="decile", alignment="left", fontsize=9, title_fontsize=9)
        return fig


# ------------------------------------------------------------------------------------------------ parts


def _layers(frame: pd.DataFrame) -> list[int]:
    return sorted(set(frame["layer"]))[:MAX_PANELS]


def _curve(ax: Axes, rows: pd.DataFrame, colour: str, linestyle: str = "-", *, band: bool = True) -> None:
    """One curve with its band of intervals, if asked for."""
    rows = rows.sort_values("position")
    ax.plot(rows["position"], rows["mean"], color=colour, linestyle=linestyle, linewidth=1.3)
    if band:
        ax.fill_between(rows["position"], rows["low"], rows["high"], color=colour, alpha=0.18, linewidth=0)


def _curves(ax: Axes, rows: pd.DataFrame, colours: Mapping[float, str]) -> None:
    for layer, colour in colours.items():
        _curve(ax, rows[rows["layer"] == layer], colour)


def _layer_legend(fig: Figure, colours: Mapping[float, str]) -> None:
    handles = [Line2D([], [], color=colour, label=layer_name(layer)) for layer, colour in colours.items()]
    fig.legend(handles=handles, loc="outside lower left", ncols=min(len(handles), 6), fontsize=9)

"""The section on raw activations: how large, how spread and how sparse they are before any SAE, layer by layer."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import isfinite

import pandas as pd
from matplotlib.figure import Figure

from sae_pipeline.analysis.amounts import compact
from sae_pipeline.reports.blocks import FOLD_ROWS, Cell, Plot, Section, Table, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.style import markers, named_colours, styled
from sae_pipeline.reports.wording import counted, decimal, layer_name, percent

SHOWN_TOKENS = 5
"""Massive-activation tokens shown per corpus and hook point; the warehouse has more."""


def activations_section(statistics: pd.DataFrame, massive: pd.DataFrame, *, corpora: Sequence[str], control: bool) -> Section:
    """What the activations of a study are like.

    Args:
        statistics: rows of the warehouse's ``activation_statistics``.
        massive: rows of ``massive_tokens``.
        corpora: training mixes and evaluation sets (``held_out/<name>``) in the order of the study.
        control: whether the subject is the control with randomised weights.
    """
    title = "Activations"
    if statistics.empty:
        return Section("activations", title, ("No activations of this study have been described.",))
    worst = statistics.sort_values("storage_error", kind="stable").iloc[-1]
    sentences = [
        f"Storing activations as {worst['storage_dtype']} loses at most {_loss(worst['storage_error']).text} of their root mean square "
        f"({layer_name(int(worst['layer']))} of {worst['corpus']}): no SAE can explain what is lost there.",
        _massive(statistics),
        f"Natural sparsity is the share of entries below {decimal(statistics['sparsity_cut'].iloc[0], 2)} times the root mean square of all entries. BOS and separators are left out.",
    ]
    if control:
        sentences.insert(0, "The subject's weights are drawn at random: this is a control, and whatever an SAE finds here was not learnt from text.")
    tables = [statistics_table(statistics)]
    if len(massive):
        tables.append(massive_table(massive))
    return Section("activations", title, tuple(sentences), plots=(layer_plot(statistics, corpora),), tables=tuple(tables))


def _massive(statistics: pd.DataFrame) -> str:
    found = statistics[statistics["massive_tokens"] > 0]
    if found.empty:
        return "No token's activation is more than ten times as long as the median one."
    most = found.sort_values("massive_share", kind="stable").iloc[-1]
    return (
        f"Massive activations (norm above ten times the median) are found at {counted(len(found[['layer', 'site']].drop_duplicates()), 'hook point')}; "
        f"most in {most['corpus']}, {layer_name(int(most['layer']))}: {percent(most['massive_share'])} of the tokens. "
        "Explained variance is therefore also given without them."
    )


def statistics_table(statistics: pd.DataFrame) -> Table:
    """One row per corpus and hook point."""
    columns = (
        "corpus", "layer", "site", "tokens", "mean norm", "median", "99.9 %", "largest", "total variance", "natural sparsity", "massive tokens",
        "loss as stored", "loss as float16", "loss as bfloat16",
    )  # fmt: skip
    rows = tuple(
        text_row(
            r.corpus, Cell(layer_name(int(r.layer)), int(r.layer)), r.site, Cell(compact(int(r.tokens)), int(r.tokens)), *(_figure(v) for v in (
                r.mean_norm, r.norm_median, r.norm_q999, r.norm_max, r.total_variance)),
            Cell(f"{100 * r.natural_sparsity:.1f} %", r.natural_sparsity), Cell(f"{int(r.massive_tokens):,}", int(r.massive_tokens)),
            *(_loss(v) for v in (r.storage_error, r.error_float16, r.error_bfloat16)),
        ) for r in rows_of(statistics)
    )  # fmt: skip
    return Table("Raw activations by corpus and layer (norms in units of the model)", columns, rows, folded=len(rows) > FOLD_ROWS)


def massive_table(massive: pd.DataFrame) -> Table:
    """The tokens with the longest activations."""
    shown = massive[massive["place"] < SHOWN_TOKENS]
    rows = tuple(
        text_row(
            r.corpus, Cell(layer_name(int(r.layer)), int(r.layer)), r.site, repr(r.text), Cell(str(r.position), int(r.position)), _figure(r.norm),
            Cell(f"×{r.norm_over_median:.1f}", r.norm_over_median),
        ) for r in rows_of(shown)
    )  # fmt: skip
    columns = ("corpus", "layer", "site", "token", "position in document", "norm", "of the median")
    return Table(f"Tokens with the longest activations, {SHOWN_TOKENS} of each corpus and layer", columns, rows, folded=True)


def layer_plot(statistics: pd.DataFrame, corpora: Sequence[str]) -> Plot:
    """Norms and natural sparsity by layer under a statement about how norms change with depth."""
    by_layer = statistics.groupby("layer")["norm_median"].mean()
    if len(by_layer) > 1:
        ratio = by_layer.iloc[-1] / by_layer.iloc[0]
        said = (
            f"From {layer_name(int(by_layer.index[0]))} to {layer_name(int(by_layer.index[-1]))} the median norm changes by a factor of {ratio:.2g}"
        )
    else:
        said = f"The median norm is {by_layer.iloc[0]:.3g} at {layer_name(int(by_layer.index[0]))}"
    caption = (
        "Left: norm of a token's activation, median with the middle 90 % as a bar and the largest as a thin mark (a logarithmic axis where they span more than a decade). "
        "Right: share of near-zero entries. One marker per corpus."
    )
    return Plot("activations", said, caption, statistics, partial(by_depth, statistics, said, corpora=corpora))


def by_depth(statistics: pd.DataFrame, title: str, *, corpora: Sequence[str]) -> Figure:
    """Norms and natural sparsity against the layer, a row of panels per site.

    Args:
        statistics: columns corpus, layer, site, norm_q05, norm_median, norm_q95, norm_max, natural_sparsity.
        title: the statement the figure supports.
        corpora: all corpora of the study in its order, so that a corpus has one colour.
    """
    sites = list(dict.fromkeys(statistics["site"]))
    layers = sorted(set(statistics["layer"]))
    colours, shapes = named_colours(corpora), markers(corpora)
    with styled():
        fig = Figure(figsize=(9.2, 0.9 + 3.1 * len(sites)), layout="constrained")
        fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
        axes = fig.subplots(len(sites), 2, squeeze=False)
        for (norms, sparsity), site in zip(axes, sites, strict=True):
            for n, corpus in enumerate(corpora):
                here = statistics[(statistics["site"] == site) & (statistics["corpus"] == corpus)].sort_values("layer")
                if here.empty:
                    continue
                # side by side, so that bars of corpora do not cover each other
                at = here["layer"].map(layers.index).to_numpy() + 0.6 * ((n + 0.5) / len(corpora) - 0.5)
                bars = [(here["norm_median"] - here["norm_q05"]).to_numpy(), (here["norm_q95"] - here["norm_median"]).to_numpy()]
                look = {"color": colours[corpus], "marker": shapes[corpus], "markersize": 5, "linewidth": 1.0}
                norms.errorbar(at, here["norm_median"], yerr=bars, label=corpus, **look)
                norms.plot(at, here["norm_max"], linestyle="", marker="_", markersize=7, color=colours[corpus])
                sparsity.plot(at, 100 * here["natural_sparsity"], **look)
            norms.set(yscale="log" if statistics["norm_max"].max() > 10 * statistics["norm_q05"].min() else "linear", ylabel=f"norm, {site}")
            sparsity.set(ylabel="entries near zero (%)")
            for ax in (norms, sparsity):
                ax.set_xticks(range(len(layers)), [layer_name(int(layer)) for layer in layers])
        handles, labels = axes[0, 0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=4, title="text")
        return fig


def _figure(value: float) -> Cell:
    return Cell(f"{value:,.3g}" if value < 1000 else f"{value:,.0f}", value)


def _loss(share: float) -> Cell:
    return Cell(f"{100 * share:.2g} %" if isfinite(share) else "overflows", share)

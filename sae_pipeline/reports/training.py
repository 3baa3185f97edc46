"""The section on training: how every SAE came to its loss, its sparsity and its dead latents, and what went wrong on the way."""

from __future__ import annotations

from functools import partial

import pandas as pd
from matplotlib.figure import Figure

from sae_pipeline.analysis.amounts import compact
from sae_pipeline.reports.blocks import Cell, Plot, Section, Table, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.style import named_colours, styled
from sae_pipeline.reports.wording import counted, decimal, layer_name, percent
from sae_pipeline.saes.monitoring import DEAD_SHARE_WARNING, L0_TOLERANCE

PANELS = (
    ("explained_variance", "explained variance of the batch"),
    ("l0_ratio", "L0 over its target"),
    ("dead_share", "share of dead latents"),
    ("learning_rate", "learning rate"),
)
"""Columns drawn against the tokens seen, and what their axes say."""


def training_section(training: pd.DataFrame, saes: pd.DataFrame, diverged: pd.DataFrame) -> Section:
    """How the SAEs of a study were trained.

    Args:
        training: rows of the warehouse's ``training``: one per SAE and monitored step.
        saes: rows of ``saes``.
        diverged: rows of ``diverged``: one per arm that was stopped.
    """
    title = "Training"
    stopped = () if diverged.empty else (divergence_table(diverged),)
    if training.empty:
        return Section("training", title, ("No training of this study has been recorded.", *_diverged(diverged)), tables=stopped)
    # A loss part is called sparsity, too: what an SAE was asked for has another name here.
    wanted = saes[["sae_id", "mix", "layer", "architecture", "sparsity"]].rename(columns={"sparsity": "wanted_l0"})
    curves = training.merge(wanted, on="sae_id")
    curves["l0_ratio"] = curves["l0"] / curves["wanted_l0"]
    ended = curves.sort_values("step", kind="stable").groupby("sae_id", sort=False).tail(1)
    dead = ended[ended["dead_share"] > DEAD_SHARE_WARNING]
    missed = saes[_missed(saes) > L0_TOLERANCE]
    sentences = (
        f"{counted(len(ended), 'SAE')} trained; {_dead(dead)}",
        *_diverged(diverged),
        _sparsity(missed, saes),
        *trunks(saes),
        "Loss and L0 here are those of training batches; every comparison rests on held-out text.",
    )
    return Section("training", title, sentences, plots=(curve_plot(curves, ended),), tables=(*stopped, end_table(ended, saes)))


def _diverged(diverged: pd.DataFrame) -> tuple[str, ...]:
    """The sentence on arms that were stopped, if there are any."""
    if diverged.empty:
        return ()
    first = diverged.iloc[0]
    others = f", and {len(diverged) - 1} more" if len(diverged) > 1 else ""
    verb = "is" if len(diverged) == 1 else "are"
    return (
        f"{counted(len(diverged), 'SAE')} diverged and {verb} in no comparison: {first['sae_id']} at step {first['step']} of {first['steps']} "
        f"(learning rate {first['learning_rate']:g}){others}.",
    )


def divergence_table(diverged: pd.DataFrame) -> Table:
    """Where every arm that diverged was stopped."""
    columns = ("SAE", "layer", "stopped at step", "of", "loss", "learning rate")
    rows = tuple(
        text_row(
            r.sae_id, Cell(layer_name(int(r.layer)), int(r.layer)), Cell(f"{r.step:,}", int(r.step), mark="warning"), Cell(f"{r.steps:,}", int(r.steps)),
            "not finite" if pd.isna(r.loss) else Cell(f"{r.loss:.4g}", r.loss), Cell(f"{r.learning_rate:g}", r.learning_rate),
        ) for r in rows_of(diverged)
    )  # fmt: skip
    return Table("SAEs that diverged: stopped before the update of that step, not evaluated, and not trained again as they are", columns, rows)


def trunks(saes: pd.DataFrame) -> tuple[str, ...]:
    """The sentence on token budgets that share a trunk, if there are any."""
    on_trunk = saes[saes["trunk_tokens"].notna()]
    if on_trunk.empty:
        return ()
    own = len(saes) - len(on_trunk)
    others = f"; the other {own} have a schedule of their own, which is another treatment" if own else ""
    return (
        f"The budgets of {counted(len(on_trunk), 'SAE')} share a trunk: one run at constant rate, from which each branches off with a decay of its own, "
        f"so that SAEs of different budgets are not independent runs{others}.",
    )


def _schedule(trunk_tokens: int | None, trunk_steps: int) -> str:
    """How an SAE came by its steps, in the end table's words."""
    if pd.isna(trunk_tokens):
        return "own"
    return f"trunk, {trunk_steps:,} shared steps" if trunk_steps else "trunk"


def _missed(saes: pd.DataFrame) -> pd.Series:
    """Relative miss of the wanted L0 on held-out activations; TopK may use fewer than k where fewer are positive, which is no miss."""
    return (saes["final_l0"] / saes["sparsity"] - 1).abs().where(saes["architecture"] != "topk", 0.0)


def _dead(dead: pd.DataFrame) -> str:
    if dead.empty:
        return f"none ended with more than {percent(DEAD_SHARE_WARNING)} of its latents dead."
    worst = dead.sort_values("dead_share", kind="stable").iloc[-1]
    return (
        f"{counted(len(dead), 'SAE')} ended with more than {percent(DEAD_SHARE_WARNING)} of the latents dead; most dead are those of {worst['sae_id']} "
        f"({percent(worst['dead_share'])})."
    )


def _sparsity(missed: pd.DataFrame, saes: pd.DataFrame) -> str:
    if missed.empty:
        return f"Every SAE is within {percent(L0_TOLERANCE)} of the L0 it was asked for, measured on activations that no training order contains."
    worst = missed.loc[_missed(missed).sort_values(kind="stable").index[-1]]
    return (
        f"{len(missed)} of {counted(len(saes), 'SAE')} miss the L0 asked for by more than {percent(L0_TOLERANCE)}; "
        f"{worst['sae_id']} misses most ({decimal(worst['final_l0'], 1)} instead of {worst['sparsity']:g})."
    )


def curve_plot(curves: pd.DataFrame, ended: pd.DataFrame) -> Plot:
    """Every SAE's training under a statement about where the architectures ended."""
    by_architecture = ended.groupby("architecture")["explained_variance"].median().sort_values(kind="stable")
    best, worst = by_architecture.index[-1], by_architecture.index[0]
    said = f"Training ends at an explained variance of {decimal(by_architecture.iloc[-1], 2)} in the median {best} SAE"
    if best != worst:
        said += f" and {decimal(by_architecture.iloc[0], 2)} in the median {worst} SAE"
    caption = "One line per SAE, coloured by architecture, against the activations it has seen. Explained variance and L0 are of training batches."
    return Plot("training", said, caption, curves, partial(against_tokens, curves, said))


def against_tokens(curves: pd.DataFrame, title: str) -> Figure:
    """Four panels of curves.

    Args:
        curves: columns sae_id, architecture, tokens and those of ``PANELS``.
        title: the statement the figure supports.
    """
    architectures = sorted(set(curves["architecture"]))
    colours = named_colours(architectures)
    with styled():
        fig = Figure(figsize=(9.2, 6.4), layout="constrained")
        fig.suptitle(title, x=0.01, ha="left", fontweight="bold", wrap=True)
        for ax, (column, said) in zip(fig.subplots(2, 2).flat, PANELS, strict=True):
            for architecture in architectures:
                label: str | None = architecture
                for _, line in curves[curves["architecture"] == architecture].groupby("sae_id", sort=False):
                    ax.plot(line["tokens"], line[column], color=colours[architecture], linewidth=0.8, alpha=0.7, label=label)
                    label = None  # one entry per architecture in the legend
            ax.set(ylabel=said, xlabel="activations seen")
        low = float(curves["explained_variance"].quantile(0.05))
        fig.axes[0].set_ylim(bottom=max(low, -0.5))  # the first steps of an SAE say nothing, and hide the rest
        handles, labels = fig.axes[0].get_legend_handles_labels()
        fig.legend(handles, labels, loc="outside lower center", ncols=6, title="architecture")
        return fig


def end_table(ended: pd.DataFrame, saes: pd.DataFrame) -> Table:
    """Where every SAE ended, and what it cost."""
    columns = (
        "SAE",
        "layer",
        "schedule",
        "loss",
        "L0 asked for",
        "L0 on held-out activations",
        "dead latents",
        "activations",
        "per second",
        "memory",
    )
    costs = ended.set_index("sae_id")
    memory = costs["device_bytes"].where(costs["device_bytes"] > 0, costs["resident_bytes"]) / 2**20
    rows = tuple(
        text_row(
            r.sae_id, Cell(layer_name(int(r.layer)), int(r.layer)), _schedule(r.trunk_tokens, int(r.trunk_steps)), Cell(f"{r.final_loss:.4f}", r.final_loss), Cell(f"{r.sparsity:g}", r.sparsity),
            Cell(decimal(r.final_l0, 1), r.final_l0), _dead_cell(costs.loc[r.sae_id, "dead_share"]), Cell(compact(int(r.tokens)), int(r.tokens)),
            Cell(f"{costs.loc[r.sae_id, 'tokens_per_second']:,.0f}", costs.loc[r.sae_id, "tokens_per_second"]),
            Cell(f"{memory[r.sae_id]:,.0f} MiB", memory[r.sae_id]),
        ) for r in rows_of(saes[saes["sae_id"].isin(costs.index)])
    )  # fmt: skip
    return Table("How every SAE ended (loss: squared error of the last batch over the variance of the inputs)", columns, rows, folded=True)


def _dead_cell(share: float) -> Cell:
    return Cell(f"{100 * share:.1f} %", share, mark="warning" if share > DEAD_SHARE_WARNING else None)

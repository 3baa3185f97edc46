"""The section on positions: what a token's place in the context does to activations, latents and losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from sae_pipeline.metrics.positions.profiles import DECILE_COLUMNS, TWO_PEAKS
from sae_pipeline.reports import position_figures
from sae_pipeline.reports.blocks import FOLD_ROWS, Cell, Plot, Section, Table, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.position_figures import CONDITION_WORDS
from sae_pipeline.reports.wording import NONE, counted, decimal, digits_for, interval, layer_name, listed, signed, times

TITLE = "Positions"


def position_section(positions: Mapping[str, pd.DataFrame], saes: pd.DataFrame) -> Section:
    """What the position study of one site found.

    Args:
        positions: rows of the warehouse's ``position_studies``, ``position_curves``, ``position_effects``,
            ``position_features`` and ``position_tokens``.
        saes: rows of the warehouse's ``saes``, for their architectures.
    """
    studies, effects = positions["position_studies"], positions["position_effects"]
    if studies.empty:
        return Section("positions", TITLE, ("No hook point of this site has been read for the position study.",))
    architectures = saes.set_index("sae_id")["architecture"]
    named = {name: frame.assign(architecture=frame["sae_id"].map(architectures)) for name, frame in positions.items() if "sae_id" in frame.columns}
    curves, first = named["position_curves"], _first(effects, architectures)
    plots: list[Plot] = []
    left_out: list[str] = []
    if first:
        plots += _latent_plots(curves, effects, first)
        spread, left_out = _spread_plots(named["position_tokens"], named["position_features"], first, architectures[first[0]])
        plots += spread
    plots += _loss_plots(curves, effects, first)
    tables = [pattern_table(named["position_effects"]), loss_table(named["position_effects"])]
    return Section("positions", TITLE, (*_sentences(studies, effects), *left_out), plots=tuple(plots), tables=tuple(tables))


def _first(effects: pd.DataFrame, architectures: pd.Series) -> list[str]:
    """The SAEs of the architecture that comes first, one per layer: those the figures show."""
    ids = list(dict.fromkeys(effects["sae_id"].dropna()))
    return [sae_id for sae_id in ids if architectures[sae_id] == architectures[ids[0]]]


def _sentences(studies: pd.DataFrame, effects: pd.DataFrame) -> list[str]:
    one = studies.iloc[0]
    said = [
        f"{int(one['tokens']):,} tokens of {counted(int(one['documents']), 'document')} of {one['evaluation_set']} were read at "
        f"{counted(len(studies), 'layer')}, with SAEs of {one['mix']} at {times(one['expansion'])}, the first arm of each architecture. Position 0 holds "
        "BOS: it is drawn apart and enters no figure below.",
        "The share of variance that position explains has no bias from the number of positions: around 0 there is no pattern. Late means the second half of "
        "the context; before that a causal model tells a position from how few tokens it sees, even without embeddings.",
    ]
    reasons = studies["not_applicable"].dropna()
    if len(reasons):
        said.append(f"Zeroing and shuffling the position embeddings is not applicable: {reasons.iloc[0]}.")
    else:
        said.append("Zeroed: every position embedding is zero. Shuffled: every context is given its position embeddings in an order of its own.")
    losses = _figures(effects, "cross_entropy", "mean")
    losses = losses[losses["sae_id"].isna() & (losses["condition"] != "intact")].drop_duplicates("condition")
    if len(losses):
        rises = [
            f"{signed(r.rise, digits_for(r.rise_low, r.rise_high))} {interval(r.rise_low, r.rise_high)} when {CONDITION_WORDS[r.condition]}"
            for r in rows_of(losses)
        ]
        said.append(f"The model's cross-entropy changes by {listed(rises)} (nats per token).")
    return said


def _figures(effects: pd.DataFrame, quantity: str, figure: str) -> pd.DataFrame:
    return effects[(effects["quantity"] == quantity) & (effects["figure"] == figure)]


# ------------------------------------------------------------------------------------------------ figures


def _latent_plots(curves: pd.DataFrame, effects: pd.DataFrame, first: list[str]) -> list[Plot]:
    """Mean activation per position: with and without position 0, and under each condition."""
    latents = curves[curves["quantity"] == "latent_mean"]
    intact = latents[latents["condition"] == "intact"]
    frequency = _figures(effects, "latent_mean", "dominant_frequency")
    strongest = frequency[(frequency["condition"] == "intact") & frequency["sae_id"].isin(first)].dropna(subset="estimate")
    if len(strongest):
        row = strongest.iloc[0]
        length = int(curves["position"].max())
        waves = f"The strongest wave of {row['sae_id']} has {counted(round(row['estimate'] * length), 'cycle')} in {length} positions"
    else:
        waves = "Mean activation of the latents by position"
    caption = "Mean activation of all latents at each position, a curve per layer, with intervals over documents."
    shown = latents[latents["sae_id"].isin(first)]
    said = _pattern_statement(_figures(effects, "latent_mean", "position_share_late"), first)
    draw = position_figures
    return [
        Plot("positions", waves, caption, intact, partial(draw.with_and_without_position_0, intact, waves, "mean activation")),
        Plot("positions-conditions", said, caption, shown, partial(draw.by_condition, shown, said, "mean activation")),
    ]


def _pattern_statement(shares: pd.DataFrame, first: list[str]) -> str:
    """How much position explains where it explains most, and what is left of it under the other conditions."""
    here = shares[shares["sae_id"].isin(first)].dropna(subset="estimate")
    if here.empty:
        return "Mean activation of the latents by position"
    most = here[here["condition"] == "intact"].sort_values("estimate", kind="stable").iloc[-1:]
    at = here[here["sae_id"].isin(most["sae_id"])]
    parts = [f"{_share(r.estimate)} {CONDITION_WORDS[r.condition]}" for r in rows_of(at)]
    layer = layer_name(int(at["layer"].iloc[0]))
    return f"Late in the context position explains, of the variance of the mean activation at {layer}: {listed(parts)}"


def _spread_plots(tokens: pd.DataFrame, features: pd.DataFrame, first: list[str], architecture: str) -> tuple[list[Plot], list[str]]:
    """Tokens and latents by their mean and spread; and why figures are left out."""
    tokens, features = (frame[frame["sae_id"].isin(first)].reset_index(drop=True) for frame in (tokens, features))
    fired = features[features["mean"] > 0]
    said = {
        "tokens": f"Tokens of the {architecture} SAEs by mean and spread of their latents",
        "features": f"Mean and standard deviation of the {architecture} SAEs' latents{_correlation(fired)}",
        "density": f"{(features['density'] > 0.1).sum():,} of {counted(len(features), 'latent')} of the {architecture} SAEs fire on more than a tenth of the tokens",
        "deciles": f"Half of the latents of the {architecture} SAEs have a median activation below {fired['d50'].median():.3g} where they fire",
    }
    of_latents = partial(position_figures.feature_spread, fired)
    drawn: dict[str, tuple[str, pd.DataFrame, Callable[..., Figure]]] = {
        "tokens": ("A dot per token, coloured by its position.", tokens, partial(position_figures.token_spread, tokens)),
        "features": ("A dot per latent that fired.", fired, partial(of_latents, against="std", ylabel="standard deviation")),
        "density": ("A dot per latent that fired.", fired, partial(of_latents, against="density", ylabel="share of tokens it fires on")),
        "deciles": ("Nine dots per latent, one for each decile.", fired, partial(position_figures.decile_levels, fired, deciles=DECILE_COLUMNS)),
    }
    plots = [
        Plot(f"positions-{name}", said[name], caption, frame, partial(draw, title=said[name]))
        for name, (caption, frame, draw) in drawn.items()
        if len(frame)
    ]
    return plots, [] if len(fired) else [f"No latent of the {architecture} SAEs fired on this text, so there are no figures of single latents."]


def _correlation(fired: pd.DataFrame) -> str:
    """How the latents' mean and spread correlate, where there is an answer."""
    logarithms = fired.loc[fired["std"] > 0, ["mean", "std"]].apply(np.log10)
    if (logarithms.nunique() < 2).any():
        return ""
    return f" correlate at {decimal(float(np.corrcoef(logarithms['mean'], logarithms['std'])[0, 1]), 2)} (of their logarithms)"


def _loss_plots(curves: pd.DataFrame, effects: pd.DataFrame, first: list[str]) -> list[Plot]:
    """Cross-entropy and the SAE's error by position."""
    plots = []
    draw = position_figures
    losses = curves[(curves["quantity"] == "cross_entropy") & (curves["sae_id"].isna() | curves["sae_id"].isin(first))]
    if len(losses):
        rise = _figures(effects, "cross_entropy", "mean")
        rise = rise[rise["sae_id"].isin(first)]
        largest = rise.sort_values("rise", kind="stable").iloc[-1:]
        said = "Cross-entropy by position" + "".join(
            f": reconstruction costs most at {layer_name(int(r.layer))}, {signed(r.rise, 2)} nats per token" for r in rows_of(largest)
        )
        caption = "Mean loss of the tokens at each position; the interval over documents is that of the intact model. Right: the site replaced by what the SAE makes of it."
        plots.append(Plot("positions-loss", said, caption, losses, partial(draw.losses, losses, said)))
    errors = curves[(curves["quantity"] == "mse") & curves["sae_id"].isin(first)]
    if len(errors):
        said = "Squared error of the SAE by position"
        caption = "Mean squared error (raw units of the model) at each position, a curve per layer, with intervals over documents."
        plots.append(Plot("positions-error", said, caption, errors, partial(draw.by_condition, errors, said, "mean squared error")))
    return plots


# ------------------------------------------------------------------------------------------------ tables


def pattern_table(effects: pd.DataFrame) -> Table:
    """How strong the pattern over positions is: a row per layer, what is looked at, and condition."""
    wanted = ("position_share", "position_share_late", "dominant_frequency", "dominant_power_share")
    rows = []
    for (layer, subject, condition), here in _grouped(effects[effects["figure"].isin([*wanted, "bimodality"])]):
        found = {(r.quantity, r.figure): r for r in rows_of(here)}
        for quantity, words in (("activations", "activations"), ("activation_norm", "norm"), ("latent_mean", "mean of latents")):
            if any((quantity, figure) in found for figure in wanted):
                cells = [_estimate(found.get((quantity, figure)), digits) for figure, digits in zip(wanted, (3, 3, 4, 2), strict=True)]
                peaks = _peaks(found.get(("feature_mean", "bimodality"))) if quantity == "latent_mean" else Cell(NONE)
                rows.append(text_row(Cell(layer_name(layer), layer), subject, words, CONDITION_WORDS[condition], *cells, peaks))
    columns = ("layer", "SAE", "what", "positions", "share by position", "the same, late", "cycles per position", "its share of power", "bimodality")
    caption = (
        "Pattern over positions, with intervals over documents. Strongest wave: periodogram of the curve of means without position 0, straight line removed, no "
        f"taper. Bimodality: Sarle's coefficient of the logarithms of the latents' means; above {TWO_PEAKS:.3f} points to two kinds of latents."
    )
    return Table(caption, columns, tuple(rows), folded=len(rows) > FOLD_ROWS)


def loss_table(effects: pd.DataFrame) -> Table:
    """Losses of model and SAE, a row per layer, SAE and condition."""
    rows = []
    for (layer, subject, condition), here in _grouped(effects[effects["figure"] == "mean"]):
        found = {r.quantity: r for r in rows_of(here)}
        cells = [_estimate(found.get(quantity)) for quantity in ("cross_entropy", "mse", "nmse")]
        rises = [_rise(found.get(quantity)) for quantity in ("cross_entropy", "nmse")]
        rows.append(text_row(Cell(layer_name(layer), layer), subject, CONDITION_WORDS[condition], *cells, *rises))
    columns = ("layer", "SAE", "positions", "cross-entropy", "mse", "nmse", "cross-entropy, rise", "nmse, rise")
    caption = "Losses with intervals over documents; rises against the intact model are paired by document. Reconstructed: the site replaced by the SAE's output."
    return Table(caption, columns, tuple(rows), folded=len(rows) > FOLD_ROWS)


def _grouped(effects: pd.DataFrame) -> Any:
    """Rows by layer, SAE (the model itself first) and condition, in their order."""
    return effects.assign(subject=effects["sae_id"].fillna("the model")).groupby(["layer", "subject", "condition"], sort=False)


def _estimate(row: Any, digits: int | None = None) -> Cell:
    """Estimate and interval; without ``digits`` as many as the interval calls for."""
    if row is None or pd.isna(row.estimate):
        return Cell(NONE)
    digits = digits_for(row.low, row.high) if digits is None else digits
    return Cell(f"{decimal(row.estimate, digits)} {interval(row.low, row.high, digits)}", row.estimate)


def _rise(row: Any) -> Cell:
    if row is None or pd.isna(row.rise):
        return Cell(NONE)
    digits = digits_for(row.rise_low, row.rise_high)
    return Cell(f"{signed(row.rise, digits)} {interval(row.rise_low, row.rise_high, digits)}", row.rise)


def _peaks(row: Any) -> Cell:
    cell = _estimate(row, 2)
    return Cell(f"{cell.text} ▲", cell.sort, hint="above the cut") if isinstance(cell.sort, float) and cell.sort > TWO_PEAKS else cell


def _share(value: float) -> str:
    """A share that may lie a little below 0, as per cent."""
    return f"{decimal(100 * value, 1)} %"

"""The section on concepts and directions: which concepts have a latent, and how few latents write a direction."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial

import numpy as np
import pandas as pd

from sae_pipeline.concepts.directions import MEAN_DIFFERENCE, PURSUIT, SAE_ITSELF
from sae_pipeline.concepts.frequency_fit import wilson_interval
from sae_pipeline.concepts.measure import KEYWORD, TOKEN
from sae_pipeline.concepts.true_direction import FEWEST_PROMPTS
from sae_pipeline.reports import concept_figures
from sae_pipeline.reports.blocks import FOLD_ROWS, Cell, Plot, Section, Table, drawn_rows, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.wording import NONE, counted, decimal, digits_for, interval, layer_name, listed, percent, signed, times

TITLE = "Concepts and directions"

ENOUGH = 0.8
"""Cosine at which a direction counts as written, for the table; the figure shows all of the curve."""

FEW_LATENTS = 8
"""Number of latents at which SAEs are compared in words."""

RELIABLE = 0.8
"""Cosine of a sample's direction with the true one below which the report says so."""

BINS_PER_DECADE = 2
"""Bins of frequency in the figure, per factor of ten."""


def concepts_section(concepts: Mapping[str, pd.DataFrame], saes: pd.DataFrame, confidence: float, lists: Collection[str] = ()) -> Section:
    """What the concept study of one site found.

    Args:
        concepts: rows of the warehouse's ``concept_studies``, ``concept_features``, ``concept_fits``, ``tail_recall``,
            ``directions``, ``direction_fits`` and ``direction_latents``.
        saes: rows of the warehouse's ``saes``, for their mixes and expansion factors.
        confidence: level of the intervals.
        lists: names of the lists of words that the study looks for.
    """
    studies = concepts["concept_studies"]
    if studies.empty:
        return Section("concepts", TITLE, ("No hook point of this site has been looked at for concepts.",))
    where = saes.set_index("sae_id")[["mix", "expansion"]]
    named = {name: frame.join(where, on="sae_id") for name, frame in concepts.items() if "sae_id" in frame.columns}
    widest = {name: frame[frame["expansion"] == frame["expansion"].max()] for name, frame in named.items()}
    of_tokens, left_out = _concept_plots(widest, confidence)
    plots = [*of_tokens, *_direction_plots(widest["direction_fits"])]
    tables = [fit_table(named["concept_fits"]), keyword_table(named["concept_features"])]
    tables += [direction_table(named["direction_fits"], named["direction_latents"])]
    features = concepts["concept_features"]
    judged = set(features.loc[features["kind"] == KEYWORD, "concept"])
    rare = [name for name in lists if name not in judged]
    sentences = (*_sentences(studies, concepts["directions"], rare), *left_out)
    return Section("concepts", TITLE, sentences, plots=tuple(plots), tables=tuple(table for table in tables if table.rows))


def _sentences(studies: pd.DataFrame, directions: pd.DataFrame, rare: list[str]) -> list[str]:
    one = studies.iloc[0]
    kinds = [counted(int(one["token_concepts"]), "token")] * bool(one["token_concepts"])
    kinds += [counted(int(one["keyword_concepts"]), "list") + " of words"] * bool(one["keyword_concepts"])
    said = [
        f"{listed(kinds) or 'No concepts'} were looked for in {int(one['tokens']):,} tokens of {counted(int(one['documents']), 'document')} "
        f"({one['evaluation_sets']}), with the first arm of every mix and expansion factor.",
        f"A concept has a feature when the latent with the best F1 on one half of the documents has an F1 of at least {one['f1_cut']:g} on the other half; a "
        f"latent says yes where it fires at all. Concepts with fewer than {int(one['min_occurrences'])} occurrences in either half are not judged. Frequencies "
        "are those of the SAE's own training mix.",
    ]
    if rare:
        said.append(
            f"Not judged, because their words occur too rarely in the text or not at all: the {'list' if len(rare) == 1 else 'lists'} {listed(rare)}."
        )
    missing = directions[directions["norm"].isna()]["direction"].unique().tolist()
    if missing:
        said.append(f"Not applicable, for lack of {FEWEST_PROMPTS} prompts on either side that differ from the other's: {listed(missing)}.")
    unsure = directions[directions["reliability"] < RELIABLE]
    if len(unsure):
        names = [f"{r.direction} at {layer_name(r.layer)} ({decimal(r.reliability, 2)})" for r in rows_of(unsure)]
        said.append(
            f"The cosine of the sample's direction with the true one is below {RELIABLE:g} for {listed(names)}: latents for it were chosen on much noise, and more "
            "prompts would find better ones. Where it is 0 there is no figure."
        )
    return said


# ------------------------------------------------------------------------------------------------ figures


def _concept_plots(widest: Mapping[str, pd.DataFrame], confidence: float) -> tuple[list[Plot], list[str]]:
    """Has-a-feature against frequency, and by rank, of the widest SAEs; and why a figure is left out."""
    tokens, fits, recall = (widest[name] for name in ("concept_features", "concept_fits", "tail_recall"))
    tokens, fits = tokens[tokens["kind"] == TOKEN], fits[fits["kind"] == TOKEN]
    if tokens.empty:
        return [], []
    bins, width = frequency_bins(tokens, confidence), times(float(tokens["expansion"].iloc[0]))
    rising, falling = int((fits["low"] > 0).sum()), int((fits["high"] < 0).sum())
    said = f"In {rising} of {counted(len(fits), 'SAE')} frequent tokens have a feature more often than rare ones" + (
        f", in {falling} less often" if falling else ""
    )
    caption = (
        f"Share of tokens that have a feature, by occurrences per million tokens of the SAE's training mix, at {width}: bins of half a power of ten with "
        "Wilson intervals, and the logistic fit. Tokens that a mix does not hold are in the fit alone."
    )
    plots, left_out = [], []
    if len(bins):
        # Both have an interval; that of a fit is of its slope.
        rows = drawn_rows(share=bins, fit=fits.rename(columns={"low": "slope_low", "high": "slope_high"}))
        plots.append(Plot("concepts-frequency", said, caption, rows, partial(concept_figures.by_frequency, bins, fits, said)))
    else:
        left_out.append("No token that was looked for occurs in a training mix, so there is no figure of shares by frequency.")
    ranked = recall.dropna(subset="rank_low")
    if len(ranked):
        said = _tail_statement(ranked)
        caption = (
            f"Share of tokens that have a feature, by rank of frequency in the SAE's training mix, at {width}: an estimate for all tokens of these ranks that are "
            "frequent enough to be judged, each drawn token weighted by 1 / its chance to be drawn, with Wilson intervals at the effective number of tokens. "
            "The shares in the title are means over the SAEs."
        )
        plots.append(Plot("concepts-tail", said, caption, recall, partial(concept_figures.by_rank, ranked, said)))
    return plots, left_out


def frequency_bins(tokens: pd.DataFrame, confidence: float) -> pd.DataFrame:
    """Shares of tokens with a feature by frequency: columns layer, mix, expansion, frequency (middle of the bin), tokens, share, low, high."""
    held = tokens[tokens["frequency"] > 0]
    place = (np.floor(np.log10(held["frequency"]) * BINS_PER_DECADE) + 0.5) / BINS_PER_DECADE
    binned = held.assign(bin=10**place).groupby(["layer", "mix", "expansion", "bin"], sort=False)["has_feature"].agg(["sum", "count"]).reset_index()
    rows = [(*place, count, hits / count, *wilson_interval(int(hits), count, confidence)) for *place, hits, count in binned.to_numpy().tolist()]
    return pd.DataFrame(rows, columns=["layer", "mix", "expansion", "frequency", "tokens", "share", "low", "high"])


def _tail_statement(recall: pd.DataFrame) -> str:
    """The shares in the first and the last bin of ranks, mean over all SAEs shown; counts of the draw, which prefers frequent tokens, are no shares."""
    means = recall.groupby(["rank_low", "rank_high"])["share"].mean().reset_index()
    ends = means.iloc[[0, -1]] if len(means) > 1 else means
    parts = [f"{percent(r.share)} of the tokens at ranks {r.rank_low:,} to {r.rank_high:,}" for r in rows_of(ends)]
    return f"{listed(parts)} have a feature"


def _direction_plots(fits: pd.DataFrame) -> list[Plot]:
    """Cosine against the number of latents; of the widest SAEs."""
    curves = fits[(fits["method"] != SAE_ITSELF) & fits["cosine"].notna()]
    if curves.empty:
        return []
    at = curves[curves["latents"] == min(FEW_LATENTS, curves["latents"].max())]
    few = at[at["method"] == MEAN_DIFFERENCE]
    low, high = few["cosine"].min(), few["cosine"].max()
    said = (
        f"{counted(int(few['latents'].iloc[0]), 'latent')} with the largest mean difference write directions to a cosine of "
        f"{decimal(low, 2)}{f' to {decimal(high, 2)}' if high > low else ''} (chance {decimal(few['chance_cosine'].mean(), 2)})"
    )
    caption = (
        "Cosine of the true direction with its least squares fit on n decoder rows, at the widest SAEs: the latents whose mean activation differs most (solid, "
        "with intervals over prompts) and orthogonal matching pursuit over all rows (dashed). Rows are chosen on one half of the prompts and judged on the "
        "other, without the noise of the prompts. Grey: the same with a random decoder."
    )
    return [Plot("concepts-directions", said, caption, fits, partial(concept_figures.by_latents, curves, said))]


# ------------------------------------------------------------------------------------------------ tables


def fit_table(fits: pd.DataFrame) -> Table:
    """The logistic fits, a row per SAE and kind of concept."""
    rows = [
        text_row(
            Cell(layer_name(r.layer), r.layer), r.mix, Cell(times(r.expansion), r.expansion), "tokens" if r.kind == TOKEN else "words", r.concepts,
            Cell(percent(r.with_feature / r.concepts), r.with_feature / r.concepts), _estimate(r.slope, r.low, r.high),
            _half(r.frequency_half, r.half_low, r.half_high), _estimate(r.youden_slope, r.youden_low, r.youden_high),
        )
        for r in rows_of(fits)
    ]  # fmt: skip
    columns = (
        "layer", "mix", "expansion", "concepts", "number", "with a feature", "slope per factor of ten", "half have one at, per million tokens",
        "slope by Youden's J",
    )  # fmt: skip
    caption = (
        "Logistic fit of having a feature on log10 of the frequency in the SAE's training mix, with profile likelihood intervals. A slope of ∞ means that a "
        "frequency separates the concepts; no slope that all or none have a feature; no frequency at half that the slope's interval holds 0. Of two latents with equal hit and "
        "false alarm rates that of the rarer concept has the lower F1, so a part of the slope is arithmetic; Youden's J (hit rate less false alarm rate), cut "
        "where F1 is, does not depend on the frequency."
    )
    return Table(caption, columns, tuple(rows), folded=len(rows) > FOLD_ROWS)


def keyword_table(features: pd.DataFrame) -> Table:
    """Concepts given as lists of words, a row per concept and SAE."""
    rows = [
        text_row(
            r.concept, Cell(layer_name(r.layer), r.layer), r.mix, Cell(times(r.expansion), r.expansion), Cell(_frequency(r.frequency), r.frequency),
            r.occurrences, NONE if pd.isna(r.latent) else int(r.latent), decimal(r.f1, 2), decimal(r.precision, 2), decimal(r.recall, 2),
            decimal(r.youden, 2), "yes" if r.has_feature else "no",
        )
        for r in rows_of(features[features["kind"] == KEYWORD])
    ]  # fmt: skip
    columns = (
        "words",
        "layer",
        "mix",
        "expansion",
        "per million tokens",
        "occurrences",
        "latent",
        "F1",
        "precision",
        "recall",
        "Youden's J",
        "has a feature",
    )
    caption = "Lists of words: the best latent of each SAE, judged on documents that it was not chosen on. A word is detected on its last token."
    return Table(caption, columns, tuple(rows), folded=len(rows) > FOLD_ROWS)


def direction_table(fits: pd.DataFrame, latents: pd.DataFrame) -> Table:
    """How each SAE writes each direction, a row per direction and SAE."""
    nearest = {(r.sae_id, r.direction): r for r in rows_of(latents)}
    rows = []
    for (direction, sae_id), here in fits.groupby(["direction", "sae_id"], sort=False):
        one, near = here.iloc[0], nearest[str(sae_id), str(direction)]
        own = next(rows_of(here[here["method"] == SAE_ITSELF]))
        given = here[here["method"] == MEAN_DIFFERENCE]
        compared = next(rows_of(given[given["latents"] == min(FEW_LATENTS, given["latents"].max())]))
        against = (
            f"{signed(compared.difference, 3)} {interval(compared.difference_low, compared.difference_high, 3)}"
            if pd.notna(compared.against) and pd.notna(compared.difference)
            else NONE
        )
        rows.append(
            text_row(
                direction, Cell(layer_name(one["layer"]), one["layer"]), one["mix"], Cell(times(one["expansion"]), one["expansion"]),
                _estimate(own.cosine, own.cosine_low, own.cosine_high), _estimate(compared.cosine, compared.cosine_low, compared.cosine_high),
                Cell(against, compared.difference), _latents_needed(given), _latents_needed(here[here["method"] == PURSUIT]),
                Cell(NONE) if pd.isna(near.max_decoder_cosine) else Cell(f"{decimal(near.max_decoder_cosine, 2)} (latent {near.latent}; chance {decimal(near.chance_cosine, 2)})", near.max_decoder_cosine),
            )
        )  # fmt: skip
    columns = (
        "direction", "layer", "mix", "expansion", "cosine of the SAE's own output", f"cosine with {FEW_LATENTS} latents", "against the first mix",
        f"latents for {ENOUGH:g}, by mean difference", f"latents for {ENOUGH:g}, by pursuit", "nearest decoder row",
    )  # fmt: skip
    caption = (
        "Directions written with the SAE's decoder: cosines with the true direction, of which the prompts are a sample, with intervals over prompts, in pairs "
        f"where SAEs are compared. Latents for {ENOUGH:g}: the fewest, of powers of two, whose least squares fit has this cosine with the direction."
    )
    return Table(caption, columns, tuple(rows), folded=len(rows) > FOLD_ROWS)


def _latents_needed(rows: pd.DataFrame) -> Cell:
    if rows["cosine"].isna().any():
        return Cell(NONE)
    reached = rows[rows["cosine"] >= ENOUGH]["latents"]
    return Cell(f"{reached.min()}", float(reached.min())) if len(reached) else Cell(f"> {rows['latents'].max()}", float("inf"))


def _estimate(value: float, low: float, high: float) -> Cell:
    if pd.isna(value):
        return Cell(NONE)
    digits = digits_for(low, high)
    return Cell(f"{_endless(value, digits)} [{_endless(low, digits)}, {_endless(high, digits)}]", value)


def _endless(value: float, digits: int) -> str:
    return decimal(value, digits) if np.isfinite(value) else "∞" if value > 0 else "−∞"


def _frequency(value: float) -> str:
    """Occurrences per million tokens with three digits."""
    if pd.isna(value):
        return NONE
    return f"{value:,.0f}" if 100 <= value < 1e6 else "0" if value == 0 else f"{value:.3g}" if value < 1e6 else "> 1,000,000"


def _half(value: float, low: float, high: float) -> Cell:
    """The frequency at which half have a feature; none where the data allow any."""
    return Cell(NONE) if pd.isna(low) or pd.isna(high) else Cell(f"{_frequency(value)} [{_frequency(low)}, {_frequency(high)}]", value)

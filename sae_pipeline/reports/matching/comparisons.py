"""Tables of pairs of SAEs: the four matchings, and for every factor what the pairs that differ in it alone have in common."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from sae_pipeline.reports.blocks import FOLD_ROWS, Cell, Table, number_cell, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.wording import NONE, decimal, interval, layer_name, signed

FACTOR_WORDS = {
    "mix": "training mix",
    "expansion": "expansion factor",
    "seed": "seed",
    "architecture": "architecture",
    "sparsity": "sparsity",
    "tokens": "token budget",
    "objective": "training objective",
}

MEASURE_WORDS = {"match_ratio": "match ratio", "shared_feature_ratio": "shared one to one"}

MEANS = ("shared_feature_ratio", "shared_both", "mean_cosine", "chance_shared_feature_ratio", "folded_shared_feature_ratio", "correlation_match_ratio",
         "feature_count_difference", "n", "n_other")  # fmt: skip
"""Columns of ``one_to_one`` that are averaged over the pairs of a row."""


def population(frame: pd.DataFrame) -> str:
    """The latents that figures are about: those alive where that is known."""
    return "alive" if (frame["population"] == "alive").any() else "all"


def decoder_features(matches: pd.DataFrame) -> pd.DataFrame:
    """The rows of the matching that everything but the first table is about: decoder directions of latents alive."""
    rows = matches[(matches["side"] == "decoder") & (matches["unit"] == "feature")]
    return rows[rows["population"] == population(rows)]


def factor_name(factor: str) -> str:
    """A factor in words."""
    return FACTOR_WORDS.get(factor, factor.replace("_", " "))


def both_ways(matching: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """One row per unordered pair: its row of ``one_to_one``, and the directed figures in either direction (``_back``: of the other SAE in this one)."""
    pairs = matching["one_to_one"]
    pairs = pairs[pairs["population"] == population(pairs)]
    figures = decoder_features(matching["matches"])[["sae_id", "other_sae_id", "match_ratio", "mmcs", "chance_match_ratio", "chance_mmcs"]]
    back = figures.rename(columns={"sae_id": "other_sae_id", "other_sae_id": "sae_id"})
    keys = ["sae_id", "other_sae_id"]
    return pairs.merge(figures, on=keys, how="left").merge(back, on=keys, how="left", suffixes=("", "_back"))


# ------------------------------------------------------------------------------------------------ tables


def four_table(matches: pd.DataFrame) -> Table:
    """Encoder and decoder, features and neurons, factor by factor."""
    whole = matches[matches["population"] == "all"]
    rows = []
    for (factor, side, unit), here in whole.groupby(["factor", "side", "unit"], sort=False):
        means = here[["match_ratio", "chance_match_ratio", "mmcs", "chance_mmcs"]].mean()
        rows.append(
            text_row(factor_name(str(factor)), f"{side} {unit}s", Cell(str(len(here)), len(here)), share(means["match_ratio"]),
                     share(means["chance_match_ratio"]), number_cell(means["mmcs"]), number_cell(means["chance_mmcs"]))
        )  # fmt: skip
    columns = ("pairs differ in", "matching", "directed pairs", "match ratio (%)", "by chance (%)", "MMCS", "by chance")
    caption = "The four matchings, all latents, means over directed pairs. A neuron is a dimension of the model; its vector runs over the latents."
    return Table(caption, columns, tuple(rows), folded=len(rows) > FOLD_ROWS)


def factor_tables(matching: Mapping[str, pd.DataFrame]) -> tuple[Table, ...]:
    """A table per factor: a row per layer and pair of levels."""
    pairs = both_ways(matching)
    return tuple(_factor_table(str(factor), here) for factor, here in pairs.groupby("factor", sort=False))


def _factor_table(factor: str, pairs: pd.DataFrame) -> Table:
    means = [*MEANS, "match_ratio", "mmcs", "chance_match_ratio", "match_ratio_back", "mmcs_back", "chance_match_ratio_back"]
    grouped = pairs.astype(dict.fromkeys(means, float)).groupby(["layer", "level", "other_level"], sort=False)
    table = grouped[means].mean().assign(pairs=grouped.size(), bound=grouped["bound"].max()).reset_index()
    optional = [
        (column, words)
        for column, words in (("folded_shared_feature_ratio", "one to one, folded (%)"), ("correlation_match_ratio", "alike by activations (%)"))
        if table[column].notna().any()
    ]
    bounded = (table["bound"] > 0).any()
    columns = (
        "layer", "A", "B", "pairs", "A found in B (%)", "B found in A (%)", "one to one (%)", "in the encoder too (%)", *(words for _, words in optional),
        "by chance: A in B (%)", "by chance: B in A (%)", "by chance: one to one (%)", "MMCS A to B", "MMCS B to A", "latents of A", "latents of B",
        "found of B − found of A (latents)", *(("cosine missed, at most",) if bounded else ()),
    )  # fmt: skip
    rows = tuple(
        text_row(
            Cell(layer_name(r.layer), int(r.layer)), r.level, r.other_level, Cell(str(r.pairs), int(r.pairs)), share(r.match_ratio), share(r.match_ratio_back),
            share(r.shared_feature_ratio), share(r.shared_both), *(share(getattr(r, column)) for column, _ in optional), share(r.chance_match_ratio),
            share(r.chance_match_ratio_back), share(r.chance_shared_feature_ratio), number_cell(r.mmcs), number_cell(r.mmcs_back), _count(r.n), _count(r.n_other),
            number_cell(r.feature_count_difference, 1, signed), *((number_cell(r.bound, 4),) if bounded else ()),
        ) for r in rows_of(table)
    )  # fmt: skip
    caption = f"Pairs that differ in the {factor_name(factor)} alone: what A and B have in common, means over pairs"
    return Table(caption, columns, rows, folded=len(rows) > FOLD_ROWS)


def pair_table(matching: Mapping[str, pd.DataFrame]) -> Table:
    """Every pair by itself."""
    columns = ("A", "B", "differ in", "A found in B (%)", "B found in A (%)", "one to one (%)", "by chance: A in B (%)", "by chance: B in A (%)",
               "by chance: one to one (%)", "mean cosine", "exact")  # fmt: skip
    rows = tuple(
        text_row(r.sae_id, r.other_sae_id, factor_name(r.factor), share(r.match_ratio), share(r.match_ratio_back), share(r.shared_feature_ratio),
                 share(r.chance_match_ratio), share(r.chance_match_ratio_back), share(r.chance_shared_feature_ratio), number_cell(r.mean_cosine),
                 "yes" if r.exact else f"within {decimal(r.bound, 4)}")
        for r in rows_of(both_ways(matching))
    )  # fmt: skip
    return Table("Every pair", columns, rows, folded=True)


def effects_table(effects: pd.DataFrame) -> Table:
    """What pairs have in common factor by factor, and the factors ranked at equal settings, layer by layer."""
    columns = (
        "layer", "measure", "matching", "latents", "pairs differ in", "pairs", "in common (%)", "interval", "by chance (%)", "held against pairs that differ in",
        "more at equal settings (points)", "interval of the difference", "rank",
    )  # fmt: skip
    rows = tuple(
        text_row(
            Cell(layer_name(r.layer), float(r.layer)), MEASURE_WORDS.get(r.measure, r.measure), r.side, r.population, factor_name(r.factor), Cell(str(r.pairs), int(r.pairs)),
            share(r.estimate), interval(100 * r.low, 100 * r.high, 1), share(r.chance), NONE if pd.isna(r.against) or r.against == r.factor else factor_name(r.against),
            number_cell(100 * r.difference, 1, signed), interval(100 * r.difference_low, 100 * r.difference_high, 1), Cell(NONE) if pd.isna(r.rank) else Cell(str(int(r.rank)), int(r.rank)),
        ) for r in rows_of(effects)
    )  # fmt: skip
    return Table(
        "What pairs have in common, by the factor they differ in; rank 1 leaves least in common at equal settings",
        columns,
        rows,
        folded=len(rows) > FOLD_ROWS,
    )


# ------------------------------------------------------------------------------------------------ cells


def share(value: float | None) -> Cell:
    """A share in per cent, one decimal; a dash where it was not measured."""
    return number_cell(value, 1, scale=100)


def _count(value: float) -> Cell:
    return Cell(f"{value:,.0f}", float(value))

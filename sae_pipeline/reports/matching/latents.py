"""Parts of the matching section about the latents themselves: widths and splitting, orphans, what seeds cover, layers, and the map."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd

from sae_pipeline.reports.blocks import FOLD_ROWS, Cell, Plot, Section, Table, number_cell, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.features.links import ShownLatents
from sae_pipeline.reports.matching import figures
from sae_pipeline.reports.matching.comparisons import decoder_features, factor_name, share
from sae_pipeline.reports.wording import counted, decimal, layer_name, listed

EXAMPLES = 40
"""Orphans shown with their text, the most frequent first; the warehouse holds all."""

MAX_CHILDREN = 4
"""Latents with this many children or more are one column."""

Frames = Mapping[str, pd.DataFrame]

SEEDS, NARROW, WIDE = "between seeds", "narrow SAE found in wide", "wide SAE found in narrow"


# ------------------------------------------------------------------------------------------------ widths


def widths_part(matching: Frames, saes: pd.DataFrame) -> Section | None:
    """Match ratio against the number of latents, and how many latents of the wider SAE a latent splits into."""
    frame = width_rows(decoder_features(matching["matches"]), saes)
    splits = matching["splits"]
    if frame["width"].nunique() < 2 and splits.empty:
        return None
    plots: tuple[Plot, ...] = ()
    sentences = []
    if frame["width"].nunique() > 1:
        said = _width_statement(frame)
        caption = "Mean over pairs; the width is that of the SAE whose latents are looked for. Dashed: chance."
        plots = (Plot("matching-widths", said, caption, frame, partial(figures.widths, frame, said)),)
        sentences.append(f"{said}.")
    tables = []
    if len(splits):
        table, said = _splits(splits, saes)
        tables.append(table)
        sentences.append(said)
    return Section("matching-widths", "Width and splitting", tuple(sentences), plots=plots, tables=tuple(tables))


def width_rows(matches: pd.DataFrame, saes: pd.DataFrame) -> pd.DataFrame:
    """Columns layer, comparison, width, match_ratio, chance: means over the pairs that differ in the seed, and in the width either way."""
    width = saes.set_index("sae_id")["d_sae"]
    kinds = matches.assign(comparison=None, width=matches["sae_id"].map(width), other_width=matches["other_sae_id"].map(width))
    kinds.loc[matches["factor"] == "seed", "comparison"] = SEEDS
    of_width = matches["factor"] == "expansion"
    kinds.loc[of_width & (kinds["width"] < kinds["other_width"]), "comparison"] = NARROW
    kinds.loc[of_width & (kinds["width"] > kinds["other_width"]), "comparison"] = WIDE
    grouped = kinds.dropna(subset="comparison").groupby(["layer", "comparison", "width"], sort=True)
    return grouped.agg(match_ratio=("match_ratio", "mean"), chance=("chance_match_ratio", "mean"), pairs=("match_ratio", "size")).reset_index()


def _width_statement(frame: pd.DataFrame) -> str:
    """How the match ratio between seeds goes from the narrowest to the widest dictionary, or how containment differs both ways."""
    seeds = frame[frame["comparison"] == SEEDS].groupby("width")["match_ratio"].mean().sort_index()
    if len(seeds) > 1:
        low, high = seeds.index[0], seeds.index[-1]
        return (
            f"Between seeds, {decimal(100 * seeds.iloc[0], 1)} % of the latents are found at {low:,.0f} latents and "
            f"{decimal(100 * seeds.iloc[-1], 1)} % at {high:,.0f}"
        )
    means = frame.groupby("comparison")["match_ratio"].mean()
    return listed([f"{decimal(100 * value, 1)} %: {kind}" for kind, value in means.items()])


def _splits(splits: pd.DataFrame, saes: pd.DataFrame) -> tuple[Table, str]:
    """Parents by their number of children, a row per layer and pair of widths, and the sentence about them."""
    width = saes.set_index("sae_id")["d_sae"]
    known = splits.assign(
        d_sae=splits["sae_id"].map(width), d_other=splits["other_sae_id"].map(width), kind=splits["children"].clip(upper=MAX_CHILDREN)
    )
    counts = known.pivot_table(index=["layer", "d_sae", "d_other"], columns="kind", values="parents", aggfunc="sum", fill_value=0)
    shares = counts.div(counts.sum(axis=1), axis=0)
    kinds = [int(kind) for kind in shares.columns]
    columns = ("layer", "latents of the narrow SAE", "of the wide", *(f"{kind}{' or more' if kind == MAX_CHILDREN else ''} (%)" for kind in kinds))
    rows = tuple(
        text_row(Cell(layer_name(layer), int(layer)), Cell(f"{narrow:,}", int(narrow)), Cell(f"{wide:,}", int(wide)), *(share(float(value)) for value in found))
        for (layer, narrow, wide), found in zip(shares.index, shares.to_numpy(), strict=True)
    )  # fmt: skip
    total = counts.sum()
    split = float(total[[kind for kind in kinds if kind > 1]].sum() / total.sum())
    said = f"A child is a latent of the wider SAE whose nearest parent is above the threshold: {decimal(100 * split, 1)} % of the narrow SAEs' latents have two children or more."
    return Table(
        "Latents of the narrow SAE by their number of children in the wide one, over all pairs", columns, rows, folded=len(rows) > FOLD_ROWS
    ), said


# ------------------------------------------------------------------------------------------------ orphans and seeds


def orphans_part(matching: Frames, shown: ShownLatents) -> Section | None:
    """How often the latents fire that no SAE differing in one factor has, against those that are found; and examples with their text."""
    counts = matching["orphans"]
    if counts.empty:
        return None
    grouped = counts.astype({"mean_density": float, "median_density": float}).groupby(["factor", "status"], sort=False)
    table = grouped.agg(
        saes=("sae_id", "nunique"), latents=("latents", "sum"), mean=("mean_density", "mean"), median=("median_density", "median")
    ).reset_index()
    rows = tuple(
        text_row(factor_name(r.factor), r.status, Cell(str(r.saes), int(r.saes)), Cell(f"{r.latents:,}", int(r.latents)), _rate(r.mean), _rate(r.median)) for r in rows_of(table)
    )  # fmt: skip
    columns = (
        "SAEs that differ in",
        "latents",
        "SAEs",
        "latents in all",
        "mean firing rate (% of tokens)",
        "median of the SAEs' medians (% of tokens)",
    )
    wide = counts.pivot_table(index=["factor", "sae_id"], columns="status", values="median_density").reset_index()
    plots: tuple[Plot, ...] = ()
    said = _rarer(counts)
    both = wide.dropna() if {"matched", "orphan"} <= set(wide.columns) else wide.iloc[:0]
    if len(both):
        caption = "A line per SAE, from the median firing rate of its latents found in other SAEs to that of its orphans; a panel per factor the others differ in."
        plots = (Plot("matching-orphans", said, caption, both, partial(figures.orphans, both, said)),)
    sentences = (
        f"{said}.",
        "An orphan is a latent alive whose decoder direction is above the threshold in no SAE that differs in that factor alone.",
    )
    summary = Table("Latents found in other SAEs, and orphans", columns, rows)
    return Section("matching-orphans", "Orphans", sentences, plots=plots, tables=(summary, *_examples(matching["orphan_features"], shown)))


def _rarer(counts: pd.DataFrame) -> str:
    """In how many SAEs the orphans fire less often than the latents that are found."""
    wide = counts.pivot_table(index=["factor", "sae_id"], columns="status", values="median_density")
    if not {"matched", "orphan"} <= set(wide.columns) or wide.dropna().empty:
        return "No SAE has both orphans and latents that are found"
    both = wide.dropna()
    rarer = int((both["orphan"] < both["matched"]).sum())
    return f"Orphans fire less often than latents that are found in {rarer} of {len(both)} comparisons of an SAE with those that differ in one factor"


def _examples(found: pd.DataFrame, shown: ShownLatents) -> tuple[Table, ...]:
    """The orphans that fire most, with the text that drives them."""
    most = found.sort_values("density", ascending=False, kind="stable")
    most = most[[(row.sae_id, int(row.latent)) in shown for row in rows_of(most)]].head(EXAMPLES)
    if most.empty:
        return ()
    columns = ("SAE", "latent", "found in none that differs in", "nearest cosine", "fires on (% of tokens)", "strongest token")
    rows = tuple(
        text_row(r.sae_id, shown.cell(r.sae_id, int(r.latent)), factor_name(r.factor), number_cell(r.best_cosine, 2), _rate(r.density), shown.text(r.sae_id, int(r.latent)))
        for r in rows_of(most)
    )  # fmt: skip
    caption = f"Orphans with text: the {len(rows)} that fire most of those with a page; a number leads to the latent's page"
    return (Table(caption, columns, rows, folded=len(rows) > FOLD_ROWS),)


def _rate(value: float) -> Cell:
    return number_cell(value, 3, scale=100)


def coverage_part(matching: Frames) -> Section | None:
    """How much of an SAE the dictionaries of other seeds hold together."""
    frame = matching["coverage"]
    if frame.empty:
        return None
    frame = frame.astype({"share": float, "low": float, "high": float})
    means = frame.groupby("seeds")["share"].mean().sort_index()
    said = f"{decimal(100 * means.iloc[0], 1)} % of an SAE's latents are found in one other seed" + (
        f", {decimal(100 * means.iloc[-1], 1)} % in {int(means.index[-1])} of them together" if len(means) > 1 else ""
    )
    if means.index[0] != 1:
        said = f"{decimal(100 * means.iloc[0], 1)} % of an SAE's latents are found in {counted(int(means.index[0]), 'other seed')} together"
    caption = "Mean over the choices of SAE and of other seeds, with the range over them; a line per setting."
    rows = tuple(
        text_row(Cell(layer_name(r.layer), int(r.layer)), r.setting, Cell(str(int(r.seeds)), int(r.seeds)), share(r.share), share(r.low), share(r.high),
                 share(r.chance_share)) for r in rows_of(frame)
    )  # fmt: skip
    columns = ("layer", "setting", "other seeds", "found (%)", "low (%)", "high (%)", "by chance (%)")
    table = Table("Latents found in the union of other seeds' dictionaries", columns, rows, folded=len(rows) > FOLD_ROWS)
    sentences, plots = [f"{said}."], [Plot("matching-coverage", said, caption, frame, partial(figures.coverage, frame, said))]
    if len(means) == 1:
        number = int(means.index[0])
        sentences.append(f"Every setting has {counted(number, 'other seed')}, so there is no curve over their number; more seeds would draw one.")
        plots = []
    return Section("matching-coverage", "What several seeds find together", tuple(sentences), plots=tuple(plots), tables=(table,))


# ------------------------------------------------------------------------------------------------ layers and map


def layers_part(matching: Frames) -> Section | None:
    """Which latents alive stay from layer to layer."""
    frame = matching["layer_matches"].dropna(subset=["alive_match_ratio"])
    frame = frame.assign(match_ratio=frame["alive_match_ratio"], chance_match_ratio=frame["alive_chance_match_ratio"], mmcs=frame["alive_mmcs"])
    apart = frame[frame["layer"] != frame["other_layer"]]
    if apart.empty:
        return None
    steps = apart.assign(distance=(apart["layer"] - apart["other_layer"]).abs()).groupby("distance")["match_ratio"].mean().sort_index()
    said = f"At the smallest distance between layers ({int(steps.index[0])}), {decimal(100 * steps.iloc[0], 1)} % of the latents alive are found" + (
        f"; at the largest ({int(steps.index[-1])}), {decimal(100 * steps.iloc[-1], 1)} %" if len(steps) > 1 else ""
    )
    caption = "Share of the latents alive of the layer on the left, in per cent, that are found in the layer below; one heat map per setting."
    rows = tuple(
        text_row(r.setting, Cell(layer_name(r.layer), int(r.layer)), Cell(layer_name(r.other_layer), int(r.other_layer)), share(r.match_ratio),
                 share(r.chance_match_ratio), number_cell(r.mmcs)) for r in rows_of(frame)
    )  # fmt: skip
    table = Table(
        "Latents alive of one layer found in another",
        ("setting", "layer", "other layer", "found (%)", "by chance (%)", "MMCS"),
        rows,
        folded=len(rows) > FOLD_ROWS,
    )
    plot = Plot("matching-layers", said, caption, frame, partial(figures.layer_maps, frame, said))
    return Section("matching-layers", "Layer by layer", (f"{said}.",), plots=(plot,), tables=(table,))


def map_part(matching: Frames) -> Section | None:
    """Where the decoder directions lie."""
    frame = matching.get("directions_map", pd.DataFrame())
    if frame.empty:
        return None
    orphans = set(zip(matching["orphan_features"]["sae_id"], matching["orphan_features"]["latent"], strict=True))
    known = frame.assign(orphan=[key in orphans for key in zip(frame["sae_id"], frame["latent"], strict=True)])
    said = f"{len(known):,} decoder directions of {counted(known['sae_id'].nunique(), 'SAE')}, laid out by UMAP"
    caption = "A plane per SAE. Dots that lie together have similar directions; distances between clusters and axes mean nothing. A picture, and no evidence for any finding."
    plot = Plot("matching-map", said, caption, known, partial(figures.directions_map, known, said))
    return Section("matching-map", "Map of directions", (f"{said}.",), plots=(plot,))

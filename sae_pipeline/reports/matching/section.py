"""The section itself: what matching found, in the order bottom line, factors, the four matchings, widths, orphans, seeds, layers, map."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import pandas as pd

from sae_pipeline.analysis.shared_start import shared_start
from sae_pipeline.reports.blocks import Claim, Plot, Section, drawn_rows
from sae_pipeline.reports.features.links import ShownLatents
from sae_pipeline.reports.matching import comparisons, figures
from sae_pipeline.reports.matching.comparisons import decoder_features, factor_name
from sae_pipeline.reports.matching.latents import coverage_part, layers_part, map_part, orphans_part, widths_part
from sae_pipeline.reports.wording import counted, decimal, interval, layer_name, listed, signed

TITLE = "Matching"
PLACES = ("encoder", "decoder")


def matching_section(matching: Mapping[str, pd.DataFrame], saes: pd.DataFrame, claims: tuple[Claim, ...], shown: ShownLatents) -> Section:
    """Which latents SAEs of one site share.

    Args:
        matching: rows of the warehouse's matching tables by name, and of ``factor_effects`` where it was drawn.
        saes: rows of ``saes``.
        claims: the findings about matching.
        shown: the latents that have a page.
    """
    matches = matching["matches"]
    if matches.empty:
        return Section("matching", TITLE, ("No two SAEs of this site differ in one factor alone, so there is nothing to match.",), claims)
    parts = (
        _factors(matching),
        _four(matching, matches),
        widths_part(matching, saes),
        orphans_part(matching, shown),
        coverage_part(matching),
        layers_part(matching),
        map_part(matching),
    )
    return Section("matching", TITLE, _sentences(matching, saes), claims, parts=tuple(part for part in parts if part is not None))


def _sentences(matching: Mapping[str, pd.DataFrame], saes: pd.DataFrame) -> tuple[str, ...]:
    rows, pairs = decoder_features(matching["matches"]), comparisons.both_ways(matching)
    threshold = decimal(float(rows["threshold"].iloc[0]), 2)
    greedy = pairs["greedy_shared_feature_ratio"].mean()
    alive = "that fired on held-out text" if comparisons.population(rows) == "alive" else "of the dictionary"
    return (
        f"{counted(len(pairs), 'pair')} of SAEs that differ in exactly one factor ({listed([factor_name(f) for f in dict.fromkeys(rows['factor'])], 8)}) were matched by the "
        f"signed cosine of their vectors. A latent {alive} is found in the other SAE when its highest cosine there is strictly above {threshold}: the match ratio is the share "
        "found, MMCS the mean of the highest cosines.",
        f"One to one means that every latent has at most one partner, chosen to make the cosines of all pairs largest together. On average {decimal(100 * greedy, 1)} % of the "
        f"smaller dictionary are shared where each latent takes its nearest, whoever else has taken it, and {decimal(100 * pairs['shared_feature_ratio'].mean(), 1)} % one to one; "
        f"{decimal(100 * pairs['shared_both'].mean(), 1)} % are above the threshold in the encoder as well (Paulo and Belrose 2025).",
        "Chance is the same for random unit vectors of the same shapes. Every figure depends on the threshold, so compare figures with each other and with chance rather than with 100 %.",
        *_start(matching, saes),
        *_left_out(matching["match_pairs"]),
    )


def _start(matching: Mapping[str, pd.DataFrame], saes: pd.DataFrame) -> tuple[str, ...]:
    """How much of what pairs of one seed share is where both began, where that is known."""
    start = shared_start(matching, saes)
    if start is None:
        return ()
    said = f"O{start.sentence[1:]}"
    return (f"{said}; {start.remedy}." if start.decides else f"{said}.",)


def _left_out(pairs: pd.DataFrame) -> tuple[str, ...]:
    """How many pairs the study could have matched and did not."""
    left = pairs[pairs["left_out"] > 0].groupby("factor", sort=False)[["matched", "possible"]].sum()
    if left.empty:
        return ()
    said = listed(
        [f"{int(row['matched'])} of {int(row['possible'])} that differ in the {factor_name(str(factor))}" for factor, row in left.iterrows()], 8
    )
    return (f"Of the pairs possible the study matched an even choice: {said} (matching.pairs_per_factor).",)


def _factors(matching: Mapping[str, pd.DataFrame]) -> Section:
    """What pairs have in common, by the factor they differ in."""
    effects = matching.get("factor_effects", pd.DataFrame())
    tables = comparisons.factor_tables(matching)
    plots: tuple[Plot, ...] = ()
    sentences: tuple[str, ...] = (
        "A row of the tables by factor is a pair of levels, averaged over the pairs of SAEs that share everything else; containment is given both ways.",
    )
    if len(effects):
        main = effects[(effects["measure"] == "match_ratio") & (effects["side"] == "decoder")]
        main = main[main["population"] == comparisons.population(main)].astype(
            dict.fromkeys(("estimate", "low", "high", "chance", "difference", "difference_low", "difference_high"), float)
        )
        main = main.sort_values(["layer", "difference"], kind="stable")
        said = _ranking(main)
        pairs = decoder_features(matching["matches"])
        levels = pairs.groupby(["layer", "factor", "level", "other_level"], sort=False)["match_ratio"].mean().reset_index()
        caption = (
            "Mean share of latents found in the other SAE; whiskers are its interval, dots single pairs of levels, the dashed mark is chance. "
            "The pairs of two factors may be of other widths and arms; factors are in the order that they have at equal settings."
        )
        plots = (
            Plot(
                "matching",
                said,
                caption,
                drawn_rows(factor=main, pair_of_levels=levels.rename(columns={"match_ratio": "estimate"})),
                partial(figures.factor_bars, main, levels, said),
            ),
        )
        sentences = (f"{said}.", *_unranked(main), *sentences)
        tables = (comparisons.effects_table(effects), *tables)
    return Section(
        "matching-factors", "What decides which latents are shared", sentences, plots=plots, tables=(*tables, comparisons.pair_table(matching))
    )


def _ranking(effects: pd.DataFrame) -> str:
    """The factor whose pairs have least in common at equal settings, and the one whose pairs have most, at the first layer where several are ranked."""
    ranked = effects.dropna(subset=["difference"])
    several = ranked[ranked.groupby("layer")["factor"].transform("nunique") > 1]
    if several.empty:
        first = effects.iloc[0]
        share = _with_interval(f"{decimal(100 * first['estimate'], 1)} %", first["low"], first["high"])
        return f"At {layer_name(first['layer'])}, SAEs that differ in the {factor_name(first['factor'])} alone share {share} of their latents"
    here = several[several["layer"] == several["layer"].iloc[0]]
    least, most = here.iloc[0], here.iloc[-1]
    against = str(least["against"])

    def told(row: pd.Series) -> str:
        if row["factor"] == against:
            return _with_interval(f"{decimal(100 * row['estimate'], 1)} %", row["low"], row["high"]) + " of their latents"
        points = _with_interval(f"{signed(100 * row['difference'], 1)} points", row["difference_low"], row["difference_high"])
        return f"{points} against those that differ in the {factor_name(against)}"

    return (
        f"At {layer_name(here['layer'].iloc[0])} and equal settings, SAEs that differ in the {factor_name(least['factor'])} share least ({told(least)}), "
        f"those that differ in the {factor_name(most['factor'])} most ({told(most)})"
    )


def _with_interval(figure: str, low: float, high: float) -> str:
    """The figure in words with its interval, given as shares, where there is one."""
    return figure if low != low else f"{figure} {interval(100 * low, 100 * high, 1)}"


def _unranked(effects: pd.DataFrame) -> tuple[str, ...]:
    """The factors that nothing can be held against at equal settings."""
    factors = effects.groupby("factor", sort=False)["difference"].count()
    names = [factor_name(str(name)) for name in factors[factors == 0].index]
    if not names or len(factors) == 1:
        return ()
    return (
        f"Not ranked: {listed(names)}, because at their settings no pairs differ in the mix alone, or in the seed alone where the study matches no mixes.",
    )


def _four(matching: Mapping[str, pd.DataFrame], matches: pd.DataFrame) -> Section:
    """Encoder and decoder, features and neurons, and the distributions of the highest cosines."""
    whole = matches[(matches["population"] == "all") & (matches["unit"] == "feature")].groupby("side")["match_ratio"].mean()
    neurons = matches[matches["unit"] == "neuron"].groupby("side")["match_ratio"].mean()
    said = [
        f"{unit} are found in {listed([f'{decimal(100 * means[side], 1)} % by the {side}' for side in PLACES if side in means])}"
        for unit, means in (("Features", whole), ("neurons", neurons))
    ]
    plots: tuple[Plot, ...] = ()
    binned = matching["top_cosines"]
    if len(binned):
        factors = matches[["sae_id", "other_sae_id", "factor"]].drop_duplicates()
        frame = binned[binned["unit"] == "feature"].merge(factors, on=["sae_id", "other_sae_id"])
        frame = frame.groupby(["factor", "side", "place", "low", "high"], sort=False)["count"].sum().reset_index()
        frame["share"] = frame["count"] / frame.groupby(["factor", "side", "place"])["count"].transform("sum")
        threshold = float(matches["threshold"].iloc[0])
        first = frame[(frame["place"] == 1) & (frame["side"] == "decoder")]
        above = float((first["share"] * (first["low"] >= threshold - 1e-9)).sum() / max(first["factor"].nunique(), 1))
        title = f"Highest cosines of decoder directions reach {decimal(threshold, 2)} for {decimal(100 * above, 0)} % of the latents, averaged over factors"
        caption = "Distribution of each latent's highest to fourth highest cosine with the latents of the other SAE, over all pairs of a factor, in bins of 0.05."
        plots = (Plot("matching-cosines", title, caption, frame, partial(figures.top_cosines, frame, title)),)
    return Section(
        "matching-four", "Encoder and decoder, features and neurons", (f"{'; '.join(said)}.",), plots=plots, tables=(comparisons.four_table(matches),)
    )

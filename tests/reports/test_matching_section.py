"""Claims about the section on matching: what it says of made-up tables with known shares."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import synthetic_matching as made_up
import synthetic_study

from sae_pipeline.reports.blocks import Section, Table
from sae_pipeline.reports.features.links import ShownLatents
from sae_pipeline.reports.features.pages import feature_pages
from sae_pipeline.reports.matching.comparisons import both_ways
from sae_pipeline.reports.matching.latents import NARROW, WIDE, width_rows
from sae_pipeline.reports.matching.section import matching_section
from sae_pipeline.reports.style import figure_png

FRAMES = synthetic_study.frames()
PARTS = ["factors", "four", "widths", "orphans", "coverage", "layers", "map"]


def matching() -> dict[str, pd.DataFrame]:
    return dict(FRAMES.matching or {})


def section(**changes: pd.DataFrame) -> Section:
    return matching_section(matching() | changes, FRAMES.tables.saes, (), ShownLatents(feature_pages(FRAMES)))


def part(name: str, **changes: pd.DataFrame) -> Section:
    return next(part for part in section(**changes).parts if part.id == f"matching-{name}")


def words(table: Table) -> list[dict[str, str]]:
    return [dict(zip(table.columns, (cell.text for cell in row), strict=True)) for row in table.rows]


@pytest.mark.filterwarnings("error")
def test_every_part_is_there_and_every_figure_is_drawn_without_a_complaint() -> None:
    whole = section()
    assert [part.id for part in whole.parts] == [f"matching-{name}" for name in PARTS]
    assert [plot.name for plot in whole.all_plots] == [
        "matching", *(f"matching-{name}" for name in ("cosines", "widths", "orphans", "coverage", "layers", "map")),
    ]  # fmt: skip
    for plot in whole.all_plots:
        assert figure_png(plot.draw())[:4] == b"\x89PNG"


def test_the_factor_that_leaves_least_in_common_is_named_with_its_interval() -> None:
    said = part("factors").plots[0].title
    assert said.startswith("At layer 1 and equal settings, SAEs that differ in the training mix share least (30.0 % [25.0, 35.0] of their latents)")
    assert said.endswith("those that differ in the seed most (+45.0 points [40.0, 50.0] against those that differ in the training mix)")


@pytest.mark.filterwarnings("error")
def test_the_rows_of_the_figure_by_factor_hold_its_bars_and_its_dots() -> None:
    frame = part("factors").plots[0].frame
    factors, levels = (frame[frame["drawn_as"] == kind] for kind in ("factor", "pair_of_levels"))
    assert len(factors) == 2 * len(made_up.FACTORS)
    assert len(factors) + len(levels) == len(frame)
    # Three mixes at each of two layers are three pairs of levels either way round.
    mixes = levels[(levels["factor"] == "mix") & (levels["layer"] == 1)]
    assert {frozenset(pair) for pair in zip(mixes["level"], mixes["other_level"], strict=True)} == {
        frozenset(pair) for pair in (("PRE", "EQ"), ("PRE", "INS"), ("EQ", "INS"))
    }
    assert mixes["estimate"].tolist() == pytest.approx([made_up.FACTORS["mix"]] * len(mixes), abs=0.1)


def test_the_order_of_the_factors_is_that_at_equal_settings_and_not_that_of_the_means() -> None:
    effects = made_up.effects()
    seeds = effects["factor"] == "seed"
    moved = effects.assign(difference=effects["difference"].mask(seeds, -0.1), difference_low=np.nan)
    said = part("factors", factor_effects=moved).plots[0].title
    assert said.startswith("At layer 1 and equal settings, SAEs that differ in the seed share least (−10.0 points against those")
    alone = part("factors", factor_effects=effects.assign(difference=effects["difference"].mask(seeds)))
    assert "those that differ in the expansion factor most (+30.0 points" in alone.plots[0].title
    assert alone.sentences[1].startswith("Not ranked: seed, because")


def test_how_much_is_found_where_it_began_is_said_with_what_follows_from_it() -> None:
    """Every latent of the made-up tables has its partner at its own index; two places on, none has."""
    said = next(sentence for sentence in section().sentences if "their own index" in sentence)
    assert said.startswith("Of the latents found in another SAE of the same seed of initialisation 100.0 % are found at their own index (by chance ")
    assert "train longer, or compare SAEs of different seeds" in said
    near = matching()["feature_neighbours"]
    moved = section(feature_neighbours=near.assign(other_latent=near["other_latent"] + 2)).sentences
    assert "0.0 % are found at their own index" in (said := next(sentence for sentence in moved if "their own index" in sentence))
    assert "train longer" not in said
    assert not any("own index" in sentence for sentence in section(feature_neighbours=near.iloc[:0]).sentences)


def test_every_table_of_shares_prints_what_chance_gives() -> None:
    every = words(part("factors").tables[-1])[0]
    assert [every[f"by chance: {way} (%)"] for way in ("A in B", "B in A", "one to one")] == ["0.1", "0.1", "0.1"]
    assert [row["by chance (%)"] for row in words(part("coverage").tables[0])[:3]] == ["0.1", "0.2", "0.3"]


def test_with_two_seeds_what_they_find_together_is_said_and_not_drawn() -> None:
    two = part("coverage", coverage=matching()["coverage"].query("seeds == 1"))
    assert two.plots == ()
    assert two.sentences == (
        "60.0 % of an SAE's latents are found in one other seed.",
        "Every setting has 1 other seed, so there is no curve over their number; more seeds would draw one.",
    )
    assert len(two.tables[0].rows) == 4


def test_layers_are_compared_on_latents_alive() -> None:
    """80 % alive and 90 % of all latents are found one layer on."""
    layers = part("layers")
    assert layers.sentences[0].startswith("At the smallest distance between layers (1), 80.0 % of the latents alive are found")
    first = words(layers.tables[0])[0]
    assert (first["found (%)"], first["by chance (%)"], first["MMCS"]) == ("80.0", "0.1", "0.400")


def test_containment_stands_both_ways_with_its_chance_and_the_one_to_one_share() -> None:
    table = next(table for table in part("factors").tables if "expansion factor alone" in table.caption)
    row = words(table)[0]
    # 60 % plus 20 points for the narrower dictionary plus a point per layer.
    assert (row["A"], row["B"], row["A found in B (%)"], row["B found in A (%)"]) == ("4.0", "8.0", "81.0", "61.0")
    assert (row["one to one (%)"], row["by chance: one to one (%)"], row["latents of A"], row["latents of B"]) == ("60.0", "0.1", "512", "1,024")
    assert [column for column in table.columns if "folded" in column] == []
    assert row["alike by activations (%)"] == "40.0"


def test_a_pair_is_one_row_with_the_figures_of_either_direction() -> None:
    pairs = both_ways(matching())
    assert len(pairs) == len(made_up.pairs(FRAMES.tables.saes))
    assert pairs[["match_ratio", "match_ratio_back"]].notna().all(axis=None)


def test_greedy_and_one_to_one_shares_are_told_beside_each_other() -> None:
    """The made-up greedy share is a point above the other for every pair."""
    exact = 100 * both_ways(matching())["shared_feature_ratio"].mean()
    assert f"On average {exact + 1:.1f} % of the smaller dictionary are shared where each latent takes its nearest" in section().sentences[1]
    assert f"{exact:.1f} % one to one" in section().sentences[1]


def test_pairs_that_were_left_out_are_counted() -> None:
    assert section().sentences[-1] == (
        "Of the pairs possible the study matched an even choice: 15 of 20 that differ in the seed (matching.pairs_per_factor)."
    )


def test_widths_are_those_of_the_dictionaries_and_not_of_the_latents_alive() -> None:
    rows = matching()["matches"].query("side == 'decoder' and unit == 'feature' and population == 'alive'").assign(n=7)
    found = width_rows(rows, FRAMES.tables.saes).set_index(["layer", "comparison", "width"])["match_ratio"]
    assert found[1, NARROW, 512] == pytest.approx(0.81)
    assert found[1, WIDE, 1024] == pytest.approx(0.61)


def test_latents_are_counted_by_how_many_they_split_into() -> None:
    """100, 50, 25, 12 and 6 parents with 0, 1, 2, 3 and 4 children: 43 of 193 have two or more."""
    assert "22.3 % of the narrow SAEs' latents have two children or more" in part("widths").sentences[-1]


def test_orphans_lead_to_their_page_and_show_their_text() -> None:
    examples = part("orphans").tables[1]
    first = examples.rows[0]
    assert first[1].link is not None
    assert first[1].link.startswith("features/")
    assert first[1].link.endswith(f"#latent-{first[1].text}")
    assert first[5].text == "… once upon a »time6«"
    assert part("orphans").sentences[0].startswith("Orphans fire less often than latents that are found in 192 of 192 comparisons")


def test_a_study_without_widths_seeds_layers_or_map_leaves_their_parts_out() -> None:
    tables = matching()
    few = {"matches": tables["matches"].query("factor == 'mix'"), "one_to_one": tables["one_to_one"].query("factor == 'mix'")}
    empty = {name: tables[name].iloc[:0] for name in ("splits", "orphans", "orphan_features", "coverage", "layer_matches", "directions_map")}
    assert [part.id for part in section(**few, **empty).parts] == ["matching-factors", "matching-four"]


def test_where_no_pair_differs_in_one_factor_alone_it_says_so() -> None:
    assert section(matches=matching()["matches"].iloc[:0]).sentences == (
        "No two SAEs of this site differ in one factor alone, so there is nothing to match.",
    )

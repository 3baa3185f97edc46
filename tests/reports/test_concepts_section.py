"""Claims about the section on concepts and directions: what it says of made-up tables."""

from __future__ import annotations

import pytest
import synthetic_concepts as made_up

from sae_pipeline.reports.blocks import Section
from sae_pipeline.reports.concepts import concepts_section, frequency_bins
from sae_pipeline.reports.style import figure_png


@pytest.fixture(scope="module")
def section() -> Section:
    return concepts_section(made_up.tables(), made_up.saes(), 0.95)


def test_what_was_looked_for_and_where_is_said_first(section: Section) -> None:
    assert section.sentences[0] == (
        "8 tokens and 1 list of words were looked for in 32,000 tokens of 90 documents (prose, chat), with the first arm of every mix and expansion factor."
    )
    assert section.sentences[2] == "Not applicable, for lack of 6 prompts on either side that differ from the other's: nothing."


def test_lists_of_words_that_are_too_rare_to_be_judged_are_named() -> None:
    section = concepts_section(made_up.tables(), made_up.saes(), 0.95, ["chemistry", "nowhere"])
    assert "Not judged, because their words occur too rarely in the text or not at all: the list nowhere." in section.sentences


def test_directions_that_are_hardly_told_from_noise_are_named(section: Section) -> None:
    assert section.sentences[3].startswith("The cosine of the sample's direction with the true one is below 0.8 for refusal at layer 3 (0.62): ")


def test_a_direction_without_a_figure_has_none_in_the_table_and_no_curve() -> None:
    frames = made_up.tables()
    empty = {
        "direction_fits": dict.fromkeys(("cosine", "cosine_low", "cosine_high", "difference", "difference_low", "difference_high"), float("nan")),
        "direction_latents": dict.fromkeys(("max_decoder_cosine", "low", "high"), float("nan")),
    }
    section = concepts_section(frames | {name: frames[name].assign(**values) for name, values in empty.items()}, made_up.saes(), 0.95)
    assert "concepts-directions" not in {plot.name for plot in section.plots}
    assert [cell.text for cell in section.tables[2].rows[0]][4:] == ["—"] * 6


def test_figures_show_the_widest_saes_and_say_what_they_show(section: Section) -> None:
    titles = {plot.name: plot.title for plot in section.plots}
    assert titles == {
        "concepts-frequency": "In 2 of 4 SAEs frequent tokens have a feature more often than rare ones",
        "concepts-tail": "100 % of the tokens at ranks 1 to 9 and 0 % of the tokens at ranks 100 to 999 have a feature",
        "concepts-directions": "8 latents with the largest mean difference write directions to a cosine of 0.79 to 0.87 (chance 0.28)",
    }
    assert all(set(plot.frame["expansion"]) == {4.0} for plot in section.plots)


def test_tokens_are_binned_by_halves_of_powers_of_ten_and_those_a_mix_does_not_hold_left_out() -> None:
    features = made_up.tables()["concept_features"].query("kind == 'token'").merge(made_up.saes(), on="sae_id")
    bins = frequency_bins(features, 0.95).query("layer == 1 and mix == 'PRE' and expansion == 4")
    assert bins["tokens"].sum() == len(made_up.RANKS) - 1
    assert bins.iloc[0][["frequency", "tokens", "share"]].tolist() == pytest.approx([10**4.75, 1, 1.0])


def test_fits_are_told_with_intervals_and_no_frequency_where_any_will_do(section: Section) -> None:
    rows = {row[1].text: [cell.text for cell in row] for row in section.tables[0].rows if row[0].text == "layer 1"}
    assert rows["PRE"][5:] == ["75 %", "2.500 [1.250, ∞]", "120 [60, 250]", "1.50 [0.75, 3.00]"]
    assert rows["INS"][5:] == ["50 %", "0.50 [−0.25, 1.25]", "—", "—"]


def test_words_without_a_latent_have_none(section: Section) -> None:
    row = [cell.text for cell in section.tables[1].rows[0]]
    assert [row[0], *row[4:]] == ["chemistry", "12.5", "40", "—", "0.00", "0.00", "0.00", "0.00", "no"]


def test_directions_are_told_with_the_latents_they_take_and_the_difference_between_mixes(section: Section) -> None:
    rows = {(row[1].text, row[2].text, row[3].text): [cell.text for cell in row][4:] for row in section.tables[2].rows}
    assert rows["layer 3", "PRE", "×4"] == ["0.900 [0.880, 0.920]", "0.788 [0.768, 0.808]", "—", "16", "8", "0.61 (latent 7; chance 0.31)"]
    assert rows["layer 3", "INS", "×4"][2:5] == ["+0.070 [0.040, 0.100]", "4", "4"]


@pytest.mark.filterwarnings("error")
def test_the_rows_of_the_figure_of_frequencies_hold_the_points_and_the_fits() -> None:
    plot = concepts_section(made_up.tables(), made_up.saes(), 0.95).plots[0]
    fits = plot.frame[plot.frame["drawn_as"] == "fit"].set_index(["layer", "mix"])
    assert set(plot.frame["drawn_as"]) == {"share", "fit"}
    assert fits.loc[(1, "PRE"), ["slope", "slope_low", "slope_high", "frequency_half"]].tolist() == [2.5, 1.25, float("inf"), 120.0]
    assert len(fits) == 4
    assert plot.frame["layer"].dtype == "Int64"


@pytest.mark.filterwarnings("error")
def test_tokens_that_no_mix_holds_have_no_figure_and_that_is_said() -> None:
    tables = made_up.tables()
    section = concepts_section(
        tables | {"concept_features": tables["concept_features"].assign(frequency=0.0), "tail_recall": tables["tail_recall"].iloc[3::4]},
        made_up.saes(), 0.95,
    )  # fmt: skip
    assert [plot.name for plot in section.plots] == ["concepts-directions"]
    assert "No token that was looked for occurs in a training mix, so there is no figure of shares by frequency." in section.sentences


@pytest.mark.filterwarnings("error")
def test_every_concept_figure_is_drawn_without_a_complaint(section: Section) -> None:
    for plot in section.plots:
        assert figure_png(plot.draw())[:4] == b"\x89PNG"


def test_a_study_of_directions_alone_and_one_of_concepts_alone_have_what_is_left() -> None:
    frames = made_up.tables()
    no_concepts = frames | {name: frames[name].iloc[:0] for name in ("concept_features", "concept_fits", "tail_recall")}
    assert [plot.name for plot in concepts_section(no_concepts, made_up.saes(), 0.95).plots] == ["concepts-directions"]
    no_directions = frames | {name: frames[name].iloc[:0] for name in ("directions", "direction_fits", "direction_latents")}
    left = concepts_section(no_directions, made_up.saes(), 0.95)
    assert [plot.name for plot in left.plots] == ["concepts-frequency", "concepts-tail"]
    assert len(left.tables) == 2


def test_a_site_without_concepts_says_so() -> None:
    nothing = {name: frame.iloc[:0] for name, frame in made_up.tables().items()}
    assert concepts_section(nothing, made_up.saes(), 0.95).sentences == ("No hook point of this site has been looked at for concepts.",)

"""Claims about how numbers are printed and coloured in a report."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure

from sae_pipeline.reports import figures
from sae_pipeline.reports.style import figure_png, named_colours, ordered_colours, value_colours
from sae_pipeline.reports.wording import common_digits, counted, decimal, interval, listed, percent, signed


@pytest.mark.parametrize(("value", "text"), [(0.12345, "0.123"), (-0.5, "−0.500"), (-0.0001, "0.000"), (float("nan"), "—"), (None, "—")])
def test_decimals_use_a_true_minus_and_never_a_negative_zero(value: float | None, text: str) -> None:
    assert decimal(value) == text


def test_differences_carry_their_sign_and_zero_has_none() -> None:
    assert [signed(value) for value in (0.02, -0.02, 0.0001)] == ["+0.020", "−0.020", "0.000"]


def test_an_interval_shows_two_digits_of_its_half_width() -> None:
    assert interval(0.0153, 0.0277) == "[0.0153, 0.0277]"
    assert interval(-1.0, 3.0) == "[−1.00, 3.00]"
    assert interval(float("nan"), 1.0) == "—"


def test_figures_compared_with_each_other_get_decimals_that_tell_them_apart() -> None:
    assert common_digits([0.70, 0.71], [0.73, 0.74]) == 3
    assert common_digits([0.9899, 0.9889], [0.9910, 0.9914]) == 4
    assert common_digits([], []) == 3


def test_lists_and_counts_read_as_english() -> None:
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert listed(list("abcdefgh"), 3) == "a, b, c and 5 more"
    assert [counted(1, "document"), counted(1200, "SAE"), counted(2, "study")] == ["1 document", "1,200 SAEs", "2 studies"]


@given(st.floats(0, 1))
def test_a_share_prints_as_none_or_all_only_when_it_is(share: float) -> None:
    assert (percent(share) == "0 %") == (share == 0)
    assert (percent(share) == "100 %") == (share == 1)


@given(st.floats(0, 1))
def test_text_on_the_heat_map_has_readable_contrast(share: float) -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[n : n + 2], 16) / 255 for n in (1, 3, 5)]
        red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    lighter, darker = sorted((luminance(colour) for colour in value_colours(share)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.1


def test_every_value_of_a_dimension_has_a_colour_of_its_own() -> None:
    assert len(set(ordered_colours("layer", range(12)).values())) == 12
    assert len(set(named_colours([str(n) for n in range(8)]).values())) == 8


def test_a_mix_keeps_its_colour_when_a_figure_shows_only_some_mixes() -> None:
    import synthetic_study

    curve = synthetic_study.frames().expansion_curve
    mixes = list(synthetic_study.MIXES)

    def colours(shown: list[str]) -> dict[str, str]:
        figure = figures.curves(curve[curve["mix"].isin(shown)], "a statement", factor="expansion", mixes=mixes)
        return {handle.get_label(): handle.get_color() for handle in figure.legends[0].get_lines()}

    assert colours(["EQ"])["EQ"] == colours(mixes)["EQ"]


@pytest.mark.filterwarnings("error")
def test_names_that_the_font_lacks_are_drawn_without_a_warning() -> None:
    fig = Figure()
    fig.suptitle("散文 🦊")
    assert figure_png(fig)[:4] == b"\x89PNG"

"""Claims about the section on raw activations: what it says of made-up tables."""

from __future__ import annotations

import pandas as pd
import pytest
from synthetic_text import activation_statistics, massive_tokens

from sae_pipeline.reports.activations import activations_section
from sae_pipeline.reports.blocks import Section
from sae_pipeline.reports.style import figure_png

CORPORA = ["PRE", "held_out/prose"]


def section(statistics: pd.DataFrame | None = None, control: bool = False) -> Section:
    return activations_section(activation_statistics() if statistics is None else statistics, massive_tokens(), corpora=CORPORA, control=control)


def test_the_figure_is_titled_by_how_norms_change_with_depth() -> None:
    plot = section().plots[0]
    assert plot.title == "From layer 1 to layer 3 the median norm changes by a factor of 2"
    assert figure_png(plot.draw())[:4] == b"\x89PNG"


def test_massive_activations_are_told_with_their_share() -> None:
    assert any("0.5" not in s and "massive activations" in s.lower() and "< 1 % of the tokens" in s for s in section().sentences)
    none = activation_statistics(massive_tokens=0, massive_share=0.0)
    assert any("No token's activation is more than ten times" in s for s in section(none).sentences)


def test_a_dtype_that_overflows_shows_no_number() -> None:
    rows = section().tables[0].rows
    assert [row[-2].text for row in rows] == ["overflows"] * 4


def test_the_control_says_that_it_is_one() -> None:
    assert "control" in section(control=True).sentences[0]
    assert not any("control" in sentence for sentence in section().sentences)


def test_a_study_without_activations_says_so() -> None:
    assert section(activation_statistics().iloc[:0]).sentences == ("No activations of this study have been described.",)


@pytest.mark.filterwarnings("error")
def test_a_single_layer_is_drawn_without_a_complaint() -> None:
    statistics = activation_statistics()
    assert figure_png(section(statistics[statistics["layer"] == 1]).plots[0].draw())[:4] == b"\x89PNG"

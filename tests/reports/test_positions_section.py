"""Claims about the section on positions: what it says of made-up tables."""

from __future__ import annotations

import pytest
import synthetic_positions as made_up
from matplotlib.colors import to_hex

from sae_pipeline.metrics.positions.profiles import DECILE_COLUMNS
from sae_pipeline.reports.blocks import Section
from sae_pipeline.reports.positions import position_section
from sae_pipeline.reports.style import colour_map, figure_png, ordered_colours


@pytest.fixture(scope="module")
def section() -> Section:
    return position_section(made_up.tables(), made_up.saes())


def test_the_figure_of_the_conditions_says_what_is_left_of_the_pattern(section: Section) -> None:
    """At the layer where position explains most."""
    plot = next(plot for plot in section.plots if plot.name == "positions-conditions")
    said = "Late in the context position explains, of the variance of the mean activation at layer 3: 43.0 % intact, 3.0 % zeroed and 5.0 % shuffled"
    assert plot.title == said
    assert set(plot.frame["condition"]) == {"intact", "zero", "shuffle"}
    assert set(plot.frame["sae_id"]) == {"PRE.L01.x04.topk", "PRE.L03.x04.topk"}


def test_the_rise_of_the_loss_is_told_with_its_interval(section: Section) -> None:
    assert section.sentences[-1] == (
        "The model's cross-entropy changes by +2.000 [1.980, 2.020] when zeroed and +1.900 [1.880, 1.920] when shuffled (nats per token)."
    )


def test_the_strongest_wave_is_told_in_cycles_per_context(section: Section) -> None:
    assert section.plots[0].title == "The strongest wave of PRE.L01.x04.topk has 4 cycles in 32 positions"
    assert set(section.plots[0].frame["architecture"]) == {"topk", "relu"}


@pytest.mark.filterwarnings("error")
def test_every_figure_is_drawn_without_a_complaint(section: Section) -> None:
    names = [plot.name for plot in section.plots]
    assert names == ["positions", *(f"positions-{name}" for name in ("conditions", "tokens", "features", "density", "deciles", "loss", "error"))]
    for plot in section.plots:
        assert figure_png(plot.draw())[:4] == b"\x89PNG"


def test_tables_have_a_row_per_layer_sae_and_condition_and_mark_two_peaks(section: Section) -> None:
    pattern, losses = ([[cell.text for cell in row] for row in table.rows] for table in section.tables)
    assert ["layer 3", "PRE.L03.x04.relu", "mean of latents", "zeroed", "0.030 [0.018, 0.042]"] in [row[:5] for row in pattern]
    assert [row[-1] for row in pattern if row[1] == "PRE.L01.x04.relu"] == ["0.70 [0.69, 0.71] ▲"] * 3
    assert not any("▲" in row[-1] for row in pattern if row[1] != "PRE.L01.x04.relu" and row[1] != "PRE.L03.x04.relu")
    assert ["layer 3", "PRE.L03.x04.topk", "reconstructed", "3.300 [3.288, 3.312]", "—", "—", "+0.300 [0.280, 0.320]", "—"] in losses


def test_a_model_without_learned_positions_is_told_with_the_reason() -> None:
    section = position_section(made_up.tables(["intact"]), made_up.saes())
    assert section.sentences[-1] == (
        "Zeroing and shuffling the position embeddings is not applicable: "
        "the subject has no learned absolute position embeddings (its positions are rotary)."
    )
    assert figure_png(section.plots[1].draw())


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("alive", "said"), [(0, None), (1, "Mean and standard deviation of the topk SAEs' latents")])
def test_where_no_latent_fired_the_figures_of_latents_are_left_out_and_that_is_said(alive: int, said: str | None) -> None:
    tables = made_up.tables()
    features = tables["position_features"]
    dead = features["latent"] >= alive
    never = {name: features[name].mask(dead, 0.0) for name in ("mean", "std", "density")} | {
        name: features[name].mask(dead) for name in DECILE_COLUMNS
    }
    one_layer = features.assign(**never)
    one_layer = one_layer[(one_layer["layer"] == 1) | (one_layer["mean"] == 0)]
    section = position_section(tables | {"position_features": one_layer}, made_up.saes())
    titles = {plot.name: plot.title for plot in section.plots}
    assert titles.get("positions-features") == said
    assert "positions-tokens" in titles
    assert ("No latent of the topk SAEs fired on this text, so there are no figures of single latents." in section.sentences) == (said is None)
    for plot in section.plots:
        assert figure_png(plot.draw())[:4] == b"\x89PNG"


def test_an_encoder_and_a_study_without_saes_have_what_is_left() -> None:
    encoder = position_section(made_up.tables(causal=False), made_up.saes())
    assert "positions-loss" not in [plot.name for plot in encoder.plots]
    bare = position_section(made_up.tables(with_saes=False), made_up.saes())
    assert [plot.name for plot in bare.plots] == ["positions-loss"]
    assert figure_png(bare.plots[0].draw())


def test_a_site_that_was_not_read_says_so() -> None:
    nothing = {name: frame.iloc[:0] for name, frame in made_up.tables().items()}
    assert position_section(nothing, made_up.saes()).sentences == ("No hook point of this site has been read for the position study.",)


def test_each_dimension_has_a_palette_of_its_own() -> None:
    """Layers viridis, positions flare, quantiles mako, from pale to dark and from dark to pale."""
    assert [to_hex(colour_map("flare")(share)) for share in (0.0, 1.0)] == ["#edb081", "#4b2362"]
    assert [to_hex(colour_map("mako")(share)) for share in (0.0, 1.0)] == ["#0b0405", "#def5e5"]
    palettes = [tuple(ordered_colours(dimension, range(3)).values()) for dimension in ("layer", "position", "quantile", "expansion")]
    assert len(set(palettes)) == 4

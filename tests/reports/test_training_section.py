"""Claims about the section on training: what it says of made-up curves."""

from __future__ import annotations

import pandas as pd
import pytest
from synthetic_study import diverged, training

from sae_pipeline.reports.blocks import Section
from sae_pipeline.reports.style import figure_png
from sae_pipeline.reports.training import training_section

SAES = pd.DataFrame(
    [
        {"sae_id": "PRE.L01.x08.topk", "architecture": "topk", "sparsity": 16, "final_l0": 12.0},
        {"sae_id": "PRE.L01.x08.relu", "architecture": "relu", "sparsity": 16, "final_l0": 16.2},
    ]
).assign(mix="PRE", layer=1, site="resid_post", final_loss=0.25, tokens=15_360, trunk_tokens=None, trunk_steps=0)


def section(saes: pd.DataFrame = SAES) -> Section:
    return training_section(training(saes), saes, diverged())


def test_dead_latents_at_the_end_are_told_with_the_worst_sae() -> None:
    """Three tenths are dead at the last of the made-up steps."""
    assert (
        section().sentences[0]
        == "2 SAEs trained; 2 SAEs ended with more than 25 % of the latents dead; most dead are those of PRE.L01.x08.relu (30 %)."
    )
    healthy = training(SAES).assign(dead_share=0.1)
    assert training_section(healthy, SAES, diverged()).sentences[0] == "2 SAEs trained; none ended with more than 25 % of its latents dead."


@pytest.mark.parametrize(("l0", "said"), [(16.2, "Every SAE is within 2 % of the L0"), (17.0, "1 of 2 SAEs miss the L0 asked for by more than 2 %")])
def test_a_missed_l0_is_told_and_topk_using_fewer_latents_is_none(l0: float, said: str) -> None:
    saes = SAES.assign(final_l0=[12.0, l0])
    assert section(saes).sentences[1].startswith(said)


def test_the_figure_is_titled_by_where_training_ends_and_the_table_has_what_it_cost() -> None:
    plot = section().plots[0]
    assert plot.title == "Training ends at an explained variance of 0.75 in the median topk SAE and 0.75 in the median relu SAE"
    assert figure_png(plot.draw())[:4] == b"\x89PNG"
    assert [cell.text for cell in section().tables[0].rows[0]][-2:] == ["5,000", "1,024 MiB"]


def test_arms_that_diverged_are_named_with_the_step_they_were_stopped_at() -> None:
    """Also where no other was trained."""
    stopped = diverged(("PRE.L01.x08.steep", 8), ("PRE.L01.x08.steeper", 3))
    said = "2 SAEs diverged and are in no comparison: PRE.L01.x08.steep at step 8 of 60 (learning rate 0.003), and 1 more."
    section = training_section(training(SAES), SAES, stopped)
    assert said in section.sentences
    assert [cell.text for cell in section.tables[0].rows[1]] == ["PRE.L01.x08.steeper", "layer 1", "3", "60", "not finite", "0.003"]
    assert len(section.tables) == 2
    assert said in training_section(training(SAES.iloc[:0]), SAES.iloc[:0], stopped).sentences


def test_branches_of_a_trunk_are_told_from_runs_with_a_schedule_of_their_own() -> None:
    saes = pd.concat([SAES, SAES.iloc[:1].assign(sae_id="PRE.L01.x08.longer")], ignore_index=True)
    saes = saes.assign(trunk_tokens=[7_680, None, 7_680], trunk_steps=[12, 0, 0])
    said = [sentence for sentence in section(saes).sentences if "trunk" in sentence]
    assert len(said) == 1
    assert said[0].startswith("The budgets of 2 SAEs share a trunk")
    assert "the other 1 have a schedule of their own" in said[0]
    assert [row[2].text for row in section(saes).tables[0].rows] == ["trunk, 12 shared steps", "own", "trunk"]
    assert not any("trunk" in sentence for sentence in section().sentences)


def test_a_study_without_training_says_so() -> None:
    assert section(SAES.iloc[:0]).sentences == ("No training of this study has been recorded.",)

"""Claims about the section on generalisation: what it says of made-up drops, flagged both ways."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from synthetic_advice import gap, generalisation

from sae_pipeline.analysis.generalisation import COLUMNS
from sae_pipeline.reports.blocks import Section
from sae_pipeline.reports.generalisation import generalisation_section


def section(*rows: dict[str, Any]) -> Section:
    return generalisation_section(generalisation(*rows), 0.95)


def test_a_set_is_summed_up_with_the_drop_that_its_kind_lets_expect() -> None:
    said = section(gap(), gap("other", relative_drop=0.1, relative_drop_low=0.05, relative_drop_high=0.15, verdict="less_than_expected"))
    assert said.sentences[0] == (
        "code (domain shift, expected drop 20 % to 40 %): explained variance drops by 30.0 % in the median of 2 SAEs, L0 shifts by −1.00; "
        "1 drops more than expected and 1 drops less than expected."
    )


@pytest.mark.parametrize(
    ("verdict", "word", "mark"),
    [
        ("more_than_expected", "drops more than expected", "poor"),
        ("as_expected", "drops as expected", "good"),
        ("less_than_expected", "drops less than expected", "warning"),
        ("better_than_in_sample", "better than in-sample", "warning"),
        ("uncertain", "uncertain", "not_judged"),
    ],
)
def test_a_verdict_is_a_word_with_a_mark(verdict: str, word: str, mark: str) -> None:
    counts, table = section(gap(verdict=verdict)).tables
    assert (table.rows[0][9].text, table.rows[0][9].mark) == (word, mark)
    assert counts.columns == ("evaluation set", "kind", "expected drop", word)
    assert [cell.text for cell in counts.rows[0]] == ["code", "domain shift", "20 % to 40 %", "1"]


def test_every_figure_of_a_row_stands_with_its_interval() -> None:
    cells = [cell.text for cell in section().tables[1].rows[0]]
    assert cells[2:9] == ["0.800", "0.400", "+0.400", "50.0 %", "[45.0, 55.0] %", "−1.00", "[−1.20, −0.80]"]


def test_where_nothing_is_explained_in_sample_no_drop_is_printed() -> None:
    nan = float("nan")
    undefined = gap(relative_drop=nan, relative_drop_low=nan, relative_drop_high=nan, verdict="undefined", note="a drop from nothing has no size")
    found = section(undefined)
    assert "no SAE explains variance in-sample" in found.sentences[0]
    assert [cell.text for cell in found.tables[1].rows[0]][5:7] == ["—", "—"]


def test_a_study_without_two_kinds_of_sets_says_so() -> None:
    empty = pd.DataFrame(columns=list(COLUMNS)).astype(COLUMNS)
    assert generalisation_section(empty, 0.95).sentences == (
        "The study has no in-sample set, or no other, so nothing says what SAEs lose on text of another kind.",
    )

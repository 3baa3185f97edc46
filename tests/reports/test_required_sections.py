"""The sections that a report is refused without are those that every report has."""

from __future__ import annotations

import synthetic_study

from sae_pipeline.reports.content import gather
from sae_pipeline.stages.reports import ASKED_FOR, SECTIONS


def test_every_section_of_a_report_is_one_that_it_must_have_or_that_the_study_asks_for() -> None:
    sections = {section.id for section in gather(synthetic_study.study(), synthetic_study.frames()).sections}
    assert sections - set(ASKED_FOR) <= set(SECTIONS)
    assert {"architecture", "seed", "layer"} <= set(SECTIONS) & sections

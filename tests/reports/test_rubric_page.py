"""The anchors of the page on rubrics under review."""

from __future__ import annotations

import re

import pandas as pd

from sae_pipeline.analysis.health.review import COLUMNS
from sae_pipeline.reports.rubric_review import rubric_review_report


def test_every_rubric_has_an_anchor_of_its_own_whatever_its_name() -> None:
    names = ["lab.v1-2", "lab-v1.2", 'our "lab" #1', "lab v1"]
    rows = [dict.fromkeys(COLUMNS, 0) | {"rubric": name, "metric": "l0", "remark": ""} for name in names]
    sections = rubric_review_report("toy", pd.DataFrame(rows)).sections
    assert [section.title for section in sections] == names
    assert len({section.id for section in sections}) == len(names)
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", section.id) for section in sections)

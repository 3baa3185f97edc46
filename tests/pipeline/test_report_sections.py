"""A report lacks a section if the page lacks it, also one that only some studies ask for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy

from sae_pipeline.stages.reports import ASKED_FOR, SECTIONS, missing_sections
from sae_pipeline.store import Artifact, Store
from sae_pipeline.study import load_study


def report_with(root: Path, sections: tuple[str, ...]) -> Artifact:
    with Store(root).draft("report", "toy", {}) as draft:
        assert not isinstance(draft, Artifact)
        (draft.path / "index.html").write_text("".join(f'<section id="{name}">' for name in sections))
        return draft.publish({})


@pytest.mark.parametrize("asked", [(), ("matching",), tuple(ASKED_FOR)])
def test_a_part_that_the_study_asks_for_is_missed(small_study: SmallStudy, tmp_path: Path, asked: tuple[str, ...]) -> None:
    def edit(data: dict[str, Any]) -> None:
        data |= {name: {} for name in asked}

    study = load_study(small_study.write(edit))
    assert missing_sections(report_with(tmp_path / "bare", SECTIONS), study) == list(asked)
    assert missing_sections(report_with(tmp_path / "whole", (*SECTIONS, *asked)), study) == []
    assert missing_sections(report_with(tmp_path / "less", (*SECTIONS[1:], *asked)), study) == [SECTIONS[0]]

"""The report's table of what is computed from what knows every stage that a study's lineage lists."""

from __future__ import annotations

import pandas as pd
import synthetic_study

from sae_pipeline.reports.evidence import ASKED_FOR, RESTS_ON
from sae_pipeline.reports.lineage import lineage_section
from sae_pipeline.stages.lineage import UPSTREAM


def test_every_stage_of_the_lineage_is_named_by_some_table_and_in_its_order() -> None:
    named = [*RESTS_ON.values(), *ASKED_FOR.values()]
    assert set().union(*named) == set(UPSTREAM)
    for stages in named:
        assert sorted(stages, key=UPSTREAM.index) == list(stages)


def test_generated_text_surveys_and_spelled_words_are_what_metrics_rest_on() -> None:
    frames = synthetic_study.frames()
    assert frames.lineage is not None
    first = frames.lineage.iloc[[0]]
    more = [
        first.assign(artifact_stage=stage, what=stage, fingerprint=f"f-{stage}", content=f"c-{stage}")
        for stage in ("generated", "retrieved", "surveys", "spelling", "baselines")
    ]
    section = lineage_section(pd.concat([frames.lineage, *more], ignore_index=True), frames)
    rests_on = {row[0].text: row[2].text for row in section.tables[0].rows}
    text = "subject (1) → generated (1) → retrieved (1) → corpus (1) → activations (1)"
    saes = f"saes ({len(frames.tables.saes)})"
    assert rests_on["saes"] == f"{text} → surveys (1) → {saes}"
    assert rests_on["baseline_sums"] == f"{text} → spelling (1) → baselines (1)"
    assert rests_on["sae_metrics"] == rests_on["findings"] == f"{text} → surveys (1) → spelling (1) → baselines (1) → {saes}"

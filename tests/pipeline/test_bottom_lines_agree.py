"""An SAE is called the same on its scorecard, in the report and beside an SAE made elsewhere."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from assets.checks import bottom_line_rows
from sae_pipeline.analysis.health.marks import judge
from sae_pipeline.analysis.health.rubrics import load_rubric
from sae_pipeline.reports.health import result_table
from sae_pipeline.stages import foreign
from sae_pipeline.study.schema import Analysis, Study
from sae_pipeline.study.text_sections import HeldOut

HOUSE = load_rubric("house.v1")
SAES = pd.DataFrame([{"sae_id": "A", "d_sae": 100, "sparsity": 50.0, "architecture": "topk"}])
HEALTHY_ON_PROSE = {"prose": 0.7, "code": 0.25}
"""Explained variance by set: good and poor."""


def found(folder: Path, monkeypatch: pytest.MonkeyPatch, kinds: dict[str, str]) -> tuple[str, str, str]:
    """The bottom line in the three places."""
    fine = {"sae_id": "A", "l0": 50.0, "dead_share": 0.0, "dense_share@0.8": 0.0, "decoder_top100_pair_cos": 0.2, "ce_loss_recovered_zero": 0.96}
    rows = [fine | {"evaluation_set": name, "kind": kinds[name], "explained_variance": value} for name, value in HEALTHY_ON_PROSE.items()]
    health = judge([HOUSE], pd.DataFrame(rows), SAES, 10**8)
    for name in ("health", foreign.HEALTH):
        health.to_parquet(folder / f"{name}.parquet")
    held_out = {name: HeldOut.model_construct(kind=kind) for name, kind in kinds.items()}
    study = Study.model_construct(held_out=held_out, analysis=Analysis(rubrics=("house.v1",)))
    artifact: Any = SimpleNamespace(file=lambda name: folder / name)
    monkeypatch.setattr(foreign, "gather", lambda ctx: artifact)
    ctx, sae = SimpleNamespace(study=study), SimpleNamespace(sae_id="A")
    in_sample = [name for name, kind in kinds.items() if kind == "in_sample"]
    reported = result_table(health, HOUSE, SAES, in_sample, "").rows[0][-1].text
    (beside,) = foreign.health(ctx, sae)[1]  # type: ignore[arg-type]
    return bottom_line_rows(study, artifact)[0]["sentence"], reported, beside


def test_a_set_that_is_not_in_sample_changes_no_bottom_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_card, reported, beside = found(tmp_path, monkeypatch, {"prose": "in_sample", "code": "domain_shift"})
    assert on_card == reported
    assert on_card.startswith("Healthy")
    assert beside == f"house.v1: {on_card} Sets looked at: prose."


def test_where_no_set_is_in_sample_all_are_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_card, reported, beside = found(tmp_path, monkeypatch, {"prose": "task_shift", "code": "domain_shift"})
    assert on_card == reported
    assert on_card.startswith("Not to be relied on (explained variance on code: ")
    assert beside == f"house.v1: {on_card} Sets looked at: prose and code."

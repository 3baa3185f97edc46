"""What a record of an evaluation holds of its documents, and which SAEs it is held against."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
import torch

from sae_pipeline.metrics.baselines import Baseline
from sae_pipeline.stages import evaluation, history
from sae_pipeline.stages.context import StudyContext


def test_a_text_that_a_set_holds_twice_keeps_the_variance_of_each_copy(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    """Documents 4 and 7 hold the same text, cut at different places; activations have mean zero, so a document's variance is its sum of squares."""
    documents = pd.DataFrame({"document": [4, 7, 9], "document_hash": ["x", "x", "y"], "n": [100, 10, 100], "sum_sq": [1000.0, 90.0, 1100.0]})
    baseline = SimpleNamespace(documents=documents, sum_x=torch.zeros(3, 2, dtype=torch.float64))
    for name in ("metrics", "document_sums"):
        documents.assign(arm="a", evaluation_set="prose", sse=1.0).to_parquet(tmp_path / f"{name}.parquet")
    cell = SimpleNamespace(mix="PRE", point=None, expansion=4, sae_id=lambda label: f"PRE.{label}")
    monkeypatch.setattr(history, "cells", lambda study: [cell])
    monkeypatch.setattr(evaluation, "evaluate", lambda *of: SimpleNamespace(artifact=SimpleNamespace(file=lambda name: tmp_path / name)))
    monkeypatch.setattr(evaluation, "need_baseline", lambda *of: None)
    monkeypatch.setattr(Baseline, "load", lambda artifact: baseline)
    _, recorded = history._measured(cast(StudyContext, SimpleNamespace(study=SimpleNamespace(held_out=["prose"]))))
    assert recorded.columns.tolist() == ["sae_id", "evaluation_set", "document_hash", "n", "sse", "sst"]
    assert recorded["sst"].tolist() == [1000.0, 90.0, 1100.0]


def test_records_are_held_against_every_sae_that_the_study_declares(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = SimpleNamespace(arms=["trained", "diverged"], sae_id=lambda label: f"PRE.{label}")
    monkeypatch.setattr(history, "cells", lambda study: [cell])
    assert history._declared(cast(StudyContext, SimpleNamespace(study=None))) == ["PRE.diverged", "PRE.trained"]

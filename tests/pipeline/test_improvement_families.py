"""The comparisons of one improvement are judged together, whatever sites they belong to."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest

from sae_pipeline.analysis.improving import verdicts
from sae_pipeline.stages import findings, improvement, tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home


@pytest.mark.parametrize(("p_value", "said"), [(0.03, "inconclusive"), (0.02, "kept")])
def test_gains_of_two_sites_are_one_family(p_value: float, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two p-values of 0.03 are 0.06 each after Holm's correction, two of 0.02 are 0.04, at a level of 0.05."""

    def compared(*of: Any) -> pd.DataFrame:
        row = {name: "" if kind == "string" else 0 for name, kind in verdicts.COLUMNS.items()}
        return pd.DataFrame([row | {"p_value": p_value, "verdict": "kept", "proposed": "PRE.new"}]).astype(verdicts.COLUMNS)

    sites = SimpleNamespace(sites=["resid_post", "mlp_out"], at_site=lambda site: SimpleNamespace(saes=pd.DataFrame({"sae_id": []})))
    monkeypatch.setattr(findings, "proposed", lambda ctx: SimpleNamespace(proposals=()))
    monkeypatch.setattr(tables, "need", lambda ctx: None)
    monkeypatch.setattr(tables, "study_tables", lambda artifact: sites)
    monkeypatch.setattr(improvement, "_evidence", lambda *of: None)
    monkeypatch.setattr(improvement, "as_yaml", lambda study, head: "name: kept\n")
    monkeypatch.setattr("sae_pipeline.analysis.improving.proposals.with_kept", lambda *of: None)
    monkeypatch.setattr(verdicts, "compare", compared)
    settings = SimpleNamespace(name="toy", analysis=SimpleNamespace(confidence=0.95))
    ctx = cast(StudyContext, SimpleNamespace(home=Home(tmp_path), study=settings))
    found = improvement.judge(ctx, ctx)
    assert found.table["verdict"].tolist() == [said, said]
    assert (found.kept is not None) == (said == "kept")

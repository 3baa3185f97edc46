"""Scorecards carry the first rubric's checks into Dagster, with its severities, and hold nothing up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from small_study import SmallStudy
from typer.testing import CliRunner

from assets import study_definitions
from sae_pipeline.cli import app
from sae_pipeline.study import load_study


def judged(metric: str, check: str, mark: str) -> dict[str, Any]:
    """A metric that earns the same mark whatever its value is."""
    bands = [{"mark": mark, "range": "(-inf, inf)", "source": "a test"}]
    return {
        "metric": metric,
        "label": metric,
        "unit": "number",
        "direction": "within_range",
        "check": check,
        "profiles": [{"when": {}, "bands": bands}],
    }


def test_every_scorecard_has_the_checks_of_the_first_rubric(small_study: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "home"))
    metrics = [
        judged("explained_variance", "always_poor", "poor"),
        judged("dead_share", "always_warned_of", "warning"),
        judged("l0", "always_good", "good"),
        judged("dead_share_5e4", "never_known", "poor"),  # null on so few tokens
    ]
    (tmp_path / "own.yaml").write_text(yaml.safe_dump({"name": "own.v1", "description": "", "metrics": metrics}))

    def edit(data: dict[str, Any]) -> None:
        data["activations"]["layers"] = [1]
        data["saes"] |= {"expansions": [2], "arms": [{"architecture": "topk", "k": 4}]}
        data["analysis"]["rubrics"] = ["own.yaml", "house.v1"]

    study = small_study.write(edit)
    result = CliRunner().invoke(app, ["run", study, "--select", '+key:"toy/MORE/scorecard"', "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    assert (answer["failed"], answer["computed_by_asset"]["toy/MORE/scorecard"]) == (0, 1)

    graph = study_definitions(load_study(Path(study))).resolve_asset_graph()
    keys = graph.get_check_keys_for_assets({dg.AssetKey(["toy", "MORE", "scorecard"])})
    assert not any(graph.get(key).blocking for key in keys)
    found = {}
    with dg.DagsterInstance.get() as instance:
        for key in keys:
            (record,) = instance.event_log_storage.get_asset_check_execution_history(key, limit=5)
            found[key.name] = record.event.dagster_event.event_specific_data
    outcomes = {name: (evaluation.passed, evaluation.severity.value) for name, evaluation in found.items()}
    assert outcomes == {
        "always_poor": (False, "ERROR"),
        "always_warned_of": (False, "WARN"),
        "always_good": (True, "WARN"),
        "never_known": (True, "WARN"),
    }
    said = {name: value.value for name, value in found["always_poor"].metadata.items()}
    assert said["partition"] == "L01"
    assert said["worst_sae"] == "MORE.L01.x02.topk-k4-t6144-s0"
    assert said["worst"].startswith("poor on stories: expected no value, found ")
    assert found["never_known"].description.startswith("L01: not applicable: dead_share_5e4 has no value")

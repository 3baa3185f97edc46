"""Two dates of one study are compared: what a changed learning rate did to the SAEs, and that an added arm changes none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import invoke
from small_study import SmallStudy

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def one_layer(data: dict[str, Any]) -> None:
    data["activations"]["layers"] = [0]
    data["saes"] |= {"expansions": [2], "defaults": {"tokens": 2_048, "batch_size": 256, "learning_rate": 0.002}}


def faster_and_one_arm_more(data: dict[str, Any]) -> None:
    one_layer(data)
    data["saes"]["defaults"]["learning_rate"] = 0.02
    data["saes"]["arms"].append({"architecture": "topk", "k": 4, "seeds": [2]})


def test_two_dates_of_a_study_are_compared_setting_by_setting(small_study: SmallStudy, home: Path, tmp_path: Path) -> None:
    warehouse = Path(invoke("run", small_study.write(one_layer), "--json")["warehouse"])
    earlier = tmp_path / "earlier.duckdb"
    shutil.copyfile(warehouse, earlier)
    study = small_study.write(faster_and_one_arm_more)
    invoke("run", study, "--json")

    told = invoke("compare", str(earlier), study, "--json")
    # Two mixes with two seeds each; the third seed answers to none.
    assert (told["saes_changed"], told["saes_same"], told["saes_only_before"], told["saes_only_after"]) == (4, 0, 0, 2)
    assert told["headline"].startswith("4 of the 4 SAEs in both changed; explained variance changed by +")
    page = Path(told["page"])
    assert page == warehouse.parent / "compared_with_earlier" / "index.html"
    text = (page.parent / "report.md").read_text()
    assert "The studies differ in rate: 0.002 before, 0.02 after." in text
    assert "The first stage with artifacts made anew is saes" in text
    assert (page.parent / "figures" / "explained-variance-change.csv").exists()

    itself = invoke("compare", str(warehouse), str(shutil.copytree(warehouse.parent, tmp_path / "copy")), "--to", str(tmp_path / "page"), "--json")
    assert (itself["saes_changed"], itself["saes_same"], itself["verdicts_changed"]) == (0, 6, 0)
    assert "explained variance is the same" in itself["headline"]

"""The asset of recorded evaluations: which window of held-out text a run reads, as its tag says, and what its check says of a loss."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import dagster as dg
import pytest
import yaml

from assets import study_definitions
from assets.history import WINDOW_TAG, _reason
from resources import ComputeResource, HomeResource
from sae_pipeline.errors import BadInput
from sae_pipeline.stages import history
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study

SMALL = Path(__file__).resolve().parents[2] / "studies/small.yaml"


def launched(tmp_path: Path, tags: dict[str, str]) -> dg.ExecuteInProcessResult:
    """A run of ``evaluation_history`` in a study of four windows, of which the second is its own."""
    changed = {"schedules": {"evaluation": "0 4 * * 1"}, "corpus": {"held_out_windows": 4}, "evaluation": {"window": 1}}
    study = Study.model_validate(yaml.safe_load(SMALL.read_text()) | changed)
    definitions = study_definitions(study)
    resources = {"home": HomeResource(root=str(tmp_path)), "compute": ComputeResource()}
    asset = definitions.get_assets_def(dg.AssetKey(["small", "evaluation_history"]))
    with dg.DagsterInstance.ephemeral() as instance:
        return dg.materialize([asset], resources=resources, instance=instance, tags=tags)


class Reached(Exception):
    """The evaluation was asked for."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Windows that were to be evaluated; nothing is."""
    windows: list[int] = []

    def evaluate(ctx: StudyContext, window: int) -> None:
        windows.append(window)
        raise Reached

    monkeypatch.setattr(history, "evaluate", evaluate)
    return windows


@pytest.mark.parametrize(("tags", "window"), [({}, 1), ({WINDOW_TAG: "0"}, 0), ({WINDOW_TAG: "3"}, 3)])
def test_the_tag_names_the_window(tmp_path: Path, asked: list[int], tags: dict[str, str], window: int) -> None:
    with pytest.raises(Reached):
        launched(tmp_path, tags)
    assert asked == [window]


@pytest.mark.parametrize("window", ["4", "-1", "1.5", "two", "", "9" * 60])
def test_a_window_that_the_study_does_not_have_is_refused_in_a_sentence_that_names_the_tag(tmp_path: Path, asked: list[int], window: str) -> None:
    with pytest.raises(BadInput, match=rf"^tag sae/window: expected a window of held-out text from 0 to 3 .*, found '{window}'; launch"):
        launched(tmp_path, {WINDOW_TAG: window})
    assert asked == []


def test_the_reason_of_an_sae_without_a_value_states_none() -> None:
    lost = SimpleNamespace(
        sae_id="S", evaluation_set="prose", before=0.7, after=float("nan"), low=float("nan"), high=float("nan"), note="it diverged"
    )
    assert _reason(lost) == "S on prose: 0.7000 before, no value now; it diverged"

"""The daemon by itself, minutes on end: a schedule that evaluates on fresh text, and new text that retrains what it reaches."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from commands import answer
from dagster_ui import DagsterUI, patiently
from small_study import SmallStudy, toy_documents

from sae_pipeline.stages import history
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import load_study

pytestmark = [pytest.mark.ui, pytest.mark.slow]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any], toy_text: Path) -> SmallStudy:
    """One SAE per mix on copies of the text, with everything that runs on its own named in its file, so that it runs from the start; run once."""
    folder = tmp_path_factory.mktemp("ticks")
    study = SmallStudy(folder / "toy.yaml", small_study_data)
    stories = shutil.copyfile(toy_text / "stories.jsonl", folder / "stories.jsonl")

    def on_its_own(data: dict[str, Any]) -> None:
        data["sources"]["stories"]["paths"] = [str(stories)]
        data["activations"]["layers"], data["saes"]["expansions"] = [0], [2]
        data["saes"]["arms"] = [{"architecture": "topk", "k": 4}]
        data["corpus"] = {"held_out_share": 0.4, "held_out_windows": 4}
        data["held_out"] = {"recipes": {"shares": {"recipes": 1.0}, "kind": "in_sample", "tokens": 1_000}}
        now_and_then = dict.fromkeys(("report", "versions", "rubric_review"), "*/2 * * * *")
        data["schedules"] = {"evaluation": "* * * * *", **now_and_then, "rerun_stale": True, "watch_minutes": 1}

    answer(folder / "home", "run", study.write(on_its_own), "--json")
    return study


@pytest.fixture
def ctx(finished: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> StudyContext:
    monkeypatch.setenv("SAE_HOME", str(finished.path.parent / "home"))
    return StudyContext.open(load_study(str(finished.path)))


def test_each_tick_of_the_schedule_records_another_window(ui: DagsterUI, ctx: StudyContext) -> None:
    patiently("two evaluations are recorded", lambda: len(history.records(ctx)) >= 3, 240)
    assert [record.about["window"] for record in history.records(ctx)][:3] == [0, 1, 2]


def test_new_text_is_noticed_and_what_it_reaches_is_trained_again(ui: DagsterUI, ctx: StudyContext, finished: SmallStudy) -> None:
    before = history.records(ctx)[-1].about["saes"]
    with (finished.path.parent / "stories.jsonl").open("a") as file:
        file.writelines(json.dumps({"text": text + " at last"}) + "\n" for text in toy_documents("stories", 50))

    def retrained() -> bool:
        return history.records(ctx)[-1].about["saes"] != before

    patiently("SAEs on the new text are evaluated", retrained, 300)


def test_every_other_schedule_launches_a_run_that_succeeds(ui: DagsterUI) -> None:
    left = {"scheduled_refresh", "scheduled_scorecards", "scheduled_versions", "scheduled_rubric_review"}
    query = """query($name: String!) {runsOrError(filter: {tags: [{key: "dagster/schedule_name", value: $name}], statuses: [SUCCESS]})
        {... on Runs {results {runId}}}}"""

    def all_succeeded() -> bool:
        left.difference_update([name for name in left if ui.ask(query, name=name)["runsOrError"]["results"]])
        return not left

    patiently("each schedule's run has succeeded", all_succeeded, 300)

"""Recorded evaluations of a real study: windows, new versions of an SAE, the asset and its check, and what cleaning up leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb
import pytest
from small_study import SmallStudy
from typer.testing import CliRunner

from assets import study_definitions
from assets.history import WINDOW_TAG
from sae_pipeline.cli import app
from sae_pipeline.launcher import open_instance
from sae_pipeline.stages import history, versions
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import load_study

pytestmark = pytest.mark.slow


class Recorded:
    """A small study with three windows of held-out text, run once."""

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        self.study, self.home = SmallStudy(folder / "toy.yaml", data), folder / "home"
        self.path = self.study.write(self.one_cell)
        assert self.answer("run", self.path, "--json")["failed"] == 0

    @staticmethod
    def one_cell(data: dict[str, Any]) -> None:
        data["activations"]["layers"], data["saes"]["expansions"] = [1], [2]
        data["saes"]["arms"] = [{"architecture": "topk", "k": 4}]
        data["corpus"] = {"held_out_share": 0.4, "held_out_windows": 3}
        data["held_out"] = {"stories": {"shares": {"stories": 1.0}, "kind": "in_sample", "tokens": 1_000}}
        data["schedules"] = {"evaluation": "0 4 * * 1"}

    def answer(self, *arguments: str) -> dict[str, Any]:
        result = CliRunner().invoke(app, list(arguments))
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout.strip().splitlines()[-1])

    @property
    def context(self) -> StudyContext:
        return StudyContext.open(load_study(self.path))

    def materialise(self, window: int) -> Any:
        """The asset, as the schedule runs it."""
        ctx = self.context
        job = study_definitions(ctx.study).resolve_implicit_global_asset_job_def()
        asset = dg.AssetKey(["toy", "evaluation_history"])
        return job.execute_in_process(instance=open_instance(ctx.home), asset_selection=[asset], tags={WINDOW_TAG: str(window)})

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with duckdb.connect(str(self.context.home.warehouse("toy")), read_only=True) as connection:
            return connection.execute(query).fetchall()


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> Recorded:
    folder = tmp_path_factory.mktemp("history")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_HOME", str(folder / "home"))
        return Recorded(folder, small_study_data)


@pytest.fixture(autouse=True)
def _home(recorded: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(recorded.home))


# The tests of this file go on from one another, as the weeks do.


def test_a_run_records_the_studys_own_window_and_the_next_run_does_nothing(recorded: Recorded) -> None:
    assert [record.about["window"] for record in history.records(recorded.context)] == [0]
    again = recorded.answer("run", recorded.path, "--json")
    assert (again["launched"], again["computed"]) == (0, 0)


def test_the_next_evaluation_takes_a_window_that_was_not_used(recorded: Recorded) -> None:
    assert history.fresh_window(recorded.context) == 1


def test_the_scheduled_run_evaluates_on_other_documents_and_trains_nothing(recorded: Recorded) -> None:
    before = {path.name for path in (recorded.home / "store" / "saes").iterdir()}
    assert recorded.materialise(1).success
    assert {path.name for path in (recorded.home / "store" / "saes").iterdir()} == before
    rows = recorded.rows(
        "SELECT held_out_window, count(*), count(DISTINCT fingerprint), min(explained_variance) FROM evaluation_history GROUP BY held_out_window ORDER BY held_out_window"
    )
    assert [row[:3] for row in rows] == [(0, 2, 2), (1, 2, 2)]
    assert rows[0][3] != rows[1][3]
    hashes = [set(history._loaded(record)[1]["document_hash"]) for record in history.records(recorded.context)]
    assert not hashes[0] & hashes[1]
    assert history.fresh_window(recorded.context) == 2


def test_nothing_is_stale_after_a_scheduled_evaluation(recorded: Recorded) -> None:
    assert recorded.answer("run", recorded.path, "--json")["launched"] == 0


def test_the_same_window_again_records_nothing_new(recorded: Recorded) -> None:
    record, new = history.evaluate(recorded.context, 1)
    assert not new
    assert record.about["window"] == 1


def test_an_sae_that_is_trained_worse_fails_the_check_with_the_reason(recorded: Recorded) -> None:
    def shorter(data: dict[str, Any]) -> None:
        recorded.one_cell(data)
        data["saes"]["defaults"] |= {"tokens": 6_144, "learning_rate": 1e-7}

    recorded.study.write(shorter)
    assert recorded.answer("run", recorded.path, "--json")["failed"] == 0
    records = history.records(recorded.context)
    assert [record.about["window"] for record in records] == [0, 1, 0]
    assert records[0].about["saes"] != records[2].about["saes"]
    worse = recorded.rows("SELECT sae_id, compared, change FROM regressions WHERE worse")
    assert len(worse) == 2
    assert all(change < -0.01 for _, _, change in worse)
    instance = open_instance(recorded.context.home)
    asset = dg.AssetKey(["toy", "evaluation_history"])
    (latest,) = instance.event_log_storage.get_asset_check_execution_history(dg.AssetCheckKey(asset, "nothing_got_worse"), limit=1)
    evaluation = latest.event.dagster_event.asset_check_evaluation_data
    assert not evaluation.passed
    assert "a new version on the same text" in evaluation.metadata["worse"].value


def test_the_page_shows_it(recorded: Recorded) -> None:
    page = recorded.context.home.history_page("toy").read_text()
    assert "fell by more than 0.01" in page
    assert "a new version on the same text" in page


def test_cleaning_up_keeps_every_record(recorded: Recorded) -> None:
    before = [record.folder for record in history.records(recorded.context)]
    recorded.answer("gc", recorded.path, "--json")
    assert [record.folder for record in history.records(recorded.context)] == before
    assert recorded.answer("run", recorded.path, "--json")["launched"] == 0


def test_the_schedule_asks_for_the_fresh_window(recorded: Recorded) -> None:
    ctx = recorded.context
    definitions = study_definitions(ctx.study)
    schedule = definitions.resolve_schedule_def("scheduled_evaluation")
    with dg.build_schedule_context(instance=open_instance(ctx.home), resources=definitions.resources) as context:
        (request,) = schedule.evaluate_tick(context).run_requests
    assert request.tags[WINDOW_TAG] == "1"


def test_before_anything_is_trained_the_schedule_skips_with_the_reason(recorded: Recorded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "empty"))
    ctx = recorded.context
    definitions = study_definitions(ctx.study)
    schedule = definitions.resolve_schedule_def("scheduled_evaluation")
    with dg.build_schedule_context(instance=open_instance(ctx.home), resources=definitions.resources) as context:
        tick = schedule.evaluate_tick(context)
    assert not tick.run_requests
    assert "nothing to evaluate yet" in tick.skip_message


def test_every_state_of_the_study_is_kept_and_compared_with_the_one_before(recorded: Recorded) -> None:
    def with_copies(data: dict[str, Any], **defaults: Any) -> None:
        recorded.one_cell(data)
        data["saes"]["defaults"] |= defaults
        data["schedules"] |= {"versions": "0 5 1 * *", "rubric_review": "0 6 1 1,4,7,10 *"}

    recorded.study.write(with_copies)
    assert recorded.answer("run", recorded.path, "--json")["failed"] == 0
    assert len(versions.copies(recorded.context)) == 1
    assert recorded.answer("run", recorded.path, "--json")["launched"] == 0
    recorded.study.write(lambda data: with_copies(data, learning_rate=1e-4))
    assert recorded.answer("run", recorded.path, "--json")["failed"] == 0
    first, second = versions.copies(recorded.context)
    assert first.read_bytes() != second.read_bytes()
    (page,) = recorded.context.home.versions("toy").glob("*/index.html")
    assert "against" in page.read_text()
    assert not versions.compare_with_last(recorded.context).new


def test_the_rubrics_are_reviewed_beside_the_report(recorded: Recorded) -> None:
    page = recorded.context.home.rubric_page("toy").read_text()
    assert "house.v1" in page
    assert recorded.rows("SELECT count(DISTINCT rubric) FROM health")[0][0] == 4


def test_jobs_and_schedules_exist_where_the_study_names_a_time_and_nowhere_else(recorded: Recorded) -> None:
    repository = study_definitions(recorded.context.study).get_repository_def()
    names = {"scheduled_refresh", "scheduled_evaluation", "scheduled_scorecards", "scheduled_versions", "scheduled_rubric_review"}
    assert {schedule.name for schedule in repository.schedule_defs} == names
    quickstart = study_definitions(load_study(str(Path(__file__).resolve().parents[2] / "studies/quickstart.yaml"))).get_repository_def()
    assert {schedule.name for schedule in quickstart.schedule_defs} == {"scheduled_refresh"}

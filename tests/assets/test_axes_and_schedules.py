"""What the UI finds assets by, when it calls them overdue, and what its launchpad offers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml

from assets import study_definitions
from assets.automation import automation
from assets.axes import axes
from assets.freshness import freshness, longest_interval
from assets.jobs import jobs
from sae_pipeline.study import Study

SMALL = Path(__file__).resolve().parents[2] / "studies/small.yaml"
EVERYTHING = {"report": "0 3 * * 1", "evaluation": "0 4 * * 1", "versions": "0 5 1 * *", "rubric_review": "0 6 1 1,4,7,10 *"}


def small(**sections: Any) -> Study:
    return Study.model_validate(yaml.safe_load(SMALL.read_text()) | sections)


def asset(*path: str) -> dg.AssetKey:
    return dg.AssetKey(["small", *path])


def test_an_asset_of_a_lane_is_found_by_every_axis_it_stands_for() -> None:
    training, evaluation = axes(small(), asset("PRE", "saes")), axes(small(), asset("held_out", "instructions", "corpus"))
    shares = {"source/prose": "0.7", "source/instructions": "0.3"}
    arms = {"architecture/topk": "", "architecture/batchtopk": "", "site/resid_post": ""}
    assert training == {"study": "small", "stage": "saes", "lane": "training", "mix": "PRE"} | shares | arms
    lane = {"lane": "evaluation", "evaluation_set": "instructions", "set_kind": "task_shift", "source/instructions": "1"}
    assert evaluation == {"study": "small", "stage": "corpus"} | lane
    assert axes(small(), asset("findings")) == {"study": "small", "stage": "findings"}
    assert axes(small(), asset("sources", "prose")) == {"study": "small", "stage": "source", "source_kind": "installed_docs"}


def test_an_arm_of_one_mix_only_is_no_axis_of_the_others() -> None:
    data = yaml.safe_load(SMALL.read_text())["saes"]
    data["arms"].append({"architecture": "jumprelu", "target_l0": 8, "only": {"mixes": ["INS"]}})
    assert "architecture/jumprelu" in axes(small(saes=data), asset("INS", "metrics"))
    assert "architecture/jumprelu" not in axes(small(saes=data), asset("PRE", "metrics"))


@pytest.mark.parametrize(("cron", "days"), [("0 3 * * 1", 7), ("0 5 1 * *", 31), ("0 6 1 1,4,7,10 *", 92), ("0 9 * * 1-5", 3)])
def test_the_longest_interval_of_a_schedule(cron: str, days: int) -> None:
    assert longest_interval(cron) == timedelta(days=days)


@pytest.mark.parametrize(
    ("cron", "hours"),
    [
        ("0 * * * 1-5", 49),
        ("*/5 9-17 * * 1-5", 63 + 5 / 60),
        ("* * * * *", 1 / 60),
        ("*/20 8,9 1-10 * *", 22 * 24 - 100 / 60),
        ("0 6 29 2 *", (8 * 365 + 1) * 24),
    ],
)
def test_the_longest_interval_is_that_of_nights_weekends_and_leap_years(cron: str, hours: float) -> None:
    """Friday 23:00 to Monday 00:00; Friday 17:55 to Monday 09:00; the tenth 09:40 to the first 08:00 of 31 days' month; 2096 to 2104, with no leap day in 2100."""
    assert longest_interval(cron) == timedelta(hours=hours)


def test_nothing_is_overdue_in_a_study_that_asks_for_no_schedule() -> None:
    graph = study_definitions(small()).resolve_asset_graph()
    assert [key for key in graph.toposorted_asset_keys if graph.get(key).freshness_policy is not None] == []


def test_scorecards_and_reports_are_overdue_a_tenth_after_their_schedules_interval() -> None:
    study = small(schedules=EVERYTHING, corpus={"held_out_windows": 4})
    week, month, quarter = (dg.FreshnessPolicy.time_window(fail_window=timedelta(days=days) * 1.1) for days in (7, 31, 92))
    graph = study_definitions(study).resolve_asset_graph()
    found = {key: graph.get(key).freshness_policy for key in graph.toposorted_asset_keys if graph.get(key).freshness_policy is not None}
    weekly = [("PRE", "scorecard"), ("INS", "scorecard"), ("evaluation_history",), ("comparison_report",)]
    assert found == {asset(*path): week for path in weekly} | {asset("versions"): month, asset("rubric_review"): quarter}


def test_a_cleared_schedule_reminds_of_nothing() -> None:
    assert freshness(small(schedules={"evaluation": None}), asset("PRE", "scorecard")) is None


def test_what_can_become_overdue_is_materialised_by_a_schedule() -> None:
    study = small(schedules=EVERYTHING, corpus={"held_out_windows": 4})
    definitions = study_definitions(study)
    graph = definitions.resolve_asset_graph()
    scheduled = {schedule.job_name for schedule in automation(study).schedules or ()}  # type: ignore[union-attr]
    refreshed = set().union(*(jobs(study)[name].selection.resolve(graph) for name in scheduled))
    assert {key for key in graph.toposorted_asset_keys if graph.get(key).freshness_policy is not None} <= refreshed


def status_of_schedules(study: Study) -> dict[str, dg.DefaultScheduleStatus]:
    return {schedule.name: schedule.default_status for schedule in study_definitions(study).get_repository_def().schedule_defs}


def test_schedules_that_the_study_names_run_from_the_start() -> None:
    names = ("refresh", "evaluation", "scorecards", "versions", "rubric_review")
    study = small(schedules=EVERYTHING, corpus={"held_out_windows": 4})
    assert status_of_schedules(study) == {f"scheduled_{name}": dg.DefaultScheduleStatus.RUNNING for name in names}


def test_what_the_study_does_not_name_does_not_run_on_its_own() -> None:
    """The report's schedule has a time by default, and waits for who switches it on."""
    waiting = {"scheduled_refresh": dg.DefaultScheduleStatus.STOPPED}
    assert status_of_schedules(small()) == waiting
    assert status_of_schedules(small(schedules={"versions": "0 5 1 * *"})) == waiting | {"scheduled_versions": dg.DefaultScheduleStatus.RUNNING}


def test_every_job_can_be_launched_and_explains_itself() -> None:
    study = small(schedules=EVERYTHING, corpus={"held_out_windows": 4})
    definitions = study_definitions(study)
    for name in jobs(study):
        job = definitions.resolve_job_def(name)
        assert len(job.description or "") > 20, name
        partitioned = {"harvest_activations": 1, "draw_scorecards": 1, "train_and_evaluate": 2}.get(name, 0)
        dimensions = getattr(job.partitions_def, "partitions_defs", [job.partitions_def] if job.partitions_def else [])
        assert len(dimensions) == partitioned, name


def test_the_scheduled_scorecards_are_a_run_per_layer() -> None:
    study = small(schedules=EVERYTHING, corpus={"held_out_windows": 4}, activations={"layers": [0, 1], "tokens": 40_000})
    definitions = study_definitions(study)
    schedule = definitions.resolve_schedule_def("scheduled_scorecards")
    keys: list[str | None] = []
    for monday in (5, 12):
        due = dg.build_schedule_context(
            repository_def=definitions.get_repository_def(), scheduled_execution_time=datetime(2026, 1, monday, 4, tzinfo=UTC)
        )
        requests = schedule.evaluate_tick(due).run_requests
        assert [request.partition_key for request in requests or ()] == ["L00", "L01"]
        keys += [request.run_key for request in requests or ()]
    assert len(set(keys)) == 4, "a key that was seen before launches nothing"


def test_every_asset_that_is_computed_names_its_source_code() -> None:
    graph = study_definitions(small()).resolve_asset_graph()
    for key in graph.toposorted_asset_keys:
        if graph.get(key).is_materializable:
            (reference,) = graph.get(key).metadata["dagster/code_references"].code_references
            assert Path(reference.file_path).parent.name == "assets", key


def test_what_the_launchpad_offers_needs_no_typing() -> None:
    for resource in study_definitions(small()).resources.values():  # type: ignore[union-attr]
        for name, field in type(resource).model_fields.items():
            assert field.description, name
            assert not field.is_required() or name == "home", name

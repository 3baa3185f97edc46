"""Forgetting old runs: those of this home only, where several homes share one event log."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import dagster as dg

from sae_pipeline.launcher.forgetting import forget_runs
from sae_pipeline.launcher.instance import HOME_TAG, living, open_instance
from sae_pipeline.store import Home


def finished_run(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    run = dg.DagsterRun(job_name="toy", status=dg.DagsterRunStatus.SUCCESS, tags=tags)
    instance.add_run(run)
    return run.run_id


def test_runs_of_another_home_on_the_same_event_log_stay(tmp_path: Path) -> None:
    home = Home(tmp_path)
    instance = open_instance(home)
    with living(instance, home) as tags:
        of_this, without_a_name = finished_run(instance, tags), finished_run(instance, {})
    of_another = finished_run(instance, tags | {HOME_TAG: "another home"})
    assert forget_runs(instance, home, dry_run=True) == 0, "they are new"
    assert forget_runs(instance, home, older_than=timedelta(), dry_run=True) == 2
    assert forget_runs(instance, home, older_than=timedelta()) == 2
    assert [run.run_id for run in instance.get_runs()] == [of_another]
    assert not instance.has_run(of_this)
    assert not instance.has_run(without_a_name)

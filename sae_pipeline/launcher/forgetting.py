"""Old runs of Dagster's, forgotten: each leaves some 200 kB in the home, for ever unless somebody removes them.

A run that some asset still rests on is kept however old it is: by its events Dagster knows what is fresh.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import dagster as dg
from dagster._core.storage.dagster_run import FINISHED_STATUSES
from dagster._core.storage.event_log import SqliteEventLogStorage

from sae_pipeline.launcher.instance import of_home
from sae_pipeline.store import Home, storage_errors

KEPT_DAYS = 30
"""Days for which the history of every run can be looked at in the UI."""


def forget_runs(instance: dg.DagsterInstance, home: Home, *, older_than: timedelta = timedelta(days=KEPT_DAYS), dry_run: bool = False) -> int:
    """Remove finished runs of this home that began so long ago and that made no asset partition's latest materialisation; how many went.

    On a PostgreSQL server, which homes may share, runs that name no home stay: they may be another one's.
    """
    filters = dg.RunsFilter(statuses=FINISHED_STATUSES, created_before=datetime.now(UTC) - older_than)
    needed = set(_latest(instance))
    old = [run.run_id for run in of_home(instance, home, instance.get_runs(filters=filters)) if run.run_id not in needed]
    if not dry_run:
        for run_id in old:
            instance.delete_run(run_id)
            with storage_errors(home.dagster):
                shutil.rmtree(home.dagster / "storage" / run_id, ignore_errors=True)
                if isinstance(instance.event_log_storage, SqliteEventLogStorage):
                    Path(instance.event_log_storage.path_for_shard(run_id)).unlink(missing_ok=True)
    return len(old)


def _latest(instance: dg.DagsterInstance) -> Iterator[str]:
    """Runs of the latest materialisation of every asset and partition."""
    for key in instance.all_asset_keys():
        if (event := instance.get_latest_materialization_event(key)) is not None:
            yield event.run_id
        ids = instance.event_log_storage.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
        if ids:
            found = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=key, storage_ids=list(ids.values())), limit=len(ids))
            yield from (record.run_id for record in found.records)

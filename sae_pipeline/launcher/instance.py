"""The Dagster instance of a home: opening it, its sources' versions, and the runs of processes that died."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import dagster as dg
from sqlalchemy.exc import DBAPIError

import sae_pipeline
from sae_pipeline.errors import StorageError, StudyError
from sae_pipeline.stages import sources
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home, exclusive, is_held, storage_errors

LAUNCHER_TAG = "sae/launcher"
DATA_VERSION = "dagster/data_version"
"""Tag of an observation, as Dagster spells it."""


def open_instance(home: Home) -> dg.DagsterInstance:
    """The Dagster instance of a home, created under a lock because two processes creating one at once break it."""
    with storage_errors(home.root, missing=True):
        home.dagster.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    with exclusive(home.locks / "dagster-home.lock"), event_log_errors(home):
        settings = home.dagster / "dagster.yaml"
        if not settings.exists():
            with storage_errors(settings):
                shutil.copyfile(Path(sae_pipeline.__file__).resolve().parent.parent / "dagster.yaml", settings)
        return dg.DagsterInstance.get()


@contextmanager
def definition_errors(study_file: str) -> Iterator[None]:
    """Turn Dagster's refusal of a study's definitions into one sentence that names the file."""
    try:
        yield
    except dg.DagsterError as error:
        raise StudyError(
            f"{study_file}: expected a study that Dagster accepts, found: {str(error).splitlines()[0]}; correct the study file"
        ) from error


@contextmanager
def event_log_errors(home: Home) -> Iterator[None]:
    """Turn a failure of Dagster's own database into one sentence."""
    try:
        yield
    except DBAPIError as error:
        raise StorageError(
            f"{home.dagster}: expected an event log that can be read and written, found: {error.orig}; free space or point SAE_HOME elsewhere, then run again (finished work is kept)"
        ) from error


@contextmanager
def living(instance: dg.DagsterInstance, home: Home) -> Iterator[dict[str, str]]:
    """Tags for the runs of this process, by which a later one can tell that it is dead.

    A run killed with its process keeps its slot of the ``gpu`` pool for ever, and the next step would wait for it. The
    lock file named in the tag is held for the life of this process and dropped by the kernel; whoever can take the lock
    of an unfinished run ends that run and frees its slots.
    """
    for run in dead_runs(instance, home):
        end(instance, run)
    name = uuid.uuid4().hex
    lock = home.locks / f"launcher-{name}.lock"
    with exclusive(lock):
        try:
            yield {LAUNCHER_TAG: name}
        finally:
            lock.unlink(missing_ok=True)


def dead_runs(instance: dg.DagsterInstance, home: Home) -> list[dg.DagsterRun]:
    """Unfinished runs whose launching process is gone."""
    unfinished = dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING])
    launched = [run for run in instance.get_runs(filters=unfinished) if LAUNCHER_TAG in run.tags]
    return [run for run in launched if not is_held(home.locks / f"launcher-{run.tags[LAUNCHER_TAG]}.lock")]


def end(instance: dg.DagsterInstance, run: dg.DagsterRun) -> None:
    """Mark a dead run as failed and give back the slots of the pool that it held."""
    instance.report_run_failed(run, "the process that ran it was killed")
    instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def observed_version(instance: dg.DagsterInstance, source: dg.AssetKey) -> str | None:
    """The data version that a source was last observed with."""
    event = instance.fetch_observations(source, limit=1).records
    return (event[0].asset_observation.tags or {}).get(DATA_VERSION) if event and event[0].asset_observation else None


def observe_sources(instance: dg.DagsterInstance, ctx: StudyContext) -> None:
    """Tell Dagster the data version of every source whose text changed; one never observed would block automation."""
    for name in filter(partial(sources.is_external, ctx), ctx.study.sources):
        key = dg.AssetKey([ctx.study.name, "sources", name])
        version = sources.observe(ctx, name)
        if observed_version(instance, key) != version:
            instance.report_runless_asset_event(dg.AssetObservation(key, tags={DATA_VERSION: version}))

"""The Dagster instance of a home: opening it, its sources' versions, and the runs of processes that died."""

from __future__ import annotations

import logging
import os
import sqlite3
import sys
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any, TextIO

import dagster as dg
import yaml
from sqlalchemy import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError

import sae_pipeline
from sae_pipeline.errors import BadInput, StorageError, StudyError
from sae_pipeline.execution import Execution
from sae_pipeline.stages import sources
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home, exclusive, is_held, storage_errors, write_atomically
from sae_pipeline.store.locks import remove_idle

LAUNCHER_TAG, HOME_TAG = "sae/launcher", "sae/home"
POSTGRES_URL = "SAE_POSTGRES_URL"
"""Environment variable with the address of the PostgreSQL server that keeps Dagster's event log."""
GPU_POOL = "gpu"
"""Dagster's pool of the heavy steps."""
DATA_VERSION = "dagster/data_version"
"""Tag of an observation, as Dagster spells it."""
NOTHING_CAPTURED = {"module": "dagster._core.storage.noop_compute_log_manager", "class": "NoOpComputeLogManager"}
STORED_IN_POSTGRES = f"""\
storage:
  postgres:
    # Read when it is needed; the address, which holds a password, is written nowhere.
    postgres_url: {{env: {POSTGRES_URL}}}
"""


def open_instance(home: Home) -> dg.DagsterInstance:
    """The Dagster instance of a home, created under a lock because two processes creating one at once break it.

    Raises:
        BadInput: the home keeps its event log elsewhere than ``SAE_POSTGRES_URL`` says.
        StorageError: the event log cannot be reached.
    """
    with storage_errors(home.root, missing=True):
        home.dagster.mkdir(parents=True, exist_ok=True)
    os.environ["DAGSTER_HOME"] = str(home.dagster)
    with exclusive(home.locks / "dagster-home.lock"), event_log_errors(home):
        settings = home.dagster / "dagster.yaml"
        if not settings.exists() or not settings.stat().st_size:
            with storage_errors(settings):
                write_atomically(settings, _settings().encode())
        if not home_identity(home).exists():
            with storage_errors(settings):
                write_atomically(home_identity(home), uuid.uuid4().hex.encode())
        logging.getLogger().addFilter(_is_no_retry)
        try:
            read = _read(settings)
            _check_storage(settings, read)
            return _without_captured_output(settings, read)
        except (dg.DagsterError, yaml.YAMLError) as error:
            raise StorageError(
                f"{settings}: expected settings that Dagster accepts, found: {str(error).splitlines()[0]}; correct or remove the file, the next run writes it anew"
            ) from error


def _without_captured_output(settings: Path, read: dict[str, Any]) -> dg.DagsterInstance:
    """The instance that ``dagster.yaml`` describes, which leaves what a run prints where it is printed.

    To keep a copy Dagster starts four processes a run, which take the launcher's time and, told of a terminal's Ctrl-C
    like everything in its group, die with tracebacks. The warnings of a run are events of its log instead. Whoever names
    a place for the copies (``compute_logs``) gets them.
    """
    from dagster._core.instance.ref import InstanceRef  # slow

    own = {} if "compute_logs" in read else {"compute_logs": NOTHING_CAPTURED}
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(settings.parent), overrides=own))


def _read(settings: Path) -> dict[str, Any]:
    """What the home's ``dagster.yaml`` says; nothing where it holds no mapping, which Dagster then refuses."""
    read = yaml.safe_load(settings.read_text(encoding="utf-8"))
    return read if isinstance(read, dict) else {}


def home_identity(home: Home) -> Path:
    """What tells the runs of this home from those of another one that shares its PostgreSQL server."""
    return home.dagster / "identity"


def _is_no_retry(record: logging.LogRecord) -> bool:
    """dagster-postgres warns before each of its attempts to reach the server; how that ends is said in a sentence."""
    return not str(record.msg).startswith("Retrying failed database")


def _settings() -> str:
    """The ``dagster.yaml`` of a new home: the repository's, with the event log in PostgreSQL where the environment names a server."""
    text = (Path(sae_pipeline.__file__).resolve().parent.parent / "dagster.yaml").read_text(encoding="utf-8")
    return text + (STORED_IN_POSTGRES if os.environ.get(POSTGRES_URL) else "")


def _check_storage(settings: Path, read: dict[str, Any]) -> None:
    """Refuse a home whose event log lies elsewhere than the environment says: its history of runs would seem to be gone."""
    url, storage = os.environ.get(POSTGRES_URL), read.get("storage")
    postgres = storage.get("postgres") if isinstance(storage, dict) else None
    asked = isinstance(postgres, dict) and postgres.get("postgres_url") == {"env": POSTGRES_URL}
    if asked and not url:
        raise BadInput(f"{settings}: expected {POSTGRES_URL} to name the PostgreSQL server that keeps this home's event log, found it unset; set it")
    if url and not storage:
        raise BadInput(
            f"{POSTGRES_URL} is set, but {settings} keeps this home's event log in files: unset it, or move {settings.parent} away; "
            "the next run makes a new one and reuses every artifact (the history of runs is lost)"
        )
    if asked and url:
        os.environ[POSTGRES_URL] = _with_driver(url)
    if asked and find_spec("dagster_postgres") is None:
        raise BadInput(f"{POSTGRES_URL}: expected the package dagster-postgres, found none; `pip install 'sae-pipeline[postgres]'`")


def _with_driver(url: str) -> str:
    """The address with the driver that dagster-postgres installs, which is not SQLAlchemy's first choice."""
    try:
        address = make_url(url)
    except (ArgumentError, ValueError):  # their text may hold the password
        address = None
    if address is None or address.get_backend_name() != "postgresql":
        raise BadInput(f"{POSTGRES_URL}: expected an address such as postgresql://USER:PASSWORD@HOST:5432/DATABASE, found another form; correct it")
    return address.set(drivername="postgresql+psycopg2").render_as_string(hide_password=False)


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
    """Turn a failure of Dagster's own database into one sentence, and keep Dagster from saying it in its own words before."""
    try:
        with redirect_stderr(_WithoutEcho(sys.stderr)):
            yield
    except Exception as error:
        # dagster-postgres gives up with an exception of its own, whose cause is the database's.
        failure = next((found for found in (error, error.__cause__) if isinstance(found, DBAPIError)), None)
        if failure is None:
            raise
        where, remedy = f"{home.dagster}", "free space or point SAE_HOME elsewhere"
        if type(failure.orig) is sqlite3.DatabaseError:  # damage; what the disk or the rights refuse is an OperationalError
            remedy = "put it aside with `sae-pipeline doctor --repair`"
        if type(failure.orig).__module__.startswith("psycopg2"):
            where, remedy = "the PostgreSQL server of " + POSTGRES_URL, "start it, or correct the address"
        found = str(failure.orig).strip().partition("\n")[0]
        raise StorageError(
            f"{where}: expected an event log that can be read and written, found: {found}; {remedy}, then run again (finished work is kept)"
        ) from error


class _WithoutEcho(StringIO):
    """Standard error, but for the line that Dagster writes there about an event that it could not record and then raises."""

    def __init__(self, stream: TextIO) -> None:
        super().__init__()
        self._stream = stream
        # Bars on a terminal stand in for standard error themselves: by this name rich finds the terminal behind us, instead of calling us for ever.
        self.rich_proxied_file = getattr(stream, "rich_proxied_file", stream)

    def write(self, text: str) -> int:
        return len(text) if text.startswith("Exception while writing logger call to event log") else self._stream.write(text)

    def flush(self) -> None:
        self._stream.flush()

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()


@contextmanager
def living(instance: dg.DagsterInstance, home: Home) -> Iterator[dict[str, str]]:
    """Tags for the runs of this process, by which a later one can tell that it is dead.

    A run killed with its process keeps its slot of the ``gpu`` pool for ever, and the next step would wait for it. The
    lock file named in the tag is held for the life of this process and dropped by the kernel; whoever can take the lock
    of an unfinished run ends that run and frees its slots.
    """
    for run in dead_runs(instance, home):
        end(instance, run)
    for left_over in home.locks.glob("launcher-*.lock"):
        remove_idle(left_over)
    name, here = uuid.uuid4().hex, home_identity(home).read_text()
    lock = home.locks / f"launcher-{name}.lock"
    with exclusive(lock):
        try:
            yield {LAUNCHER_TAG: name, HOME_TAG: here}
        finally:
            lock.unlink(missing_ok=True)


def dead_runs(instance: dg.DagsterInstance, home: Home) -> list[dg.DagsterRun]:
    """Unfinished runs of this home that `sae-pipeline run` launched and whose process is gone; others are Dagster's to end."""
    launched = [run for run in of_home(instance, home, unfinished(instance)) if LAUNCHER_TAG in run.tags]
    return [run for run in launched if not is_held(home.locks / f"launcher-{run.tags[LAUNCHER_TAG]}.lock")]


def of_home(instance: dg.DagsterInstance, home: Home, runs: Sequence[dg.DagsterRun]) -> list[dg.DagsterRun]:
    """The runs that are this home's.

    Only those of `sae-pipeline run` name their home; the UI's, of schedules and of backfills do not. In a home's own files
    these are its own too. On a server that several homes may share nobody can tell whose they are, so there they count as nobody's.
    """
    from dagster._core.storage.event_log import SqliteEventLogStorage  # slow, and Dagster itself loads it for an instance only

    here = home_identity(home).read_text()
    of_nameless = here if isinstance(instance.event_log_storage, SqliteEventLogStorage) else None
    return [run for run in runs if run.tags.get(HOME_TAG, of_nameless) == here]


def unfinished(instance: dg.DagsterInstance, run_ids: Sequence[str] | None = None) -> Sequence[dg.DagsterRun]:
    """Runs that have begun and not ended, of these only."""
    begun = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    return instance.get_runs(filters=dg.RunsFilter(run_ids=run_ids, statuses=begun))


def share_gpu_pool(instance: dg.DagsterInstance, places: int | None = None) -> None:
    """Let so many heavy steps run at the same time, by default as many as there are workers.

    Which of them gets which device is the file lease's business, or Ray's.
    """
    places = places or Execution.from_environment().workers
    if places is not None:
        instance.event_log_storage.set_concurrency_slots(GPU_POOL, places)


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
        with event_log_errors(ctx.home):
            if observed_version(instance, key) != version:
                instance.report_runless_asset_event(dg.AssetObservation(key, tags={DATA_VERSION: version}))

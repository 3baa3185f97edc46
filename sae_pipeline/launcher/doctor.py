"""What can be wrong with an installation and a home, looked at and mended: the command ``sae-pipeline doctor``.

Every check gives a :class:`Diagnosis` and moves nothing by itself. Mending never removes a result: what is damaged goes to
quarantine and is computed again, what is dead is ended, what nobody holds is let go.
"""

from __future__ import annotations

import json
import platform
import shutil
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from packaging.requirements import Requirement

import sae_pipeline
from sae_pipeline.errors import SaePipelineError
from sae_pipeline.launcher.diagnosis import Diagnosis
from sae_pipeline.launcher.shared_doctor import examine_shared
from sae_pipeline.stages import history
from sae_pipeline.store import Home, is_held
from sae_pipeline.store.budget import stored_bytes
from sae_pipeline.store.damage import damage_of, quarantine
from sae_pipeline.store.locks import remove_idle
from sae_pipeline.store.shared import NO_MANIFEST, Published

DISTRIBUTION = "sae-pipeline"
LITTLE_SPACE = 2e9
"""Bytes left on the home's disk below which a study of any size is likely to fill it: the quickstart takes half a gigabyte."""


def examine(home: Home) -> Iterator[Diagnosis]:
    """Every check, the quick ones first."""
    yield from _installation()
    yield _kernels()
    yield _devices()
    yield _disk(home)
    yield from _store(home)
    yield from _half_finished(home)
    yield from examine_shared(home)
    yield from _event_log(home)
    yield from _warehouses(home)
    yield from _records(home)


# ------------------------------------------------------------------------------------------------ the machine


def _installation() -> Iterator[Diagnosis]:
    """The packages that this one asks for, in versions that it accepts; and its own three, each from the same place."""
    python = f"Python {platform.python_version()}"
    try:
        asked, found = requires(DISTRIBUTION) or [], f"{python}, {DISTRIBUTION} {sae_pipeline.__version__}"
    except PackageNotFoundError:
        asked, found = [], f"{python}, {DISTRIBUTION} {sae_pipeline.__version__} as a folder that is not installed, so what it asks for is not known"
    wrong = [problem for text in asked if (problem := _unmet(Requirement(text)))]
    if wrong:
        yield Diagnosis("installation", False, f"{found}; {'; '.join(wrong)}", "run `pip install -c constraints.txt -e .` in the repository")
    else:
        yield Diagnosis("installation", True, f"{found}; no package in a version it does not accept")
    specs = [find_spec(name) for name in ("assets", "resources", "sae_pipeline")]
    places = {str(Path(spec.origin).resolve().parents[1]) if spec and spec.origin else "nowhere" for spec in specs}
    if len(places) > 1:
        yield Diagnosis(
            "packages",
            False,
            f"expected assets, resources and sae_pipeline beside each other, found them in {', '.join(sorted(places))}",
            "start from a folder that holds no package called assets or resources",
        )


def _unmet(wanted: Requirement) -> str | None:
    """What is wrong with a package that is asked for; None where nothing is, or where only an extra asks for it."""
    if wanted.marker is not None and not wanted.marker.evaluate({"extra": ""}):
        return None
    try:
        found = version(wanted.name)
    except PackageNotFoundError:
        return f"{wanted.name} is missing"
    return None if wanted.specifier.contains(found, prereleases=True) else f"{wanted.name} {found} instead of {wanted.specifier}"


def _kernels() -> Diagnosis:
    try:
        return Diagnosis("kernels", True, f"numba {version('numba')}: training on the CPU uses compiled kernels")
    except PackageNotFoundError:
        return Diagnosis("kernels", True, "no numba: training on the CPU uses plain torch, which is slower; `pip install -e .[fast]` adds it")


def _devices() -> Diagnosis:
    import torch

    cuda = [f"cuda:{n} {torch.cuda.get_device_name(n)}" for n in range(torch.cuda.device_count())]
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return Diagnosis("devices", True, f"{', '.join([f'cpu with {torch.get_num_threads()} threads', *cuda, *mps])}; torch {torch.__version__}")


def _disk(home: Home) -> Diagnosis:
    place = home.existing_root
    probe = place / ".doctor"
    try:
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as error:
        return Diagnosis(
            "disk", False, f"{place} cannot be written ({error.strerror})", "choose another folder with SAE_HOME, or mend its permissions"
        )
    free, used = shutil.disk_usage(place).free, stored_bytes(home.root)
    found = f"{home.root} holds {used / 1e9:.2f} GB, {free / 1e9:.1f} GB are free"
    if free < LITTLE_SPACE:
        return Diagnosis("disk", False, found, "free space, point SAE_HOME elsewhere, or remove what no study needs with `sae-pipeline gc STUDY…`")
    return Diagnosis("disk", True, found)


# ------------------------------------------------------------------------------------------------ the store


def _store(home: Home) -> Iterator[Diagnosis]:
    """Every byte of every artifact against its manifest."""
    sound = 0
    for stage in sorted(path for path in home.store.root.glob("[!.]*") if path.is_dir()):
        for folder in sorted(stage.glob("[!.]*")):
            if stage.name == "spool" and folder.is_dir() and not (folder / "manifest.json").exists():
                continue  # rows of the hub as they are streamed: checked when they are read
            if damage := damage_of(folder) if folder.is_dir() else "expected a folder, found a file":
                remedy = "the next `sae-pipeline run` computes it again; `sae-pipeline doctor --repair` moves it to quarantine now"
                yield Diagnosis("store", False, f"{stage.name} {folder.name} is damaged: {damage}", remedy, partial(quarantine, folder))
            else:
                sound += 1
    unreadable = [file for file in home.store.remembered.glob("*/*.json") if not _is_manifest(file)]
    if unreadable:
        remedy = "harmless, they are asked for again; `sae-pipeline doctor --repair` removes them"
        found = f"{len(unreadable)} remembered manifests of the shared store that cannot be read"
        yield Diagnosis("store", True, found, remedy, partial(_each, partial(Path.unlink, missing_ok=True), unreadable))
    yield Diagnosis("store", True, f"{sound} artifacts whose bytes are those that were written")


def _is_manifest(file: Path) -> bool:
    try:
        Published.of(file.parent.name, file.stem, json.loads(file.read_text()))
    except (OSError, *NO_MANIFEST):
        return False
    return True


def _half_finished(home: Home) -> Iterator[Diagnosis]:
    """Drafts that a run goes on from, locks that nobody holds, and what was put into quarantine."""
    under_way = home.store.root / ".partial"
    drafts = [path for path in under_way.glob("*/*") if path.is_dir()]
    if drafts:
        yield Diagnosis(
            "drafts", True, f"{len(drafts)} half-finished artifacts ({sum(map(stored_bytes, drafts)) / 1e6:.1f} MB); the next run goes on from them"
        )
    idle = [lock for lock in (*under_way.glob("*/*.lock"), *home.locks.glob("launcher-*.lock")) if not is_held(lock)]
    if idle:
        remedy = "harmless; `sae-pipeline doctor --repair` removes them"
        yield Diagnosis(
            "locks",
            True,
            f"{len(idle)} lock files of processes that were killed",
            remedy,
            partial(_each, remove_idle, idle),
        )
    damaged = [path for path in (home.store.root / ".quarantine").glob("*") if path.is_dir()]
    if damaged:
        size = sum(map(stored_bytes, damaged)) / 1e6
        yield Diagnosis(
            "quarantine", True, f"{len(damaged)} damaged artifacts kept for inspection ({size:.1f} MB); `sae-pipeline gc STUDY…` removes them"
        )


def _each(mend: Callable[[Path], None], files: list[Path]) -> None:
    for file in files:
        mend(file)


# ------------------------------------------------------------------------------------------------ Dagster and the warehouses


def _event_log(home: Home) -> Iterator[Diagnosis]:
    """Dagster's databases, and runs of processes that are gone."""
    if not home.dagster.is_dir():
        yield Diagnosis("event log", True, "no study was run on this home yet")
        return
    files = sorted(home.dagster.rglob("*.db"))
    broken = [file for file in files if not _is_sound(file)]
    for file in broken:
        remedy = f"`sae-pipeline doctor --repair` moves {home.dagster} aside; the next run makes a new one and reuses every artifact (the history of runs is lost)"
        yield Diagnosis("event log", False, f"{file} is damaged", remedy, partial(_put_aside, home.dagster))
    if broken:
        return
    if files:
        yield Diagnosis("event log", True, f"{len(files)} databases of Dagster's without damage")
    from sae_pipeline.launcher.instance import dead_runs, end, open_instance

    try:
        instance = open_instance(home)
        if not files:
            yield Diagnosis("event log", True, "kept on a server that answers")
        for run in dead_runs(instance, home):
            remedy = "the next `sae-pipeline run` ends it; `sae-pipeline doctor --repair` does so now"
            yield Diagnosis("runs", False, f"run {run.run_id} is called unfinished, but its process is gone", remedy, partial(end, instance, run))
    except SaePipelineError as error:
        yield Diagnosis("event log", False, str(error), "free space or point SAE_HOME elsewhere")


def _put_aside(folder: Path) -> None:
    """Keep a damaged folder beside its place, under a name with the date."""
    if folder.exists():
        folder.rename(folder.with_name(f"{folder.name}-damaged-{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime())}"))


def _is_sound(database: Path) -> bool:
    """Whether SQLite finds no damage, in a copy: after a kill the file is sound only once its journal was rolled back, which writes."""
    with TemporaryDirectory() as folder:
        for file in database.parent.glob(f"{database.name}*"):
            with suppress(FileNotFoundError):  # a journal that its writer removed in the meantime
                shutil.copyfile(file, Path(folder) / file.name)
        try:
            with closing(sqlite3.connect(Path(folder) / database.name)) as connection:
                return connection.execute("PRAGMA quick_check").fetchone() == ("ok",)
        except sqlite3.DatabaseError:
            return False


def _warehouses(home: Home) -> Iterator[Diagnosis]:
    """Every study's warehouse, and every copy kept of it, can be opened."""
    for file in sorted(home.root.glob("studies/*/warehouse.duckdb")):
        remedy = "`sae-pipeline report STUDY` builds it again; `--repair` removes it"
        yield _warehouse(file, remedy, file.unlink)
    for file in sorted(home.root.glob("studies/*/history/versions/[!.]*.duckdb")):
        remedy = "close what has it open; without a sound copy of it `sae-pipeline doctor --repair` hides it, and versions are compared without it"
        yield _warehouse(file, remedy, partial(_hide, file))


def _warehouse(file: Path, remedy: str, mend: Callable[[], None]) -> Diagnosis:
    import duckdb

    try:
        with duckdb.connect(str(file), read_only=True) as connection:
            return Diagnosis("warehouse", True, f"{file}: {len(connection.execute('SHOW TABLES').fetchall())} tables")
    except duckdb.Error as error:
        return Diagnosis("warehouse", False, f"{file} cannot be opened ({str(error).splitlines()[0]})", remedy, mend)


def _records(home: Home) -> Iterator[Diagnosis]:
    """Every recorded evaluation of every study can be read."""
    for folder in sorted(home.root.glob("studies/*/history/records/[!.]*")):
        try:
            history.check(folder)
        except SaePipelineError as error:
            remedy = "without a copy `sae-pipeline doctor --repair` hides its folder, and the history goes on without it"
            yield Diagnosis("history", False, str(error), remedy, partial(_hide, folder))


def _hide(damaged: Path) -> None:
    damaged.rename(damaged.with_name(f".{damaged.name}-damaged"))

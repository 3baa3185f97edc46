"""What a case of the fault suite is, and the ways to disturb a run that cases are made of."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from fault_runs import Disturbance
from fault_study import Place
from fault_traps import Trap, without_rights

Kind = Literal["kill", "fill", "corrupt", "deny", "disconnect"]
Change = Callable[[Place], object]
Disturb = Callable[[Place], AbstractContextManager[Sequence[Disturbance]]]
"""Entered before the disturbed run and left after it: damages the home, or gives what is installed in the run's process."""

KILLED = -signal.SIGKILL
STOPPED = 130


@dataclass(frozen=True, kw_only=True)
class Case:
    """One row of the table."""

    name: str
    """What happens to the run, as the table says it."""
    kind: Kind
    redo: Sequence[str] = ()
    """Stages that the run has to compute: their artifacts are taken out of the finished home."""
    disturb: Disturb
    code: int
    """Exit code of the disturbed run."""
    told: str = ""
    """Part of what it says; a process that was killed says nothing."""
    remedy: Change | None = None
    """What it asks for before the next run."""
    remeasured: bool = False
    """Whether artifacts that hold times are made anew: names and figures that follow from those then differ from the undisturbed home's."""


class CannotHappenHere(Exception):
    """This machine does not let the case happen; says why."""


# ------------------------------------------------------------------------------------------------ ways to disturb


def trapped(operation: str, pattern: str, act: int | str, between: tuple[int, int] = (1, 1)) -> Disturb:
    """A trap at the n-th operation on such a path below the home, n drawn from a range."""

    @contextmanager
    def disturb(place: Place) -> Iterator[Sequence[Disturbance]]:
        yield [Trap(operation, f"{place.root}/{pattern}", act, place.draw.randint(*between))]

    return disturb


def damaged(change: Change) -> Disturb:
    """The home as it is found by the run was changed."""

    @contextmanager
    def disturb(place: Place) -> Iterator[Sequence[Disturbance]]:
        change(place)
        yield []

    return disturb


def damaged_draft(stopped: Disturb, change: Change) -> Disturb:
    """An earlier run was killed, and what it left half finished was changed."""

    @contextmanager
    def disturb(place: Place) -> Iterator[Sequence[Disturbance]]:
        with stopped(place) as traps:
            assert place.run(*traps).code == KILLED
        change(place)
        yield []

    return disturb


def forbidden(find: Callable[[Place], Path], mode: int) -> Disturb:
    """Permissions of a file or folder for a user who is not root."""

    @contextmanager
    def disturb(place: Place) -> Iterator[Sequence[Disturbance]]:
        path = find(place)
        before = path.stat().st_mode
        path.chmod(mode)
        try:
            yield [without_rights]
        finally:
            with suppress(FileNotFoundError):  # moved to quarantine
                path.chmod(before)

    return disturb


def full(folder: str, share: float) -> Disturb:
    """A folder of the home is a small disk, with room for a share of what the missing artifacts need."""

    @contextmanager
    def disturb(place: Place) -> Iterator[Sequence[Disturbance]]:
        small, aside = place.root / folder, place.root.with_name("aside")
        small.rename(aside)
        small.mkdir()
        try:
            with mounted("-t", "tmpfs", "-o", "size=256m", "tmpfs", str(small)):
                shutil.copytree(aside, small, dirs_exist_ok=True)
                ballast = small / "ballast"
                free = int(share * place.missing_bytes)
                with ballast.open("wb") as file:
                    os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(small).free - free)
                yield []
                ballast.unlink()
                shutil.rmtree(aside)
                shutil.copytree(small, aside)
        finally:
            shutil.rmtree(small)
            aside.rename(small)

    return disturb


@contextmanager
def mounted(*arguments: str) -> Iterator[None]:
    """Something mounted for as long as the context lasts; the last argument is where."""
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True)
    if done.returncode:
        raise CannotHappenHere(f"needs the right to mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", arguments[-1]], capture_output=True, check=False)  # some cases take it away themselves


# ------------------------------------------------------------------------------------------------ ways to change a file


def flip(path: Path, at: float = 0.5) -> None:
    """Change one bit."""
    content = bytearray(path.read_bytes())
    content[int(at * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Cut a file in half."""
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    """Leave a file without a byte."""
    path.write_bytes(b"")


def remove(path: Path) -> None:
    """Remove a file or folder."""
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def write(text: str) -> Callable[[Path], object]:
    """Put this in a file's place."""
    return lambda path: path.write_text(text)


def folder_instead(path: Path) -> None:
    """A folder where a file belongs."""
    path.unlink(missing_ok=True)
    path.mkdir(parents=True)


def file_instead(path: Path) -> None:
    """A file where a folder belongs."""
    if path.exists():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("not a folder")


def of(stage: str, name: str, change: Callable[[Path], object]) -> Change:
    """A change of a file of a stage's artifact."""
    return lambda place: change(place.file(stage, name))


def of_draft(stage: str, name: str, change: Callable[[Path], object]) -> Change:
    """A change of a file of a half-finished artifact."""
    return lambda place: change(place.draft(stage, name))


def at(name: str, change: Callable[[Path], object]) -> Change:
    """A change of a file or folder of the home."""
    return lambda place: change(next(iter(sorted(place.root.glob(name))), place.root / name))

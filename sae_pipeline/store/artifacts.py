"""The input-addressed store: ``<root>/<stage>/<fingerprint>/`` with a manifest that is written last.

A stage asks :meth:`Store.find` first and returns at once on a hit, so a second launch of the same work does nothing,
whichever way it was launched. What is not there is built inside a :class:`Draft` and published in one rename. Readers
go through :meth:`Artifact.file`, which checks the bytes against the manifest: a damaged artifact is moved to
quarantine and reported, never read.
"""

from __future__ import annotations

import errno
import json
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sae_pipeline import __version__
from sae_pipeline.errors import DamagedArtifact, StorageError
from sae_pipeline.store.fingerprints import digest, file_sha256
from sae_pipeline.store.locks import exclusive
from sae_pipeline.store.writing import flush, write_json

MANIFEST = "manifest.json"
RECORDED_LIBRARIES = (
    "torch",
    "transformer-lens",
    "transformers",
    "tokenizers",
    "datasets",
    "numpy",
    "scipy",
    "pandas",
    "duckdb",
    "dagster",
)

_verified: set[tuple[str, int, int]] = set()
"""(path, size, modification time) of files whose checksum this process has already compared."""


@dataclass(frozen=True)
class Artifact:
    """A published result: a folder, its manifest, and whether this call found it (``reused``) or built it."""

    stage: str
    fingerprint: str
    path: Path
    manifest: dict[str, Any]
    reused: bool = True

    @property
    def content(self) -> str:
        """Hash of what the artifact holds, whatever it was made from; equal content stops downstream work."""
        return self.manifest["content"]

    @property
    def summary(self) -> dict[str, Any]:
        """The figures its stage chose to show (sizes, rates, losses), JSON-like."""
        return self.manifest["summary"]

    @property
    def inputs(self) -> dict[str, Any]:
        """What it was made from: fingerprints of upstream artifacts by role, and the study slice under ``study``."""
        return self.manifest["inputs"]

    def file(self, name: str) -> Path:
        """Path of a file of the artifact, after its bytes were compared with the manifest.

        Raises:
            DamagedArtifact: the file is missing or its bytes changed; the artifact has been quarantined.
        """
        path, expected = self.path / name, self.manifest["files"].get(name)
        if expected is None:
            raise StorageError(f"{self.path}: expected the file {name} in this {self.stage} artifact, found only {', '.join(self.manifest['files'])}")
        try:
            status = path.stat()
            key = (str(path), status.st_size, status.st_mtime_ns)
            if key in _verified:
                return path
            damage = _damage(path, expected)
        except OSError as error:
            damage = f"it cannot be read ({error.strerror})"
        if damage:
            quarantine(self.path)
            raise DamagedArtifact(
                f"{path}: {damage}; the {self.stage} artifact {self.fingerprint} was moved to quarantine and is computed again by the next `sae-pipeline run`"
            )
        _verified.add(key)
        return path

    def json(self, name: str) -> Any:
        """A verified JSON file of the artifact."""
        return json.loads(self.file(name).read_text())


@dataclass
class Draft:
    """An artifact in the making: write into ``path``, then :meth:`publish`.

    Files whose names start with a dot are the stage's own (journals, temporaries): a resumed draft finds them again, and
    they are never published.
    """

    store: Store
    stage: str
    fingerprint: str
    inputs: dict[str, Any]
    path: Path
    started: float = field(default_factory=time.monotonic)

    def publish(self, summary: dict[str, Any], content: str | None = None) -> Artifact:
        """Checksum and flush every file, write the manifest last and rename the folder into place.

        ``content`` defaults to the hash of all files' bytes; give it where the bytes hold what does not matter
        downstream (for example the wording of a recipe).
        """
        with storage_errors(self.path):
            files: dict[str, dict[str, Any]] = {}
            for file in sorted(p for p in self.path.rglob("*") if p.is_file() and not p.name.startswith(".")):
                flush(file)
                files[file.relative_to(self.path).as_posix()] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
            manifest = {
                "stage": self.stage,
                "fingerprint": self.fingerprint,
                "inputs": self.inputs,
                "content": content or digest(sorted((name, f["sha256"]) for name, f in files.items())),
                "files": files,
                "summary": summary,
                "libraries": library_versions(),
                "python": platform.python_version(),
                "host": platform.node(),
                "seconds": round(time.monotonic() - self.started, 3),
                "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            # As a reader will find it: numbers of array libraries become plain ones.
            manifest = json.loads(json.dumps(manifest, default=lambda value: value.item()))
            write_json(self.path / MANIFEST, manifest)
            for left_over in self.path.rglob(".*"):
                left_over.unlink()
            target = self.store.folder(self.stage, self.fingerprint)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(self.path, target)
            flush(target.parent)
        return Artifact(self.stage, self.fingerprint, target, manifest, reused=False)


@dataclass(frozen=True)
class Store:
    """A folder of artifacts shared by all studies."""

    root: Path

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Where an artifact lies, whether or not it exists."""
        return self.root / stage / fingerprint

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The artifact, if it is there with every file at its recorded size; a truncated one is quarantined."""
        path = self.folder(stage, fingerprint)
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            intact = all((path / name).stat().st_size == f["bytes"] for name, f in manifest["files"].items())
        except FileNotFoundError:
            if not path.exists():
                return None
            intact = False
        except (ValueError, KeyError):
            intact = False
        except OSError as error:
            raise StorageError(f"{path}: expected a readable artifact, found {error.strerror}; check the permissions of SAE_HOME") from None
        if not intact:
            quarantine(path)
            return None
        return Artifact(stage, fingerprint, path, manifest)

    def open(self, stage: str, fingerprint: str) -> Artifact:
        """The artifact, which must exist.

        Raises:
            StorageError: it was never computed or was removed.
        """
        artifact = self.find(stage, fingerprint)
        if artifact is None:
            raise StorageError(
                f"{self.root}: expected the {stage} artifact {fingerprint}, found none; run `sae-pipeline run` (or materialise the assets upstream) first"
            )
        return artifact

    @contextmanager
    def draft(self, stage: str, fingerprint: str, inputs: dict[str, Any], *, resumable: bool = False) -> Iterator[Draft | Artifact]:
        """The existing artifact, or a draft to fill, holding a lock so that no other process builds the same.

        The caller tells the two apart with ``isinstance``. A resumable draft keeps its folder when the process dies
        or the block raises, and finds it again; any other starts from an empty folder.
        """
        path = self.root / ".partial" / stage / fingerprint
        with storage_errors(self.root, missing=True):
            path.parent.mkdir(parents=True, exist_ok=True)
        with exclusive(path.with_suffix(".lock"), keep=False):
            if (found := self.find(stage, fingerprint)) is not None:
                yield found
                return
            with storage_errors(path):
                # A process killed between its manifest and its rename can leave a manifest, which is not a file of the stage.
                (path / MANIFEST).unlink(missing_ok=True)
                if path.exists() and not resumable:
                    shutil.rmtree(path)
                path.mkdir(exist_ok=True)
            try:
                with storage_errors(path):
                    yield Draft(self, stage, fingerprint, inputs, path)
            finally:
                if path.exists() and not resumable:
                    shutil.rmtree(path, ignore_errors=True)

    def artifacts(self) -> Iterator[Artifact]:
        """Every published artifact, by stage and fingerprint."""
        for stage in sorted(p for p in self.root.glob("[!.]*") if p.is_dir()):
            for folder in sorted(stage.iterdir()):
                if (artifact := self.find(stage.name, folder.name)) is not None:
                    yield artifact


def damage_of(folder: Path) -> str | None:
    """What is wrong with a published artifact's folder, every byte compared with its manifest; None where nothing is. Moves nothing."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
        for name, expected in manifest["files"].items():
            if found := _damage(folder / name, expected):
                return f"{name}: {found}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError):
        return f"{MANIFEST} cannot be read"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return None


@contextmanager
def storage_errors(path: Path, *, missing: bool = False) -> Iterator[None]:
    """Turn the operating system's refusals into one sentence that says what to do.

    ``missing`` also covers a parent that does not exist, which is the user's doing only where a home is set up.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StorageError(
                f"{error.filename or path}: expected room to write, found the disk full; free space or point SAE_HOME elsewhere, then run again (finished work is kept)"
            ) from error
        if error.errno == errno.EFBIG:
            raise StorageError(
                f"{error.filename or path}: expected a file that the file system can hold, found it too large; lower the study's token budgets"
            ) from error
        refused = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
        if error.errno in refused or (missing and error.errno == errno.ENOENT):
            raise StorageError(
                f"{error.filename or path}: expected a folder that can be written, found: {error.strerror}; choose another with SAE_HOME"
            ) from error
        raise


@cache
def library_versions() -> dict[str, str]:
    """Versions of this package and of the libraries that can change a number."""
    found = {"sae-pipeline": __version__}
    for name in RECORDED_LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _damage(path: Path, expected: dict[str, Any]) -> str | None:
    size = path.stat().st_size
    if size != expected["bytes"]:
        return f"expected {expected['bytes']} bytes, found {size}"
    if file_sha256(path) != expected["sha256"]:
        return "expected the bytes that were written, found others (the checksum differs)"
    return None


def quarantine(path: Path) -> None:
    """Move a damaged artifact out of every reader's way, keeping it for inspection."""
    target = path.parents[1] / ".quarantine" / f"{path.parent.name}-{path.name}-{time.time_ns()}"
    with storage_errors(path):
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, target)

"""The input-addressed store: ``<root>/<stage>/<fingerprint>/`` with a manifest that is written last.

A stage asks :meth:`Store.find` first and returns at once on a hit, so a second launch of the same work does nothing,
whichever way it was launched. What is not there is built inside a :class:`Draft` and published in one rename. Readers
go through :meth:`Artifact.file`, which checks the bytes against the manifest: a damaged artifact is moved to
quarantine and reported, never read.

Where machines share a store (shared.py), an artifact that this home does not have is found there, and its files are
fetched when somebody asks for their path.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from sae_pipeline import __version__
from sae_pipeline.errors import DamagedArtifact, SharedStoreError, StorageError
from sae_pipeline.store.budget import discard, make_room, use
from sae_pipeline.store.damage import DESCRIBED, MANIFEST, damage_of_file, quarantine
from sae_pipeline.store.fingerprints import digest, file_sha256
from sae_pipeline.store.locks import exclusive
from sae_pipeline.store.shared import Published, SharedStore
from sae_pipeline.store.writing import flush, storage_errors, write_json

logger = logging.getLogger(__name__)

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

    store: Store
    stage: str
    fingerprint: str
    manifest: dict[str, Any]
    reused: bool = True

    @property
    def folder(self) -> Path:
        """Where it lies in this home, or will lie once its files have been fetched."""
        return self.store.folder(self.stage, self.fingerprint)

    @property
    def path(self) -> Path:
        """The folder with all of its files, which are fetched first where only the shared store has them."""
        self.store.bring(self)
        return self.folder

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
        files = self.manifest["files"]
        path, expected = self.path / name, files.get(name)
        if expected is None:
            raise StorageError(f"{self.folder}: expected the file {name} in this {self.stage} artifact, found only {', '.join(files)}")
        try:
            status = path.stat()
            key = (str(path), status.st_size, status.st_mtime_ns)
            if key in _verified:
                return path
            damage = damage_of_file(path, expected)
        except OSError as error:
            damage = f"it cannot be read ({error.strerror})"
        if damage:
            quarantine(self.folder)
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
            left_over = list(self.path.rglob(".*"))
            # Before anything is touched: a draft that is refused must still be one that a run goes on from.
            make_room(self.store.root, self.store.shared, -sum(path.lstat().st_size for path in left_over))
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
            for path in left_over:
                path.unlink()
            if (arrived := self.store.move_in(self.path, self.stage, self.fingerprint)) is not None:
                return arrived
        made = Artifact(self.store, self.stage, self.fingerprint, manifest, reused=False)
        try:
            return self.store.share(made)
        except SharedStoreError as error:
            logger.warning("the %s artifact %s was not uploaded: %s", self.stage, self.fingerprint, error)
            return made


@dataclass(frozen=True)
class Store:
    """A folder of artifacts of all studies, and the store that it shares with other machines, if any."""

    root: Path
    shared: SharedStore | None = None

    def folder(self, stage: str, fingerprint: str) -> Path:
        """Where an artifact lies, whether or not it exists."""
        return self.root / stage / fingerprint

    @property
    def remembered(self) -> Path:
        """Manifests of the shared store that this home has seen."""
        return self.root / ".shared"

    def find(self, stage: str, fingerprint: str) -> Artifact | None:
        """The artifact, if this home or the shared store has it; what others published in the last seconds may not be known yet."""
        if (here := self.find_here(stage, fingerprint)) is not None or self.shared is None:
            return here
        return self._found(self.shared.find(stage, fingerprint, self.remembered))

    def find_here(self, stage: str, fingerprint: str) -> Artifact | None:
        """The artifact, if it is in this home with every file at its recorded size; a truncated one is quarantined."""
        path = self.folder(stage, fingerprint)
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            intact = manifest.keys() >= DESCRIBED and all((path / name).stat().st_size == f["bytes"] for name, f in manifest["files"].items())
        except (FileNotFoundError, NotADirectoryError):
            if not path.exists():
                return None
            intact = False
        except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or JSON of another shape
            intact = False
        except OSError as error:
            raise StorageError(f"{path}: expected a readable artifact, found {error.strerror}; check the permissions of SAE_HOME") from None
        if not intact:
            quarantine(path)
            return None
        return Artifact(self, stage, fingerprint, manifest)

    def find_now(self, stage: str, fingerprint: str) -> Artifact | None:
        """The artifact, if this home or the shared store has it at this moment."""
        if (here := self.find_here(stage, fingerprint)) is not None or self.shared is None:
            return here
        return self._found(self.shared.ask(stage, fingerprint))

    def _found(self, found: Published | None) -> Artifact | None:
        return Artifact(self, found.stage, found.fingerprint, found.manifest) if found else None

    def open(self, stage: str, fingerprint: str) -> Artifact:
        """The artifact, which must exist.

        Raises:
            StorageError: it was never computed or was removed.
        """
        artifact = self.find(stage, fingerprint) or self.find_now(stage, fingerprint)
        if artifact is None:
            raise StorageError(
                f"{self.root}: expected the {stage} artifact {fingerprint}, found none; run `sae-pipeline run` (or materialise the assets upstream) first"
            )
        return artifact

    @contextmanager
    def draft(self, stage: str, fingerprint: str, inputs: dict[str, Any], *, resumable: bool = False) -> Iterator[Draft | Artifact]:
        """The existing artifact, or a draft to fill, holding a lock (and a lease) so that no other process or machine builds the same.

        The caller tells the two apart with ``isinstance``. A resumable draft keeps its folder when the process dies
        or the block raises, and finds it again; any other starts from an empty folder.
        """
        path = self.root / ".partial" / stage / fingerprint
        with storage_errors(self.root, missing=True):
            path.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            held.enter_context(exclusive(path.with_suffix(".lock"), keep=False))
            found = self.find_now(stage, fingerprint)
            if found is None and self.shared is not None:
                held.enter_context(self.shared.leases.hold(stage, fingerprint))
                found = self.find_now(stage, fingerprint)  # another machine may have made it in the meantime
            if found is not None:
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

    def move_in(self, made: Path, stage: str, fingerprint: str) -> Artifact | None:
        """Rename a finished folder into its place; where a sound artifact arrived there in the meantime, that one, and the folder goes."""
        target = self.folder(stage, fingerprint)
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(made, target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            if (arrived := self.find_here(stage, fingerprint)) is not None:
                shutil.rmtree(made)
                return arrived
            os.replace(made, target)  # what lay there was damaged, and is in quarantine now
        flush(target.parent)
        return None

    def artifacts(self) -> Iterator[Artifact]:
        """Every published artifact, by stage and fingerprint."""
        for stage in sorted(p for p in self.root.glob("[!.]*") if p.is_dir()):
            for folder in sorted(stage.iterdir()):
                if (artifact := self.find_here(stage.name, folder.name)) is not None:
                    yield artifact

    # ------------------------------------------------------------------------------------------------ the shared store

    def share(self, artifact: Artifact) -> Artifact:
        """Publish an artifact of this home in the shared store; where another machine was first, its artifact takes the place of this one.

        Raises:
            SharedStoreError: the shared store cannot be reached; the artifact stays in this home.
        """
        if self.shared is None:
            return artifact
        first = self.shared.publish(artifact.stage, artifact.fingerprint, artifact.folder, artifact.manifest)
        return artifact if first.is_the(artifact.manifest) else self.give_way(artifact, first)

    def give_way(self, artifact: Artifact, first: Published) -> Artifact:
        """Let go of this home's copy where the shared store holds another under the same fingerprint; that one, whose files are fetched when they are read."""
        logger.warning("another machine published the %s artifact %s first: its files are taken", artifact.stage, artifact.fingerprint)
        discard(artifact.folder)
        return Artifact(self, artifact.stage, artifact.fingerprint, first.manifest)

    def bring(self, artifact: Artifact) -> None:
        """Fetch an artifact's files from the shared store, unless they are in this home.

        Raises:
            DamagedArtifact: it is not there any more as it was found, or damaged.
            SharedStoreError: the shared store cannot be reached.
        """
        if self.shared is None:
            return
        if not (artifact.folder / MANIFEST).exists():
            self._fetch(self.shared, artifact)
        use(artifact.folder)

    def _fetch(self, shared: SharedStore, artifact: Artifact) -> None:
        arriving = self.root / ".partial" / artifact.stage / f"{artifact.fingerprint}.fetch"
        with storage_errors(arriving, missing=True), exclusive(arriving.with_name(f"{arriving.name}.lock"), keep=False):
            if (artifact.folder / MANIFEST).exists():
                return
            shutil.rmtree(arriving, ignore_errors=True)
            try:
                arriving.mkdir(parents=True)
                make_room(self.root, shared, sum(file["bytes"] for file in artifact.manifest["files"].values()))
                shared.fetch(artifact.stage, artifact.fingerprint, artifact.manifest, arriving)
                self.move_in(arriving, artifact.stage, artifact.fingerprint)
            finally:
                shutil.rmtree(arriving, ignore_errors=True)  # half of it would only fill a disk that is full


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

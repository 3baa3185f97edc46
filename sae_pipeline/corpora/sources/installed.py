"""Text that is on every machine: docstrings, code and instruction pairs of the installed Python packages.

Three sources come from the same objects and must not share any, otherwise one leaks into another and a comparison
between them means nothing. So each documented object is dealt to exactly one of them by the hash of its qualified
name, and an object that repeats an earlier one's docstring or code is left out altogether.

Packages are found by name and parsed; none is ever imported.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.metadata import Distribution, distribution, packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from sae_pipeline.corpora.documents import Document, document_hash, encodable
from sae_pipeline.corpora.sources import changed
from sae_pipeline.corpora.sources.ordering import distinct, shuffled_by_hash
from sae_pipeline.corpora.sources.parsing import MINIMUM_CHARACTERS, DocumentedObject
from sae_pipeline.errors import SourceError
from sae_pipeline.progress import track
from sae_pipeline.store.artifacts import Artifact, Draft
from sae_pipeline.store.fingerprints import digest, files_digest

if TYPE_CHECKING:
    from sae_pipeline.store import Store

Use = Literal["installed_docs", "installed_code", "installed_instructions"]

DEFAULT_PACKAGES = ("matplotlib", "networkx", "numpy", "pandas", "scipy", "sympy", "torch")
"""Well documented packages that an installation of this project always has."""

PARSER_VERSION = 1
"""Raised whenever parsing, dealing or the wording of instructions changes."""

TEST_FOLDERS = frozenset({"test", "tests"})
"""Test code documents itself with fixtures and expected output rather than prose."""

CHUNKS_PER_WORKER = 4
"""Chunks of files handed to each worker, so that one slow chunk does not leave the others idle."""

EXPLAIN = ("Explain {name}.", "What does {name} do?", "I came across {name} and do not know it. Please describe it.")
WRITE = (
    "Write a Python function for this task: {line}",
    "I need a Python function. Its summary reads: {line}",
    "Please implement the following in Python. {line}",
)
"""Wordings of the two shapes of instruction, one of them taken by the hash of the object's name."""


class InstalledObjects:
    """The documents of one use (``installed_docs``, ``installed_code`` or ``installed_instructions``) of some packages.

    Extraction takes some seconds and is kept in the store, shared by the three uses.
    """

    def __init__(self, use: Use, packages: Sequence[str] | None, store: Store) -> None:
        self.use = use
        self.packages = tuple(sorted(set(packages or DEFAULT_PACKAGES)))
        self.store = store
        self.dropped: Counter[str] = Counter()

    def data_version(self) -> str:
        """Hash of the parser's version, Python's version and every package's name and version.

        Raises:
            SourceError: a package is not installed or has no Python source.
        """
        return digest("installed", PARSER_VERSION, platform.python_version(), [(name, _package_version(name)) for name in self.packages])

    def documents(self, seed: int) -> Iterator[Document]:
        """The objects dealt to this use, ordered by the hash of seed and text.

        Raises:
            SourceError: a package is not installed, or the packages hold no documented object for this use.
        """
        import pyarrow.parquet as pq

        artifact = self._extracted()
        rows = pq.read_table(artifact.file("objects.parquet")).to_pylist()
        objects = [DocumentedObject(row["qualified_name"], row["kind"], row["docstring"], row["source"]) for row in rows]
        texts = [Document(text, found.qualified_name) for found in objects if dealt_to(found) == self.use and (text := _text(found, self.use))]
        if not texts:
            raise SourceError(
                f"{self.use}: expected documented objects in the packages {', '.join(self.packages)}, found none for this use; name more packages"
            )
        self.dropped = Counter(duplicate=artifact.summary["copies_dropped"][self.use])
        yield from shuffled_by_hash(distinct(texts, self.dropped), seed)

    def _extracted(self) -> Artifact:
        """The parsed objects of the packages, from the store or extracted into it."""
        version = self.data_version()
        with self.store.draft("installed_text", version, {"packages": list(self.packages), "parser": PARSER_VERSION}) as draft:
            if not isinstance(draft, Draft):
                return draft
            summary = _extract(draft, self.packages)
            if self.data_version() != version:
                raise SourceError(changed(f"installed packages {', '.join(self.packages)}"))
            return draft.publish(summary)


def dealt_to(found: DocumentedObject) -> Use:
    """The one use of an object, by the hash of its qualified name.

    Only functions whose code survives without the docstring can be code; the others are dealt between prose and instructions.
    """
    uses: tuple[Use, ...] = ("installed_docs", "installed_instructions", "installed_code")
    return uses[_drawn(found.qualified_name, "use", 3 if len(found.source) >= MINIMUM_CHARACTERS else 2)]


def _drawn(qualified_name: str, purpose: str, choices: int) -> int:
    """A number below ``choices``: a pure function of a name, independent between purposes."""
    return int(hashlib.sha256(f"{purpose}:{qualified_name}".encode()).hexdigest()[:16], 16) % choices


def _text(found: DocumentedObject, use: Use) -> str:
    if use == "installed_docs":
        return found.docstring
    if use == "installed_code":
        return found.source
    name = found.qualified_name
    if len(found.source) >= MINIMUM_CHARACTERS and _drawn(name, "shape", 2):
        line = next(line.strip() for line in found.docstring.split("\n") if line.strip())
        request, answer = WRITE[_drawn(name, "wording", len(WRITE))].format(line=line), found.source
    else:
        request, answer = EXPLAIN[_drawn(name, "wording", len(EXPLAIN))].format(name=name), found.docstring
    return f"User: {request}\n\nAssistant: {answer}"


def _extract(draft: Draft, packages: Sequence[str]) -> dict[str, object]:
    """Write ``objects.parquet`` (qualified_name, kind, docstring, source; sorted by name) and return its summary."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    files = [(path, module) for name in packages for path, module in _python_files(name)]
    seen_names: set[str] = set()
    seen_texts: set[str] = set()
    kept: list[DocumentedObject] = []
    copies = {"installed_docs": 0, "installed_code": 0, "installed_instructions": 0}
    for found in sorted(_parsed(files)):
        if found.qualified_name in seen_names:  # overloads, setters and alternative definitions: one object
            continue
        seen_names.add(found.qualified_name)
        texts = {document_hash(text) for text in (found.docstring, found.source) if text}
        if texts & seen_texts:
            copies[dealt_to(found)] += 1
            continue
        seen_texts |= texts
        kept.append(found)
    columns = {field: pa.array([encodable(getattr(found, field)) for found in kept], pa.string()) for field in DocumentedObject._fields}
    pq.write_table(pa.table(columns), draft.path / "objects.parquet", compression="zstd")
    return {"packages": {name: _package_version(name) for name in packages}, "files": len(files), "objects": len(kept), "copies_dropped": copies}


def _parsed(files: list[tuple[Path, str]]) -> list[DocumentedObject]:
    """The documented objects of all files, parsed by as many worker programs as there are processors."""
    workers = min(os.cpu_count() or 1, 8)
    chunks: list[list[tuple[str, str]]] = [[] for _ in range(min(workers * CHUNKS_PER_WORKER, len(files)))]
    by_size = sorted(files, key=lambda file: -file[0].stat().st_size)
    for number, (path, module) in enumerate(by_size):
        chunks[number % len(chunks)].append((str(path), module))
    found: list[DocumentedObject] = []
    with track("reading the installed packages", len(files), "files") as progress, ThreadPoolExecutor(workers) as pool:
        for chunk, objects in zip(chunks, pool.map(_parse_in_worker, chunks), strict=True):
            found += objects
            progress.advance(len(chunk))
    return found


def _parse_in_worker(chunk: list[tuple[str, str]]) -> list[DocumentedObject]:
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    worker = subprocess.run(
        [sys.executable, "-P", "-m", "sae_pipeline.corpora.sources.parsing"],
        input=json.dumps(chunk),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    if worker.returncode:
        reason = (worker.stderr.strip().splitlines() or [f"exit code {worker.returncode}"])[-1]
        raise SourceError(
            f"installed packages: expected a worker to parse {len(chunk)} files, starting with {chunk[0][0]}; it stopped ({reason}); run again"
        )
    return [DocumentedObject(*row) for row in json.loads(worker.stdout)]


def _python_files(package: str) -> list[tuple[Path, str]]:
    """Every Python file of a package with its dotted module name; tests are left out."""
    roots = _locations(package)
    files: list[tuple[Path, str]] = []
    for root in roots:
        if root.is_file():
            files.append((root, package))
            continue
        for path in sorted(root.rglob("*.py")):
            inside = path.relative_to(root)
            if TEST_FOLDERS & set(inside.parts[:-1]) or inside.name.startswith("test_") or inside.name == "conftest.py":
                continue
            parts = inside.with_suffix("").parts
            files.append((path, ".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])))
    if not files:
        raise SourceError(
            f"installed package '{package}': expected Python source files, found none in {', '.join(map(str, roots))}; name another package"
        )
    return files


def _locations(package: str) -> list[Path]:
    """The folders of a package, or the one file of a module."""
    try:
        # a dotted name would import the parents
        spec = importlib.util.find_spec(package) if package.isidentifier() else None
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        raise SourceError(
            f"installed package '{package}': expected the import name of a top-level package on this machine, found none; "
            "install it or correct 'packages'"
        )
    if spec.submodule_search_locations:
        return [Path(folder) for folder in spec.submodule_search_locations]
    if spec.origin and spec.origin.endswith(".py"):
        return [Path(spec.origin)]
    raise SourceError(
        f"installed package '{package}': expected Python source files, found a module of kind {spec.origin or 'unknown'}; name another package"
    )


@cache
def _distributions_by_package() -> dict[str, list[str]]:
    return {package: sorted(set(names)) for package, names in packages_distributions().items()}


def _package_version(package: str) -> str:
    """The installed version; the hash of the files where a version says little: no distribution, or an editable one."""
    locations = _locations(package)
    if package in sys.stdlib_module_names:
        return platform.python_version()
    found: list[Distribution] = [distribution(name) for name in _distributions_by_package().get(package, [])]
    if found and not any('"editable": true' in (d.read_text("direct_url.json") or "") for d in found):
        return ", ".join(f"{d.name} {d.version}" for d in found)
    return files_digest(
        [path for path, _ in _python_files(package)], relative_to=locations[0] if len(locations) == 1 and locations[0].is_dir() else None
    )

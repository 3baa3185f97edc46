"""Identity: a fingerprint is the hash of a stage's version, the slice of the study it reads and its inputs' fingerprints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

LENGTH = 24
"""Hexadecimal digits kept: 96 bits, so that a collision among 10^9 artifacts has a chance below 10^-10."""

ADDRESS = r"(\w+)/([\w-]+)"
"""Stage and fingerprint in a key of the shared store, where anybody may put a file: they become folders of a home, so they hold no dot and no slash."""


def digest(*parts: Any) -> str:
    """Hash of JSON-like values; the same for equal values whatever the order of their keys."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=_plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:LENGTH]


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):  # a pydantic model, without importing pydantic: the training engine does without it
        return value.model_dump(mode="json")
    if isinstance(value, (tuple, set, frozenset)):
        return sorted(value) if isinstance(value, (set, frozenset)) else list(value)
    raise TypeError(f"cannot fingerprint a {type(value).__name__}")


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_digest(paths: Iterable[Path], *, relative_to: Path | None = None) -> str:
    """Hash of the contents of several files, and of their names when ``relative_to`` is given."""
    return digest(*[(path.relative_to(relative_to).as_posix() if relative_to else "", file_sha256(path)) for path in sorted(paths)])


def strings_in(value: object) -> Iterator[str]:
    """Every string of a JSON-like value, keys apart: among an artifact's inputs these are the fingerprints and contents it was made from."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings_in(part)

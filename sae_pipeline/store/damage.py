"""What is wrong with stored bytes: compared with the manifest that was written beside them, and moved out of every reader's way."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

from sae_pipeline.store.fingerprints import file_sha256
from sae_pipeline.store.writing import storage_errors

MANIFEST = "manifest.json"
DESCRIBED = {"files", "content", "summary", "inputs"}
"""What a manifest must say for its artifact to be used."""


def damage_of(folder: Path) -> str | None:
    """What is wrong with a published artifact's folder, every byte compared with its manifest; None where nothing is. Moves nothing."""
    try:
        return damage_of_files(folder, json.loads((folder / MANIFEST).read_text())["files"])
    except FileNotFoundError:
        return f"{MANIFEST} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):  # no JSON, or JSON of another shape
        return f"{MANIFEST} cannot be read"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def damage_of_files(folder: Path, files: dict[str, Any]) -> str | None:
    """What is wrong with the files that a manifest names; None where nothing is."""
    try:
        for name, expected in files.items():
            if found := damage_of_file(folder / name, expected):
                return f"{name}: {found}"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    return None


def damage_of_file(path: Path, expected: dict[str, Any]) -> str | None:
    """What is wrong with one file, its size first.

    Raises:
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size != expected["bytes"]:
        return f"expected {expected['bytes']} bytes, found {size}"
    if file_sha256(path) != expected["sha256"]:
        return "expected the bytes that were written, found others (the checksum differs)"
    return None


def quarantine(path: Path) -> None:
    """Move a damaged artifact out of every reader's way, keeping it for inspection; one that another reader has moved already is no error."""
    target = path.parents[1] / ".quarantine" / f"{path.parent.name}-{path.name}-{time.time_ns()}"
    with storage_errors(path):
        if os.path.lexists(path) and not path.is_dir():  # a file in an artifact's place gets a folder like any other
            target /= path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.replace(path, target)
        except FileNotFoundError:
            if not path.parent.is_dir():  # the disk went away
                raise

"""Content hashes of files, computed once per state of a file, so that a source can be asked for its version again and again."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from sae_pipeline.store.fingerprints import digest, file_sha256


def content_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; read anew only when its size or its modification time changed.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    return _sha256(path, status.st_size, status.st_mtime_ns)


def folder_digest(folder: Path) -> str:
    """Hash of the names and contents of all files of a folder but hidden ones.

    Raises:
        OSError: a file cannot be read.
    """
    inside = {path.relative_to(folder): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return digest(*[(name.as_posix(), content_hash(path)) for name, path in inside.items() if not any(part.startswith(".") for part in name.parts)])


@lru_cache(maxsize=4_096)
def _sha256(path: Path, size: int, modified_ns: int) -> str:
    return file_sha256(path)

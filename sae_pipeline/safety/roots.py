"""Whether a file lies where it says: folders that somebody else made must not lead out of themselves."""

from __future__ import annotations

from pathlib import Path


def lies_inside(folder: Path, path: Path) -> bool:
    """Whether an existing file lies in a folder, also after links are followed.

    A snapshot in the hub's cache consists of links to the repository's blobs beside it; those count as inside.

    Raises:
        OSError: there is no such file or folder.
        RuntimeError: links that lead in a circle.
    """
    found, root = path.resolve(strict=True), folder.resolve(strict=True)
    roots = [root, *(place.parent / "blobs" for place in root.parents if place.name == "snapshots")]
    return any(found.is_relative_to(place) for place in roots)

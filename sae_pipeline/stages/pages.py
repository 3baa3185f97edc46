"""A stored page, copied to where the user looks for it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, exclusive, storage_errors


def is_published(artifact: Artifact, target: Path, *, under: str = "") -> bool:
    """Whether ``target`` holds every file of the artifact's page at its recorded size, see :func:`publish_page`."""
    try:
        return all(
            (target / name.removeprefix(under)).stat().st_size == file["bytes"]
            for name, file in artifact.manifest["files"].items()
            if name.startswith(under)
        )
    except OSError:
        return False


def publish_page(ctx: StudyContext, artifact: Artifact, target: Path, *, under: str = "", beside: Mapping[str, str] | None = None) -> None:
    """Put the files of an artifact into ``target``; readers see the old folder or the new one, and two writers wait for each other.

    Args:
        ctx: the study's context.
        artifact: what holds the page.
        target: folder of the page, which nothing else is kept in.
        under: only files of this folder of the artifact.
        beside: further files by name, which are no part of the artifact.
    """
    fresh, old = target.with_name(f".{target.name}"), target.with_name(f".{target.name}-old")
    with storage_errors(target), exclusive(ctx.home.locks / f"{target.name}-{ctx.study.name}.lock"):
        for leftover in (fresh, old):
            shutil.rmtree(leftover, ignore_errors=True)
        for name in artifact.manifest["files"]:
            if name.startswith(under):
                place = fresh / name.removeprefix(under)
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(artifact.file(name), place)
        for name, text in (beside or {}).items():
            (fresh / name).write_text(text, encoding="utf-8")
        if target.exists():
            target.rename(old)
        fresh.rename(target)
        shutil.rmtree(old, ignore_errors=True)

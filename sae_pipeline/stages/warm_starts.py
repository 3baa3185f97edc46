"""Warm starts as the stages see them: an arm is identified by what the given SAE holds, wherever its folder lies."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_pipeline.errors import StudyError
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Arm, Cell, cells, d_sae_of


def content_of(folder: str) -> str:
    """SHA-256 of the weights of the SAE in a folder; looked at once, until a file there changes."""
    path = Path(folder)
    state = tuple(sorted((entry.name, entry.stat().st_size, entry.stat().st_mtime_ns) for entry in os.scandir(path))) if path.is_dir() else ()
    known = _seen.get(folder)
    if known is None or known[0] != state:
        from sae_pipeline.saes.warm_start import content, given_sae

        _seen[folder] = known = (state, content(given_sae(path)))
    return known[1]


_seen: dict[str, tuple[Any, str]] = {}


def with_contents(cell: Cell) -> Cell:
    """The cell with ``warm_start_content`` filled in where an arm begins with a given SAE.

    Raises:
        StudyError: there is no such SAE, or two arms would be one and the same because their folders hold equal weights.
    """
    arms: dict[str, Arm] = {}
    for label, arm in cell.arms.items():
        if arm.warm_start is None:
            arms[label] = arm
            continue
        arms[label] = replace(arm, warm_start_content=content_of(arm.warm_start))
        twin = next((other for other in arms if other != label and arms[other].identity() == arms[label].identity()), None)
        if twin is not None:
            raise StudyError(
                f"saes.arms: expected arms that differ, found that {cell.sae_id(label)} and {cell.sae_id(twin)} begin with equal weights "
                f"({arm.warm_start} and {arms[twin].warm_start}); remove one"
            )
    return replace(cell, arms=arms)


def contents_in_place_of_paths(section: dict[str, Any]) -> dict[str, Any]:
    """A section of a study's slice, its warm start known by content; a folder that is missing has none yet."""
    folder = section.get("warm_start")
    if folder is None:
        return section
    try:
        return section | {"warm_start": content_of(folder)}
    except StudyError:
        return section | {"warm_start": "missing"}


def check(ctx: StudyContext, d_model: int | None) -> None:
    """Refuse arms that begin with an SAE that is missing or, as far as the subject's width is known, does not fit (StudyError)."""
    for cell in cells(ctx.study):
        with_contents(cell)
        for label, arm in cell.arms.items():
            if arm.warm_start is not None and d_model is not None:
                from sae_pipeline.saes.warm_start import check_widths, given_sae

                check_widths(given_sae(Path(arm.warm_start)), d_model, d_sae_of(cell.expansion, d_model), cell.sae_id(label))

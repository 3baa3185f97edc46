"""Warm starts as the stages see them: an arm is identified by what the given SAE holds, wherever its folder lies."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from sae_pipeline.errors import StudyError
from sae_pipeline.store import Home, exclusive, storage_errors, write_json
from sae_pipeline.study import Arm, Cell, d_sae_of

MEMORY = "warm_starts.json"
"""File in the home: content by folder of every warm start that was ever found there."""


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


def remember(home: Home, cell: Cell) -> None:
    """Keep in the home which content each warm start of a cell has, so that what was trained from it outlives the folder."""
    found = {arm.warm_start: arm.warm_start_content for arm in cell.arms.values() if arm.warm_start is not None}
    if found.items() <= _remembered(home).items():
        return
    with storage_errors(home.root, missing=True), exclusive(home.locks / "warm-starts.lock"):
        write_json(home.root / MEMORY, _remembered(home) | found)


def _remembered(home: Home) -> dict[str, str]:
    try:
        return json.loads((home.root / MEMORY).read_text())
    except (OSError, ValueError):  # never written, or not to be read: then nothing is remembered
        return {}


def identified(home: Home, cell: Cell) -> Cell:
    """The cell with ``warm_start_content``, by memory where the given SAE is gone; without the arms of which it is not known.

    For looking up what has been trained, which must not depend on a folder that a user may since have removed.
    """
    contents: dict[str, str] = {}
    for folder in {arm.warm_start for arm in cell.arms.values() if arm.warm_start is not None}:
        try:
            contents[folder] = content_of(folder)
        except StudyError:
            contents |= {known: content for known, content in _remembered(home).items() if known == folder}
    arms = {
        label: arm if arm.warm_start is None else replace(arm, warm_start_content=contents[arm.warm_start])
        for label, arm in cell.arms.items()
        if arm.warm_start is None or arm.warm_start in contents
    }
    return replace(cell, arms=arms)


def contents_in_place_of_paths(section: dict[str, Any]) -> dict[str, Any]:
    """A section of a study's slice, its warm start known by content; a folder that was never there has none yet.

    What a folder held that is gone is looked up in the home that the environment names: a slice has no home of its own.
    """
    folder = section.get("warm_start")
    if folder is None:
        return section
    try:
        return section | {"warm_start": content_of(folder)}
    except StudyError:
        return section | {"warm_start": _remembered(Home.from_environment()).get(folder, "missing")}


def check(cell: Cell, d_model: int | None) -> None:
    """Refuse arms that begin with an SAE that is missing or, as far as the subject's width is known, does not fit.

    Raises:
        StudyError: as said; also where two arms are one and the same.
    """
    for label, arm in with_contents(cell).arms.items():
        if arm.warm_start is not None and d_model is not None:
            from sae_pipeline.saes.warm_start import check_widths, given_sae

            check_widths(given_sae(Path(arm.warm_start)), d_model, d_sae_of(cell.expansion, d_model), cell.sae_id(label))

"""A study made from another: its own arms and some more, as a complete study file.

Whatever the two have in common has the same fingerprints, so that running the new one trains the added arms alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from sae_pipeline.store.fingerprints import digest
from sae_pipeline.study.schema import Study

PROPOSED_FILE = "proposed.yaml"
"""The study with the arms proposed for another, beside that one's report."""

NAME_LENGTH = 40
"""Longest name of a study, mix or group of arms."""


def extended(
    study: Study,
    name: str,
    description: str,
    groups: Sequence[Mapping[str, Any]],
    *,
    mixes: Mapping[str, Mapping[str, float]] | None = None,
    expansions: Sequence[float] = (),
) -> Study:
    """The study with more groups of arms, and the mixes and expansion factors that they need.

    The groups of the study itself keep to its own mixes and expansion factors.

    Args:
        study: the study; its presets are written out and its paths absolute, as loading leaves them.
        name: of the new one.
        description: of the new one.
        groups: as in a study file; each with an ``only`` that names its cells.
        mixes: token shares of mixes that the study lacks, by name.
        expansions: factors that the study lacks.
    """
    data = as_written(study)
    own = [dict(group) for group in data["saes"]["arms"]]
    for group in own:
        only = dict(group.get("only", {}))
        if mixes and only.get("mixes") is None:
            only["mixes"] = list(study.mixes)
        if expansions and only.get("expansions") is None:
            only["expansions"] = list(study.saes.expansions)
        if only:
            group["only"] = only
    data |= {"name": name, "description": description}
    data["mixes"] = {**data["mixes"], **{mix: dict(shares) for mix, shares in (mixes or {}).items()}}
    data["saes"] = {**data["saes"], "expansions": [*data["saes"]["expansions"], *expansions], "arms": [*own, *map(dict, groups)]}
    return Study.model_validate(data)


def as_written(study: Study) -> dict[str, Any]:
    """The keys that the study's file wrote or a preset gave, as YAML and JSON have them."""
    return study.model_dump(mode="json", exclude_unset=True)


def as_yaml(study: Study, comments: Sequence[str] = ()) -> str:
    """The study as a file that loads as it, under comment lines."""
    head = "".join(f"# {line}\n" for line in comments)
    return head + yaml.safe_dump(as_written(study), sort_keys=False, allow_unicode=True, default_flow_style=None, width=140)


def derived_name(name: str, suffix: str) -> str:
    """A name for a study made from another; a long one is cut and told apart by a few digits of its hash."""
    room = NAME_LENGTH - len(suffix) - 1
    return f"{name if len(name) <= room else f'{name[: room - 7]}_{digest(name)[:6]}'}_{suffix}"

"""Training presets: recommended settings as tables of their sources state them, and how each figure is read.

The figures are data (``saes/training_presets.v1.yaml``). Writing them into a study is the business of
:mod:`sae_pipeline.study.preset_writing`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import yaml

Settings = dict[str, dict[str, Any]]
"""Values by key, by the section of the study file that they belong to: ``defaults``, ``arms``, ``saes``, ``activations``."""

FILE = "training_presets.v1.yaml"

LISTS = ("seeds", "expansions", "layers")
"""Keys of a study file that hold a list even of one value."""


@dataclass(frozen=True, eq=False)
class TrainingPreset:
    """One row of a source's table."""

    name: str
    source: str
    """Document and table."""
    about: str
    figures: dict[str, Any]
    """As in the source, those of the preset that it extends included."""

    def settings(self, context_length: int) -> Settings:
        """The study file's keys that the figures become."""
        found: Settings = {"defaults": {}, "arms": {}, "saes": {}, "activations": {}}
        for figure, value in self.figures.items():
            for key in readings()[figure]["sets"]:
                section, field = key.split(".")
                found[section][field] = [value] if field in LISTS and not isinstance(value, list) else copy.deepcopy(value)
        if "batch_size" in found["defaults"]:
            found["defaults"]["batch_size"] *= context_length * self.figures.get("gradient_accumulation", 1)
        return found

    @property
    def not_applied(self) -> list[str]:
        """The figures that become no setting."""
        return [figure for figure in self.figures if not readings()[figure]["sets"]]


@dataclass(frozen=True, eq=False)
class Adjustment:
    """Factors on top of whatever the settings are."""

    name: str
    source: str
    about: str
    factors: dict[str, float]
    """As in the source."""
    expected: dict[str, Any]
    """What the source expects of it; told and not applied."""

    @property
    def settings(self) -> dict[str, float]:
        """Factors by training setting."""
        return {setting: factor for name, factor in self.factors.items() for setting in factor_readings()[name]["multiplies"]}


@cache
def _data() -> dict[str, Any]:
    return yaml.safe_load((resources.files("sae_pipeline.saes") / FILE).read_text(encoding="utf-8"))


def readings() -> dict[str, dict[str, Any]]:
    """How every figure is read: ``sets`` (keys of the study file) and ``how``."""
    return _data()["readings"]


def factor_readings() -> dict[str, dict[str, Any]]:
    """How every factor is read: ``multiplies`` (training settings) and ``how``."""
    return _data()["factors"]


@cache
def training_presets() -> dict[str, TrainingPreset]:
    """Every preset by name, in the file's order."""
    found: dict[str, TrainingPreset] = {}
    for name, entry in _data()["presets"].items():
        figures = {**(found[entry["extends"]].figures if "extends" in entry else {}), **entry["figures"]}
        found[name] = TrainingPreset(name, entry["source"], entry["about"], figures)
    return found


@cache
def adjustments() -> dict[str, Adjustment]:
    """Every adjustment by name, in the file's order."""
    return {name: Adjustment(name, **entry) for name, entry in _data()["adjustments"].items()}


def as_list(value: Any) -> list[Any]:
    """A figure as a list: itself, or the ends of a range."""
    return list(value) if isinstance(value, list | tuple) else [value]


# ------------------------------------------------------------------------------------------------ telling people


def lines() -> Iterator[str]:
    """The presets and adjustments, a line each, as the command line lists them."""
    for preset in training_presets().values():
        applied = {figure: value for figure, value in preset.figures.items() if figure not in preset.not_applied}
        yield f"{preset.name}: {preset.about} ({preset.source}). {_told(applied)}.{_left_out(preset)}"
    for adjustment in adjustments().values():
        yield f"{adjustment.name} (adjust): {adjustment.about} ({adjustment.source}). {_told(adjustment.factors, '×')}."


def table() -> Iterator[str]:
    """The same as tables in Markdown, with the rules by which figures are read."""
    yield "| preset | for | figures | not applied |"
    yield "|---|---|---|---|"
    for preset in training_presets().values():
        applied = {figure: value for figure, value in preset.figures.items() if figure not in preset.not_applied}
        rest = {figure: preset.figures[figure] for figure in preset.not_applied}
        yield f"| `{preset.name}` | {preset.about} | {_told(applied)} | {_told(rest)} |"
    yield ""
    yield "| adjust | for | factors |"
    yield "|---|---|---|"
    for adjustment in adjustments().values():
        yield f"| `{adjustment.name}` | {adjustment.about} | {_told(adjustment.factors, '×')} |"
    yield ""
    yield "| figure | becomes | how it is read |"
    yield "|---|---|---|"
    for name, reading in readings().items():
        yield f"| {name} | {_keys(reading['sets'], lambda key: key.replace('defaults.', 'saes.defaults.').replace('arms.', 'saes.arms[].'))} | {reading['how']} |"
    for name, reading in factor_readings().items():
        yield f"| factor on {name} | {_keys(reading['multiplies'], lambda key: f'{key}, multiplied')} | {reading['how']} |"
    yield ""


def as_json() -> dict[str, Any]:
    """The same for programs, figures as in the source."""
    return {
        "training": {
            p.name: {"source": p.source, "about": p.about, "figures": p.figures, "not_applied": p.not_applied} for p in training_presets().values()
        },
        "adjustments": {a.name: {"source": a.source, "about": a.about, "factors": a.factors, "expected": a.expected} for a in adjustments().values()},
        "readings": {**readings(), **{f"factor on {name}": reading for name, reading in factor_readings().items()}},
    }


def _keys(keys: Iterable[str], written: Callable[[str], str]) -> str:
    return ", ".join(f"`{written(key)}`" for key in keys) or "not applied"


def _left_out(preset: TrainingPreset) -> str:
    return f" Not applied: {_told({figure: preset.figures[figure] for figure in preset.not_applied})}." if preset.not_applied else ""


def _told(figures: dict[str, Any], sign: str = "") -> str:
    return ", ".join(f"{name} {sign}{'–'.join(_number(v) for v in as_list(value))}" for name, value in figures.items())


def _number(value: Any) -> str:
    if value is None:
        return "unbounded"
    return f"{value:g}" if isinstance(value, int | float) else str(value)

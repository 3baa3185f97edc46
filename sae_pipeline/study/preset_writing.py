"""Writing out training presets: ``preset: s4.general`` stands for the settings of that name, ``adjust:`` multiplies some.

They are put in place before a study is checked, so that a preset is nothing but fewer lines to write:

- In ``saes.defaults`` a preset gives the training settings, and for every arm without them the architecture, the
  sparsity and the seeds. In a group of arms it gives all of that to the group alone.
- Dictionary widths and layers belong to the whole study. Where ``saes.expansions`` (or ``activations.layers``) is not
  written, it becomes those of all presets together, and a group with a preset of its own is trained at its own ones.
- What is written always wins over a preset, and a group over the defaults.
- ``adjust`` multiplies the values of its own section, wherever they come from, also those that a group takes over from
  the defaults (before the defaults' own ``adjust``, which never acts on what a group says itself).
"""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from sae_pipeline.saes.arm import WITH_K
from sae_pipeline.study.training_presets import Adjustment, TrainingPreset, adjustments, as_list, training_presets

if TYPE_CHECKING:
    from sae_pipeline.study.schema import Study

Location = tuple[str | int, ...]

RATE_BY_WIDTH = {"learning_rate": 2e-4, "learning_rate_scaling": "inverse_sqrt_width"}
"""What no learning rate at all means, written out, so that it can be multiplied."""


class PresetError(ValueError):
    """A preset or an adjustment that there is not; ``location`` is where the study names it."""

    def __init__(self, location: Location, message: str) -> None:
        super().__init__(message)
        self.location = location


def put_training_presets(data: dict[str, Any], schema_defaults: dict[str, Any], context_length: int) -> dict[Location, str]:
    """Write out presets and adjustments in a study as it was read from YAML, in place.

    Args:
        data: the study; parts of the wrong type are left for the check that follows.
        schema_defaults: what every training setting is when nothing is written.
        context_length: what it is when nothing is written.

    Returns:
        Where each value that was put in place comes from, by location, for messages about it.

    Raises:
        PresetError: a name that there is not.
    """
    saes = data.get("saes")
    if not isinstance(saes, dict):
        return {}
    arms = saes.get("arms") if isinstance(saes.get("arms"), list) else []
    groups = {place: group for place, group in enumerate(arms or []) if isinstance(group, dict)}
    defaults: dict[str, Any] = saes["defaults"] if isinstance(saes.get("defaults"), dict) else {}
    whole, shared_factors = _chosen(defaults, ("saes", "defaults"))
    own = {place: _chosen(group, ("saes", "arms", place)) for place, group in groups.items()}

    origins: dict[Location, str] = {}
    _widths_and_layers(data, groups, whole, {place: preset or whole for place, (preset, _) in own.items()}, origins)
    written = data["activations"].get("context_length") if isinstance(data.get("activations"), dict) else None
    length = written if isinstance(written, int) else context_length
    if whole:
        _fill(defaults, whole.settings(length)["defaults"], ("saes", "defaults"), whole, origins)
    for place, (preset, _) in own.items():
        at = ("saes", "arms", place)
        if preset:
            settings = preset.settings(length)
            _fill(groups[place], settings["defaults"], at, preset, origins)
            _fill_arm(groups[place], settings["arms"], at, preset, origins)
        if whole:
            _fill_arm(groups[place], whole.settings(length)["arms"], at, whole, origins)
    inherited = {**schema_defaults, **defaults}
    if shared_factors:
        _multiply(defaults, inherited, shared_factors, ("saes", "defaults"), origins)
    for place, (_, factors) in own.items():
        if factors:
            _multiply(groups[place], {**inherited, **groups[place]}, factors, ("saes", "arms", place), origins)
    return origins


def giver(study: Study, field: str, value: float) -> str:
    """Words that say which of the study's presets gives ``field`` (``k``, or a training setting) this value, or nothing."""
    for name in (*(group.preset for group in study.saes.arms), study.saes.defaults.preset):
        if name:
            given = training_presets()[name].settings(study.activations.context_length)
            if value in as_list({**given["defaults"], **given["arms"]}.get(field)):
                return f" (from preset {name})"
    return ""


def _chosen(section: dict[str, Any], at: Location) -> tuple[TrainingPreset | None, Adjustment | None]:
    return _entry(section, "preset", training_presets(), at), _entry(section, "adjust", adjustments(), at)


def _entry(section: dict[str, Any], key: str, entries: dict[str, Any], at: Location) -> Any:
    name = section.get(key)
    if name is None:
        return None
    if isinstance(name, str) and name in entries:
        return entries[name]
    what, other = ("a training preset", "adjust") if key == "preset" else ("an adjustment", "preset")
    if isinstance(name, str) and name in {**training_presets(), **adjustments()}:
        hint = f"that one goes with the key '{other}'; "
    else:
        close = difflib.get_close_matches(str(name), entries, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
    raise PresetError((*at, key), f"expected {what}, found '{name}'; {hint}there are: {', '.join(entries)}")


def _widths_and_layers(
    data: dict[str, Any],
    groups: dict[int, dict[str, Any]],
    whole: TrainingPreset | None,
    governing: dict[int, TrainingPreset | None],
    origins: dict[Location, str],
) -> None:
    """Fill in what belongs to the whole study, and keep every group to the widths and layers of the preset that governs it."""
    presets = list(dict.fromkeys(preset for preset in (whole, *governing.values()) if preset))
    for name, key in (("saes", "expansions"), ("activations", "layers")):
        section = data.get(name)
        stated = {preset: preset.settings(1)[name][key] for preset in presets if key in preset.settings(1)[name]}
        if not stated or not isinstance(section, dict) or key in section:
            continue
        section[key] = sorted({value for values in stated.values() for value in values})
        origins[name, key] = " and ".join(f"preset {preset.name}" for preset in stated)
        for place, preset in governing.items():
            only = groups[place].setdefault("only", {}) if preset in stated and stated[preset] != section[key] else None
            if preset and isinstance(only, dict):
                _fill(only, {key: stated[preset]}, ("saes", "arms", place, "only"), preset, origins)
    for preset in presets:
        if isinstance(data.get("activations"), dict):
            rest = {key: value for key, value in preset.settings(1)["activations"].items() if key != "layers"}
            _fill(data["activations"], rest, ("activations",), preset, origins)


def _fill(section: dict[str, Any], values: dict[str, Any], at: Location, preset: TrainingPreset, origins: dict[Location, str]) -> None:
    for key, value in values.items():
        if key not in section:
            section[key] = value
            origins[*at, key] = f"preset {preset.name}"


def _fill_arm(group: dict[str, Any], values: dict[str, Any], at: Location, preset: TrainingPreset, origins: dict[Location, str]) -> None:
    """The same for a group's architecture, seeds, and sparsity under the name that its architecture has for it."""
    rest = {key: value for key, value in values.items() if key != "k"}
    _fill(group, rest, at, preset, origins)
    if "k" in values and not {"k", "target_l0"} & set(group):
        _fill(group, {"k" if group.get("architecture") in WITH_K else "target_l0": values["k"]}, at, preset, origins)


def _multiply(section: dict[str, Any], values: dict[str, Any], adjustment: Adjustment, at: Location, origins: dict[Location, str]) -> None:
    for key, factor in adjustment.settings.items():
        if factor == 1:
            continue
        value = values.get(key)
        if key == "learning_rate" and value is None:
            section["learning_rate_scaling"] = RATE_BY_WIDTH["learning_rate_scaling"]
            value = RATE_BY_WIDTH["learning_rate"]
        numbers = as_list(value)
        if not all(isinstance(number, int | float) and not isinstance(number, bool) and number > 0 for number in numbers):
            continue  # 0 stays 0, and what is no number is told when the study is checked
        step = values.get("accumulate") if key == "batch_size" else 1
        adjusted = [_rounded(number * factor, isinstance(number, int), step) for number in numbers]
        section[key] = adjusted if isinstance(value, list | tuple) else adjusted[0]
        came = f"{origins[*at, key]} and " if (*at, key) in origins else ""
        origins[*at, key] = f"{came}adjust {adjustment.name}"


def _rounded(number: float, whole: bool, step: Any) -> float:
    """To whole multiples of ``step``, or to what stands in a file as a decimal fraction: 1e-4 x 1.5 is 0.00015."""
    if not whole:
        return float(f"{number:.12g}")
    step = step if isinstance(step, int) and step > 0 else 1
    return max(1, round(number / step)) * step

"""Reading a study file: YAML to :class:`Study`, with errors that name file, line, key, what was found and what is allowed."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from sae_pipeline.errors import StudyError
from sae_pipeline.safety.yaml_limits import check_yaml
from sae_pipeline.study import section, text_sections, training_sections
from sae_pipeline.study.preset_writing import PresetError, put_training_presets
from sae_pipeline.study.presets import with_preset
from sae_pipeline.study.schema import Study

Location = tuple[str | int, ...]
Trained = TypeVar("Trained", training_sections.TrainingDefaults, training_sections.ArmGroup)

SOURCES: dict[str, type[section.Section]] = {
    kind: model
    for model in (text_sections.InstalledText, text_sections.Files, text_sections.HuggingFace, text_sections.SelfGenerated, text_sections.Retrieved)
    for kind in get_args(model.model_fields["kind"].annotation)
}
"""Section of each kind of source; pydantic puts the kind into the place of an error, where no such key is written."""


def load_study(path: str | Path) -> Study:
    """Read and check a study file.

    Relative paths inside the file (source files, a local checkpoint, a rubric, an SAE to begin with) are resolved against its folder, so
    that the study means the same from every working directory.

    Raises:
        StudyError: the file is missing, is not YAML, or breaks the schema; every problem found is in the message.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{path}: expected a study file, found none that can be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise StudyError(f"{path}: expected a study file in UTF-8 text, found other bytes; check the path") from None
    try:
        check_yaml(text)
        data = yaml.safe_load(text)
        lines = _lines(yaml.compose(text, Loader=yaml.SafeLoader), path)
    except ValueError as error:  # of a date or number that there is not
        raise StudyError(f"{path}: expected YAML, found a value that cannot be read ({error}); put it into quotes") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        problem = str(getattr(error, "problem", error)).removeprefix("found ")
        raise StudyError(f"{where}: expected YAML, found {problem}; correct the indentation or quoting there") from None
    if not isinstance(data, dict):
        raise StudyError(f"{path}: expected a mapping with the sections {', '.join(Study.model_fields)}, found {_shown(data)}")
    _put_source_presets(data, path, lines)
    origins = _put_training_presets(data, path, lines)
    try:
        study = Study.model_validate(data)
    except ValidationError as error:
        found = error.errors()
        told = [
            e for e in found if not (e["type"] == "too_short" and any(e["loc"] == other["loc"][: len(e["loc"])] for other in found if other is not e))
        ]
        # A list of which an item was refused is also called too short.
        raise StudyError("\n".join(_sentence(path, lines, dict(e)) + _origin(origins, e["loc"]) for e in told)) from None
    return _with_absolute_paths(study, path.resolve().parent)


def with_line(message: str, path: str | Path) -> str:
    """A sentence about a study that could be loaded, with file and line before it where it begins with a key of that file."""
    path = Path(path)
    lines = _lines(yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader), path)
    named = _named_first(message, lines)
    return f"{path}:{lines[named]}: {message}" if named else message


def _put_source_presets(data: dict[str, Any], path: Path, lines: dict[Location, int]) -> None:
    """Write out the sources that name a ready-made entry, in place."""
    sources = data.get("sources")
    if not isinstance(sources, dict):
        return  # which is told when the study is checked
    for name, source in sources.items():
        if isinstance(source, dict) and "preset" in source:
            try:
                sources[name] = with_preset(source)
            except ValueError as error:
                where = ("sources", str(name), "preset")
                raise StudyError(f"{path}:{lines[where]}: {_dotted(where)}: {error}") from None


def _put_training_presets(data: dict[str, Any], path: Path, lines: dict[Location, int]) -> dict[Location, str]:
    """Write out the training presets, in place; where each of their values comes from, by its location."""
    unwritten = {name: field.default for name, field in training_sections.TrainingDefaults.model_fields.items()}
    try:
        return put_training_presets(data, unwritten, training_sections.Activations.model_fields["context_length"].default)
    except PresetError as error:
        raise StudyError(f"{path}:{lines[error.location]}: {_dotted(error.location)}: {error}") from None


def _origin(origins: dict[Location, str], location: Location) -> str:
    """Words that say which preset gave the value at a location, if one did; pydantic's locations go on into unions and lists."""
    found = next((n for n in range(len(location), 1, -1) if location[:n] in origins), None)
    return f"; {location[found - 1]} comes from {origins[location[:found]]}" if found else ""


def _lines(node: yaml.Node | None, path: Path, at: Location = ()) -> dict[Location, int]:
    """Line number (from 1) of every key and list item, by its location; a key written twice is an error."""
    found: dict[Location, int] = {}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            here = (*at, key.value)
            if here in found:
                raise StudyError(
                    f"{path}:{key.start_mark.line + 1}: {_dotted(here)}: expected each key once, found it again (first on line {found[here]}); remove one"
                )
            found[here] = key.start_mark.line + 1
            found |= _lines(value, path, here)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            found[(*at, index)] = value.start_mark.line + 1
            found |= _lines(value, path, (*at, index))
    return found


def _sentence(path: Path, lines: dict[Location, int], error: dict[str, Any]) -> str:
    """One pydantic error as one sentence."""
    written = tuple(part for place, part in enumerate(error["loc"]) if part != "[key]" and not (place == 2 and error["loc"][0] == "sources"))
    location = next((written[:n] for n in range(len(written), 0, -1) if written[:n] in lines), ())
    line = f":{lines[location]}" if location else ""
    key = _dotted(location) or "study"
    kind, found = error["type"], error.get("input")
    if kind == "extra_forbidden":
        allowed = _allowed_keys(error["loc"][:-1])
        close = difflib.get_close_matches(str(written[-1]), allowed, n=1)
        hint = f"did you mean '{close[0]}'? " if close else ""
        return f"{path}{line}: {key}: unknown key '{written[-1]}'; {hint}allowed here: {', '.join(allowed)}"
    if kind == "missing":
        return f"{path}{line}: {key}: the key '{written[-1]}' is missing; add it"
    if kind == "too_short":
        least, there = error["ctx"]["min_length"], error["ctx"]["actual_length"]
        return (
            f"{path}{line}: {key}: expected a list with at least {least} {'item' if least == 1 else 'items'}, found {there or 'none'}; "
            "add what it lacks or leave the key out"
        )
    message = error["msg"].removeprefix("Value error, ")
    if kind == "value_error":
        named = _named_first(message, lines)
        if len(named) > len(location):  # several sections are concerned, and pydantic knows only what holds them all
            return f"{path}:{lines[named]}: {message}"
        return f"{path}{line}: {key}: {message}"
    return f"{path}{line}: {key}: expected {_expectation(message)}, found {_shown(found)}"


def _named_first(message: str, lines: dict[Location, int]) -> Location:
    """Location of the key that a message begins with, or of the section around it where the key is not written; () where there is none."""
    parts = tuple(int(part) if part.isdigit() else part for part in re.findall(r"\w+", message.split(maxsplit=1)[0]))
    return next((parts[:n] for n in range(len(parts), 0, -1) if parts[:n] in lines), ())


def _expectation(message: str) -> str:
    """Pydantic's 'Input should be …' as the object of 'expected'."""
    for prefix in ("Input should be ", "Input should have ", "Value should have ", "String should ", "Tuple should ", "Input tag "):
        if message.startswith(prefix):
            rest = message.removeprefix(prefix).replace("a valid tuple", "a list")
            rest = re.sub(r"a valid dictionary or instance of \w+", "a section of keys and values", rest)
            return {
                "String should ": "text that should ",
                "Tuple should ": "a list that should ",
                "Input tag ": "a kind that is known, but the tag ",
            }.get(prefix, "") + rest
    return message


def _allowed_keys(location: Location) -> list[str]:
    """The keys of the section at a location, kinds of sources included, for the message about an unknown one."""
    sections: set[type[BaseModel]] = {Study}
    parts = iter(location)
    for part in parts:
        if part in SOURCES:
            sections = {SOURCES[str(part)]}
            continue
        annotations = [section.model_fields[part].annotation for section in sections if isinstance(part, str) and part in section.model_fields]
        sections = {inner for annotation in annotations for inner in _sections_in(annotation)} or sections
        if any(get_origin(annotation) is dict for annotation in annotations):
            next(parts, None)  # a name that the study gave
    keys = dict.fromkeys(name for section in sections for name in section.model_fields)
    return [*keys, "preset"] if sections & set(SOURCES.values()) else list(keys)


def _sections_in(annotation: Any) -> set[type[BaseModel]]:
    """The sections that a field may hold, alone, in a list, or by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return {section for part in get_args(annotation) for section in _sections_in(part)}


def _with_absolute_paths(study: Study, folder: Path) -> Study:
    """Resolve what the file wrote relative to itself."""
    changes: dict[str, Any] = {}
    if study.subject.model != "bundled":
        changes["subject"] = study.subject.model_copy(update={"model": _local(study.subject.model, folder)})
    sources: dict[str, text_sections.Source] = {}
    for name, source in study.sources.items():
        if isinstance(source, text_sections.Files):
            source = source.model_copy(update={"paths": tuple(str(folder / Path(p).expanduser()) for p in source.paths)})
        elif isinstance(source, text_sections.HuggingFace):
            source = source.model_copy(update={"dataset": _local(source.dataset, folder)})
        elif isinstance(source, text_sections.Retrieved):
            rerank = source.rerank and source.rerank.model_copy(update={"sae": str((folder / Path(source.rerank.sae).expanduser()).resolve())})
            encoder = {} if source.encoder == "subject" else {"encoder": _local(source.encoder, folder)}
            source = source.model_copy(update={"rerank": rerank, **encoder})
        sources[name] = source
    changes["sources"] = sources
    arms = tuple(_with_absolute_warm_start(group, folder) for group in study.saes.arms)
    changes["saes"] = study.saes.model_copy(update={"defaults": _with_absolute_warm_start(study.saes.defaults, folder), "arms": arms})
    rubrics = tuple(str(folder / name) if name.endswith((".yaml", ".yml")) else name for name in study.analysis.rubrics)
    changes["analysis"] = study.analysis.model_copy(update={"rubrics": rubrics})
    return study.model_copy(update=changes)


def _with_absolute_warm_start(section: Trained, folder: Path) -> Trained:
    if section.warm_start is None:
        return section
    return section.model_copy(update={"warm_start": str((folder / Path(section.warm_start).expanduser()).resolve())})


def _local(hub_id_or_path: str, folder: Path) -> str:
    """The absolute path of what is a folder beside the study or is written as a path; a hub id as it is."""
    path = (folder / Path(hub_id_or_path).expanduser()).resolve()
    return str(path) if path.is_dir() or hub_id_or_path.startswith((".", "/", "~")) else hub_id_or_path


def _dotted(location: Location) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

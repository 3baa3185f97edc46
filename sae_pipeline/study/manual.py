"""The manual page of the study file, written from the schema: ``python -m sae_pipeline.study.manual > docs/study-file.md``."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator
from typing import Any, Literal

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from sae_pipeline.study import concept_sections, matching_section, schema, text_sections, training_presets, training_sections
from sae_pipeline.study.presets import catalogue
from sae_pipeline.study.section import Section

INTRODUCTION = """# The study file

Every key, with its default; written from the schema by `python -m sae_pipeline.study.manual`. Unknown keys are errors.
Relative paths are relative to the study file. A source may also be a ready-made entry, `{preset: lima}`; keys beside
`preset` override the entry's own.
"""

TRAINING_PRESETS = """For `saes.defaults: {preset: NAME, adjust: NAME}` and the same keys in a group of arms; recommended settings as tables of
their sources state them. In `saes.defaults` a preset gives the training settings and, to every group that does not say them,
architecture, sparsity and seeds; in a group it gives them to that group alone. Without `saes.expansions` (or
`activations.layers`) these become the presets' own, and each group is trained at those of its preset. What is written wins
over a preset, a group over the defaults. `adjust` multiplies the values of its section wherever they come from, also those a
group takes over from the defaults; the defaults' `adjust` leaves alone what a group says itself."""

WARM_START = """## Warm start

`warm_start` names the folder of an SAE, relative to the study file, in any format that the program reads. An SAE that was
trained here, in this or another study, is written out first; `sae-pipeline saes STUDY` lists their names:

```
sae-pipeline run studies/specialised.yaml
sae-pipeline export GENERAL.L03.x04.topk-k16-t130k-s0 --study studies/specialised.yaml --to saes/general
```

after which an arm of a study in `studies/` says `warm_start: ../saes/general`. An arm is known by the weights it begins
with, wherever the folder lies: the folder may move, other weights in it make other SAEs, and when the SAE is trained again
it must be exported again. The given SAE must have the subject's width and at most the cell's number of latents; further
latents begin as without a warm start. Weights, biases and thresholds are taken over (in an arm's own units, with unit-norm
decoder rows), the optimiser and the schedule begin afresh. `init_seed` then decides further latents alone.
"""

PAGES: tuple[tuple[str, type[Section]], ...] = (
    ("Top level", schema.Study),
    ("`subject`", text_sections.Subject),
    ("`subject.bundled`", text_sections.BundledSubject),
    ("`sources.<name>`: `installed_docs`, `installed_code`, `installed_instructions`", text_sections.InstalledText),
    ("`sources.<name>`: `files`", text_sections.Files),
    ("`sources.<name>`: `huggingface`", text_sections.HuggingFace),
    ("`sources.<name>.chat`", text_sections.Chat),
    ("`sources.<name>.filters[]`", text_sections.Filter),
    ("`sources.<name>.window`", text_sections.Window),
    ("`sources.<name>`: `self_generated`", text_sections.SelfGenerated),
    ("`sources.<name>`: `retrieved`", text_sections.Retrieved),
    ("`sources.<name>.rerank`", text_sections.TracIn),
    ("`corpus`", text_sections.Corpus),
    ("`held_out.<name>`", text_sections.HeldOut),
    ("`activations`", training_sections.Activations),
    ("`saes`", training_sections.Saes),
    ("`saes.defaults`", training_sections.TrainingDefaults),
    ("`saes.arms[]`", training_sections.ArmGroup),
    ("`saes.arms[].only`", training_sections.Only),
    ("`evaluation`", schema.Evaluation),
    ("`positions`", schema.Positions),
    ("`matching`", matching_section.Matching),
    ("`matching.layers`", matching_section.MatchedLayers),
    ("`concepts`", concept_sections.Concepts),
    ("`concepts.directions.<name>`", concept_sections.Direction),
    ("`analysis`", schema.Analysis),
    ("`schedules`", schema.Schedules),
    ("`compute`", schema.Compute),
)


def page() -> str:
    """The whole page in Markdown."""
    return "\n".join([INTRODUCTION, *(line for title, section in PAGES for line in _section(title, section)), *_presets()])


def _presets() -> Iterator[str]:
    yield "## Ready-made sources\n"
    yield "For `{preset: NAME}`; `sae-pipeline presets` lists them too. Licences are told, not checked: read the data set's own card.\n"
    yield "| preset | data set | licence | what it is |"
    yield "|---|---|---|---|"
    for name, entry in catalogue().items():
        config = f", {entry['config']}" if "config" in entry else ""
        yield f"| `{name}` | {entry['dataset']}{config} | {entry['licence']} | {entry['note']} |"
    yield ""
    yield "## Training presets\n"
    yield " ".join(TRAINING_PRESETS.split()) + "\n"
    yield from training_presets.table()
    yield WARM_START.rstrip()
    yield ""


def _section(title: str, section: type[Section]) -> Iterator[str]:
    yield f"## {title}\n"
    yield f"{' '.join((section.__doc__ or '').split())}\n"
    yield "| key | default | meaning |"
    yield "|---|---|---|"
    for name, field in section.model_fields.items():
        words = [field.description or _of_section(field) or ("overrides `saes.defaults`" if section is training_sections.ArmGroup else "")]
        words.append(_values(field.annotation))
        yield f"| `{name}` | {_default(field)} | {'; '.join(word for word in words if word)} |"
    yield ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    if field.default is PydanticUndefined:
        return "defaults below"
    if field.default is None:
        return "none"
    if field.default in ("", ()):
        return "empty"
    return f"`{str(field.default).lower() if isinstance(field.default, bool) else field.default}`"


def _parts(annotation: Any) -> Iterator[Any]:
    """The types and Literals that an annotation is put together from."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType, tuple, typing.Annotated):
        for part in typing.get_args(annotation):
            yield from _parts(part)
    else:
        yield annotation


def _values(annotation: Any) -> str:
    """The words that a key takes, and whether it takes numbers beside them; empty when it takes no particular word."""
    parts = list(_parts(annotation))
    choices = dict.fromkeys(str(value) for part in parts if typing.get_origin(part) is Literal for value in typing.get_args(part))
    named = ", ".join(f"`{choice}`" for choice in choices)
    return named and ("a number or " if int in parts or float in parts else "one of ") + named


def _of_section(field: FieldInfo) -> str:
    """The first sentence of the section that a key without a description holds; empty when it holds none."""
    for part in (field.annotation, *typing.get_args(field.annotation)):
        if isinstance(part, type) and issubclass(part, Section):
            return " ".join((part.__doc__ or "").split()).split(". ")[0].rstrip(".")
    return ""


if __name__ == "__main__":
    print(page(), end="")

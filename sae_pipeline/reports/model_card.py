"""The model card of an exported SAE: a README.md that the Hugging Face hub shows, with everything to judge and load it by."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sae_pipeline.reports.markdown_text import escape

CARD_FILE = "README.md"


@dataclass(frozen=True)
class Source:
    """One source of the training text."""

    name: str
    share: float
    """Of the training tokens."""
    what: str
    """Data set, files or package text, in words."""
    licence: str
    dataset: str | None = None
    """Id on the hub, where it is there."""


@dataclass(frozen=True)
class Figure:
    """A metric on an evaluation set."""

    metric: str
    unit: str
    evaluation_set: str
    kind: str
    """How the set relates to the training text."""
    estimate: float
    low: float | None
    """Lower end of the interval; None where the metric has none."""
    high: float | None


@dataclass(frozen=True)
class Loading:
    """How one library opens the folder."""

    library: str
    package: str
    """Requirement that installs it."""
    code: str


@dataclass(frozen=True, kw_only=True)
class ModelCard:
    """What the card says; collected by the export."""

    sae_id: str
    library_name: str
    """Of the format, as the hub spells it."""
    licence: str
    """The hub's identifier of the licence that the owner gives the weights."""
    base_model: str | None
    """Hub id of the subject model, where it is one."""
    rule: str
    """The inference rule, as a sentence."""
    configuration: Mapping[str, Any]
    """Settings and results of training, in the order shown."""
    hook: str
    """Which activation of which model, as a sentence."""
    sources: Sequence[Source]
    figures: Sequence[Figure]
    confidence: float
    """Level of the intervals."""
    loading: Sequence[Loading]
    """Ways to open this folder, its own library first."""
    checksums: Mapping[str, str]
    """SHA-256 of every other file of the folder."""


def render_card(card: ModelCard) -> str:
    """The text of ``README.md``: YAML front matter, then Markdown."""
    import yaml

    front: dict[str, Any] = {
        "license": card.licence,
        "library_name": card.library_name,
        "tags": ["sparse-autoencoder", "interpretability", "mechanistic-interpretability"],
    }
    if card.base_model:
        front["base_model"] = card.base_model
    if datasets := sorted({source.dataset for source in card.sources if source.dataset}):
        front["datasets"] = datasets
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n" + "\n".join(_lines(card)).rstrip() + "\n"


def _lines(card: ModelCard) -> Iterator[str]:
    yield from (f"# {escape(card.sae_id)}", "", f"A sparse autoencoder of {card.hook}. {card.rule}", "")
    yield from ("## Intended use", "")
    yield from (
        "Interpretability research: decomposing this activation into sparse latents, studying and comparing them, steering and ablation. It "
        "reconstructs the activations of the model and hook named above, in raw units, and means nothing on others. Latents come without labels; "
        "a latent that looks interpretable on a few examples is a hypothesis. Not meant for decisions about people.",
        "",
    )
    yield from ("## Configuration", "")
    yield from _table(("setting", "value"), [(name, _value(value)) for name, value in card.configuration.items()])
    yield from ("## Training data", "")
    yield from _table(("source", "share of tokens", "what it is", "licence"), [(s.name, f"{s.share:.1%}", s.what, s.licence) for s in card.sources])
    yield from ("## Metrics", "", *_metrics(card))
    yield from ("## Loading", "", "`x` holds activations, float32 `(n_tokens, d_model)`; run these in the folder of this file.", "")
    for way in card.loading:
        yield from (f'With {way.library} (`pip install "{way.package}"`):', "", "```python", way.code, "```", "")
    yield from ("## Licence", "", *_licence(card))
    yield from ("## Checksums", "", "SHA-256:", "", *(f"- `{digest}` {escape(name)}" for name, digest in card.checksums.items()), "")


def _metrics(card: ModelCard) -> Iterator[str]:
    if not card.figures:
        yield from ("Not evaluated when this was exported.", "")
        return
    yield from (
        f"On documents that were not trained on; intervals at {card.confidence:.0%} by resampling documents, so they leave out the noise of training.",
        "",
    )
    yield from _table(
        ("evaluation set", "relation to the training text", "metric", "unit", "value", "interval"),
        [
            (f.evaluation_set, f.kind, f.metric, f.unit, f"{f.estimate:.4g}", "" if f.low is None else f"{f.low:.4g} to {f.high:.4g}")
            for f in card.figures
        ],
    )


def _licence(card: ModelCard) -> Iterator[str]:
    if card.licence == "other":
        yield "The owner has chosen no licence for these weights yet. Before publishing, put one into the header of this file."
    else:
        yield f"The weights: {escape(card.licence)}."
    yield from (
        "The training text and the subject model keep their own licences, which may restrict what may be done with what was trained on them.",
        "",
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(columns) + " |"
    yield "|" + " --- |" * len(columns)
    yield from ("| " + " | ".join(escape(cell) for cell in row) + " |" for row in rows)
    yield ""


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, list | tuple):
        return ", ".join(_value(part) for part in value)
    return f"{value:,}" if isinstance(value, int) and abs(value) >= 10_000 else str(value)

"""One SAE's chain: what it was made from down to the text, what was made from it up to the report, and documents behind tokens.

Every artifact's manifest names its inputs by fingerprint or content, so the chain is read off the manifests; nothing is
recorded twice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sae_pipeline.errors import BadInput
from sae_pipeline.stages import corpora, inventory, reachable, subject, upstream
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, strings_in
from sae_pipeline.study import Cell

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Link:
    """One artifact of a chain."""

    what: str
    """What it is in this study: ``PRE/corpus``, ``PRE/activations L01``, an SAE's id …"""
    stage: str
    fingerprint: str
    """Hash of the recipe: its folder in the store."""
    content: str
    """Hash of what it holds."""
    created: str
    """When, in UTC."""
    seconds: float
    host: str
    libraries: dict[str, str]
    """Versions it was made with, this package's among them."""
    made_from: tuple[str, ...]
    """Names of the artifacts of the study that its inputs mention."""
    text: tuple[dict[str, Any], ...] = ()
    """Of a corpus: each source as it was read, with its data version (of the hub: with the commit behind it), documents and tokens."""


@dataclass(frozen=True)
class Chain:
    """An SAE between the text and the report."""

    sae_id: str
    study: str
    subject: dict[str, Any]
    """The subject model's record: name, revision, backend, hashes."""
    before: tuple[Link, ...]
    """What the SAE rests on, upstream first."""
    sae: Link
    beside: tuple[Link, ...]
    """What its evaluations rest on besides: held-out corpora, their activations and baselines, spelled words; upstream first."""
    after: tuple[Link, ...]
    """What rests on the SAE, upstream first."""


def trace(ctx: StudyContext, sae_id: str) -> Chain:
    """The chain of one SAE of the study, as far as it has been computed.

    Raises:
        BadInput: the study declares no such SAE.
        TrainingError: it diverged.
    """
    found = inventory.find_sae(ctx, sae_id)
    artifacts = dict(reachable.artifacts(ctx))
    made_from = _inputs(artifacts)
    before, after = _closure(sae_id, made_from), _closure(sae_id, _reversed(made_from))
    evaluations = [what for what, inputs in made_from.items() if sae_id in inputs and artifacts[what].stage == "evaluations"]
    beside = set().union(*(_closure(what, made_from) for what in evaluations)) - before - {sae_id}
    wanted = before | beside | after | {sae_id}
    links = {what: _link(ctx, what, artifact, made_from[what]) for what, artifact in artifacts.items() if what in wanted}
    order = _upstream_first(made_from)
    assert artifacts[sae_id].fingerprint == found.fingerprint
    return Chain(
        sae_id=sae_id,
        study=ctx.study.name,
        subject=subject.need(ctx).record,
        before=tuple(links[what] for what in order if what in before),
        sae=links[sae_id],
        beside=tuple(links[what] for what in order if what in beside),
        after=tuple(links[what] for what in order if what in after),
    )


def of_cell(ctx: StudyContext, cell: Cell, *last: str) -> tuple[Link, ...]:
    """What some artifacts of a cell rest on, upstream first, and they themselves."""
    return _up_to(ctx, dict(upstream.of_cell(ctx, cell.mix, cell.point, cell.expansion)), last)


def of_study(ctx: StudyContext, last: str) -> tuple[Link, ...]:
    """What an artifact of the whole study rests on, upstream first, and it itself."""
    return _up_to(ctx, dict(reachable.artifacts(ctx)), [last])


def _up_to(ctx: StudyContext, artifacts: dict[str, Artifact], last: Sequence[str]) -> tuple[Link, ...]:
    made_from = _inputs(artifacts)
    wanted = set(last).union(*(_closure(what, made_from) for what in last))
    return tuple(_link(ctx, what, artifacts[what], made_from[what]) for what in _upstream_first(made_from) if what in wanted)


def token_range(text: str) -> tuple[int, int]:
    """``A:B`` as two numbers.

    Raises:
        BadInput: it is not of that form.
    """
    start, colon, end = text.partition(":")
    if not (colon and start.isdecimal() and end.isdecimal()):
        raise BadInput(f"--tokens: expected two whole numbers as A:B, for example 0:512, found '{text}'")
    return int(start), int(end)


def documents_of(ctx: StudyContext, lane: str, start: int, end: int) -> pd.DataFrame:
    """The documents that tokens ``start`` to ``end`` (not included) of a corpus came from, in its packed order.

    Args:
        ctx: the study's context.
        lane: a mix, or ``held_out/<set>``.
        start, end: places in the corpus, counted over its contexts from 0, BOS included.

    Returns:
        One row per stretch of one document: ``start`` and ``end`` (its tokens in the corpus, ``end`` not included), ``source``, ``key`` (the
        document within its source), ``document_hash``, ``position`` (of the first of these tokens in the document). Special
        tokens belong to no document and have no row.

    Raises:
        BadInput: the study has no such corpus, or it has no such tokens.
    """
    import pandas as pd

    lanes = [*ctx.study.mixes, *(f"held_out/{name}" for name in ctx.study.held_out)]
    if lane not in lanes:
        raise BadInput(f"--corpus: expected a mix or evaluation set of the study '{ctx.study.name}' ({', '.join(lanes)}), found '{lane}'")
    from sae_pipeline.corpora.corpus import Corpus

    corpus = Corpus.load(corpora.need(ctx, lane))
    size = corpus.n_contexts * corpus.context_length
    if not 0 <= start < end <= size:
        raise BadInput(f"--tokens: expected A:B with 0 <= A < B <= {size}, the tokens of {lane}, found {start}:{end}")
    whole = slice(start // corpus.context_length, (end - 1) // corpus.context_length + 1)
    offset = whole.start * corpus.context_length
    wanted = slice(start - offset, end - offset)
    document, position = (tensor[whole].reshape(-1)[wanted].tolist() for tensor in (corpus.document, corpus.position))
    rows: list[dict[str, Any]] = []
    for place, (number, within) in enumerate(zip(document, position, strict=True), start=start):
        if number < 0:
            continue
        if rows and rows[-1]["document"] == number and rows[-1]["end"] == place:
            rows[-1]["end"] = place + 1
        else:
            rows.append({"start": place, "end": place + 1, "document": number, "position": within})
    stretches = pd.DataFrame(rows, columns=["start", "end", "document", "position"])
    known = corpus.documents[["source", "key", "document_hash"]]
    return stretches.join(known, on="document")[["start", "end", "source", "key", "document_hash", "position"]]


def _inputs(artifacts: dict[str, Artifact]) -> dict[str, tuple[str, ...]]:
    """By name, the names of the artifacts that each one's inputs mention by fingerprint or content."""
    named: dict[str, list[str]] = defaultdict(list)
    for what, artifact in artifacts.items():
        for mark in {artifact.fingerprint, artifact.content}:
            named[mark].append(what)
    return {
        what: tuple(dict.fromkeys(other for mark in strings_in(artifact.inputs) for other in named.get(mark, ()) if artifacts[other] is not artifact))
        for what, artifact in artifacts.items()
    }


def _reversed(made_from: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """What is made from each, instead of what each is made from."""
    makes: dict[str, list[str]] = {what: [] for what in made_from}
    for what, inputs in made_from.items():
        for other in inputs:
            makes[other].append(what)
    return {what: tuple(others) for what, others in makes.items()}


def _closure(start: str, steps: dict[str, tuple[str, ...]]) -> set[str]:
    """Everything that can be reached from ``start``, without it."""
    reached: set[str] = set()
    ahead = list(steps[start])
    while ahead:
        if (what := ahead.pop()) not in reached:
            reached.add(what)
            ahead += steps[what]
    return reached - {start}


def _upstream_first(made_from: dict[str, tuple[str, ...]]) -> list[str]:
    """All names in an order in which each comes after what it is made from."""
    from graphlib import TopologicalSorter

    return list(TopologicalSorter(made_from).static_order())


def _link(ctx: StudyContext, what: str, artifact: Artifact, made_from: tuple[str, ...]) -> Link:
    manifest = artifact.manifest
    return Link(
        what=what,
        stage=artifact.stage,
        fingerprint=artifact.fingerprint,
        content=artifact.content,
        created=manifest["created"],
        seconds=manifest["seconds"],
        host=manifest["host"],
        libraries=manifest["libraries"],
        made_from=made_from,
        text=tuple(_sources_of(artifact)) if artifact.stage == corpora.STAGE else (),
    )


def _sources_of(corpus: Artifact) -> Iterator[dict[str, Any]]:
    """The sources of a corpus as its manifest records them."""
    for name, version in corpus.inputs["sources"].items():
        yield {
            "source": name,
            "data_version": version,
            "commit": corpus.summary.get("commits", {}).get(name),
            "read_as": corpus.inputs["study"]["sources"][name],
            "share": corpus.summary["shares"][name],
            "documents": corpus.summary["documents_by_source"].get(name, 0),
            "tokens": corpus.summary["tokens_by_source"].get(name, 0),
        }

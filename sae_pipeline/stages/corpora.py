"""The corpus stage: one packed, token-exact corpus per training mix and per evaluation set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import slices, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.sources import commit, data_version, open_source, require_unchanged
from sae_pipeline.store import Artifact, digest

if TYPE_CHECKING:
    from sae_pipeline.corpora.documents import Side

STAGE = "corpus"


def _slice(ctx: StudyContext, lane: str) -> slices.Slice:
    return slices.held_out_corpus(ctx.study, lane.removeprefix("held_out/")) if is_held_out(lane) else slices.mix_corpus(ctx.study, lane)


def is_held_out(lane: str) -> bool:
    """Whether a lane name (``PRE`` or ``held_out/code``) is that of an evaluation set."""
    return lane.startswith("held_out/")


def side(ctx: StudyContext, *, held_out: bool) -> Side:
    """The training side of the split, or the window of the held-out side that this study evaluates on."""
    from sae_pipeline.corpora.documents import Side

    corpus = ctx.study.corpus
    return Side(held_out, corpus.held_out_share, corpus.held_out_windows, ctx.study.evaluation.window)


def _identity(ctx: StudyContext, lane: str, tokenizer_hash: str) -> tuple[str, dict[str, Any]]:
    part = _slice(ctx, lane)
    inputs: dict[str, Any] = {
        "study": part,
        "sources": {name: data_version(ctx, name) for name in part["sources"]},
        "tokenizer": tokenizer_hash,
    }
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext, lane: str) -> Artifact | None:
    """The corpus of a lane, if the stage has run."""
    model = subject.find(ctx)
    return ctx.store.find(STAGE, _identity(ctx, lane, model.tokenizer_hash)[0]) if model else None


def need(ctx: StudyContext, lane: str) -> Artifact:
    """The corpus of a lane, which must exist."""
    return ctx.store.open(STAGE, _identity(ctx, lane, subject.need(ctx).tokenizer_hash)[0])


def build(ctx: StudyContext, lane: str) -> Artifact:
    """Read, split, tokenise and pack the text of a lane; a killed build goes on from its last block.

    Raises:
        SourceError: a source cannot be read, changes while it is read, or has fewer tokens than its share asks for.
    """
    model = subject.need(ctx)
    fingerprint, inputs = _identity(ctx, lane, model.tokenizer_hash)
    with ctx.store.draft(STAGE, fingerprint, inputs, resumable=True) as draft:
        if isinstance(draft, Artifact):
            return draft
        from sae_pipeline.corpora.mixing import build_corpus, content_hash

        model.verify()
        part = _slice(ctx, lane)
        require_unchanged(ctx, part["sources"])
        summary = build_corpus(
            draft.path,
            sources={name: open_source(ctx, name) for name in part["sources"]},
            shares={name: share for name, share in part["shares"].items() if share > 0},
            tokens=part["tokens"],
            context_length=part["context_length"],
            tokenizer=model.tokenizer(),
            seed=ctx.study.corpus.seed,
            side=side(ctx, held_out=part["held_out"]),
            repeat=ctx.study.corpus.repeat,
        )
        require_unchanged(ctx, part["sources"])
        commits = {name: commit(ctx, name) for name in part["sources"]}
        return draft.publish(summary | {"commits": commits}, content=content_hash(draft.path))

"""Sources as the stages see them: opened once, with a data version that is remembered, and looked at again before anything is published."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_pipeline.errors import SourceError
from sae_pipeline.stages import commits
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import is_held
from sae_pipeline.study.text_sections import External, HuggingFace, Records

if TYPE_CHECKING:
    from sae_pipeline.corpora.sources import TextSource
    from sae_pipeline.corpora.tokenization import TextTokenizer


def is_external(ctx: StudyContext, name: str) -> bool:
    """Whether the source's text comes from outside, rather than from the subject model or another source."""
    return isinstance(ctx.study.sources[name], External)


def open_source(ctx: StudyContext, name: str) -> TextSource:
    """The named source of the study, ready to be read; a branch of the hub stands for the commit that this launch settled on.

    Raises:
        StorageError: a derived source that has not been made yet.
        SourceError: a branch whose commit is not settled yet, and the hub cannot tell it.
    """
    key = ("source", name)
    if key not in ctx.remembered:
        from sae_pipeline.corpora import sources
        from sae_pipeline.stages import derived

        declared = ctx.study.sources[name]
        if isinstance(declared, External):
            opened = sources.open_source(declared, ctx.store, _tokenizer(ctx))
            if isinstance(declared, HuggingFace) and _moves(declared):
                branch: Any = opened
                commit = commits.settled(ctx, "dataset", declared.dataset, declared.revision, branch.commit)
                opened = sources.open_source(declared.model_copy(update={"revision": commit}), ctx.store, _tokenizer(ctx))
            ctx.remembered[key] = opened
        else:
            ctx.remembered[key] = derived.text(ctx, name)
    return ctx.remembered[key]


def data_version(ctx: StudyContext, name: str) -> str:
    """Identity of the text itself: hub commit, contents of local files, versions of installed packages, recipe of derived text."""
    key = ("data_version", name)
    if key not in ctx.remembered:
        from sae_pipeline.stages import derived

        ctx.remembered[key] = open_source(ctx, name).data_version() if is_external(ctx, name) else derived.fingerprint(ctx, name)
    return ctx.remembered[key]


def commit(ctx: StudyContext, name: str) -> str | None:
    """The commit at which a data set of the hub is read; None for a source of another kind."""
    declared = ctx.study.sources[name]
    if not isinstance(declared, HuggingFace) or Path(declared.dataset).is_dir():
        return None
    source: Any = open_source(ctx, name)
    return source.commit()


def observe(ctx: StudyContext, name: str) -> str:
    """The data version of an outside source as it is now: a branch of the hub is asked for its commit again.

    Only while a launch is under way it keeps the commit that the launch settled on.
    """
    declared = ctx.study.sources[name]
    launched = any(is_held(lock) for lock in ctx.home.locks.glob("launcher-*.lock"))
    if isinstance(declared, HuggingFace) and _moves(declared) and not launched:
        commits.forget(ctx, "dataset", declared.dataset, declared.revision)
        ctx.remembered.clear()  # what was made from this source is remembered under the commit it had
    return data_version(ctx, name)


def _moves(declared: HuggingFace) -> bool:
    """Whether what the entry names can become another commit: anything on the hub but a full commit."""
    from sae_pipeline.corpora.sources.hub import COMMIT

    return not Path(declared.dataset).is_dir() and not COMMIT.fullmatch(declared.revision or "")


def require_unchanged(ctx: StudyContext, names: Iterable[str]) -> None:
    """Check, around the reading of sources, that their text is still that of the data versions it will be known by.

    Raises:
        SourceError: a source changed; its version is forgotten, so that the next attempt begins with the new one.
    """
    for name in filter(lambda name: is_external(ctx, name), names):
        version = data_version(ctx, name)
        if open_source(ctx, name).data_version() != version:
            from sae_pipeline.corpora.sources import changed

            ctx.remembered.clear()
            raise SourceError(changed(f"source {name}"))


def template(ctx: StudyContext, name: str) -> list[str | int] | None:
    """What writes the conversations of a source: a named template, or that of the subject's tokenizer; None for a source of plain text."""
    declared = ctx.study.sources[name]
    if not isinstance(declared, Records) or declared.chat is None:
        return None
    source: Any = open_source(ctx, name)
    return source.reader.template


def spools(ctx: StudyContext) -> Iterator[Path]:
    """Folders in the store where the study's hub data sets are kept as they were streamed."""
    for name, declared in ctx.study.sources.items():
        if isinstance(declared, HuggingFace) and not Path(declared.dataset).is_dir():
            source: Any = open_source(ctx, name)
            yield source.spool_folder()


def _tokenizer(ctx: StudyContext) -> Callable[[], TextTokenizer] | None:
    """Loads the tokenizer whose chat template renders conversations; the bundled subject's is trained on the text and has none."""
    study = ctx.study
    if study.subject.model == "bundled":
        return None

    def load() -> TextTokenizer:
        from sae_pipeline.corpora.tokenization import TextTokenizer
        from sae_pipeline.stages import subject

        return TextTokenizer.load(
            study.subject.model, subject.checkpoint_identity(ctx).get("commit"), trust_remote_code=study.subject.trust_remote_code
        )

    return load


def documents(ctx: StudyContext, name: str, *, held_out: bool) -> Iterator[str]:
    """Texts of one side of the split, in the study's order."""
    from sae_pipeline.corpora.documents import is_held_out

    corpus = ctx.study.corpus
    for document in open_source(ctx, name).documents(corpus.seed):
        if is_held_out(document.hash, corpus.held_out_share) == held_out:
            yield document.text

"""The subject stage: train the bundled model, or record which local or hub checkpoint is studied."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.sources import data_version, documents, require_unchanged
from sae_pipeline.store import Artifact, digest, write_json
from sae_pipeline.study.text_sections import Subject as Declared

if TYPE_CHECKING:
    from sae_pipeline.activations.subject import SubjectModel
    from sae_pipeline.corpora.tokenization import TextTokenizer

STAGE = "subject"
RECORD = "subject.json"
HELD_OUT_DOCUMENTS = 400
"""Held-out documents per source for the bundled model's own loss: about 10^5 tokens, a standard error near 1 %."""


@dataclass(frozen=True)
class Subject:
    """A recorded subject: where its checkpoint is, and the hashes that identify weights and tokenizer."""

    artifact: Artifact
    record: dict[str, Any]
    declared: Declared
    """The study's section: a local checkpoint may have moved since it was recorded."""

    @property
    def model(self) -> str:
        """The study's ``subject.model``."""
        return self.declared.model

    @property
    def location(self) -> str:
        """Path or hub id to load from."""
        return str(self.artifact.path / "checkpoint") if self.model == "bundled" else self.model

    @property
    def revision(self) -> str | None:
        """Hub commit, or None for local checkpoints."""
        return self.record["revision"]

    @property
    def tokenizer_hash(self) -> str:
        """Identity of the tokenizer, which is all that a corpus depends on."""
        return self.record["tokenizer_hash"]

    def verify(self) -> None:
        """Check the bundled checkpoint's bytes before they are read."""
        for name in self.artifact.manifest["files"]:
            self.artifact.file(name)

    def load(self, dtype: str, device: str) -> SubjectModel:
        """The model, from this process's cache when it was loaded before."""
        from sae_pipeline.activations.subject import SubjectModel

        self.verify()
        return SubjectModel.load(
            self.location,
            self.revision,
            dtype,
            device,
            randomised=self.record["randomised"],
            trust_remote_code=self.declared.trust_remote_code,
            pickled_weights=self.declared.pickled_weights,
        )

    def tokenizer(self) -> TextTokenizer:
        """The model's tokenizer."""
        from sae_pipeline.corpora.tokenization import TextTokenizer

        return TextTokenizer.load(self.location, self.revision, trust_remote_code=self.declared.trust_remote_code)


def fingerprint(ctx: StudyContext) -> str:
    """Identity of the subject: its training recipe and text when bundled, else the checkpoint's contents."""
    return digest(STAGE, slices.VERSIONS[STAGE], _inputs(ctx))


def _inputs(ctx: StudyContext) -> dict[str, Any]:
    study = ctx.study
    if study.subject.model == "bundled":
        return {"study": slices.subject(study), "sources": {name: data_version(ctx, name) for name in slices.bundled_sources(study)}}
    return {"study": slices.subject(study), "checkpoint": checkpoint_identity(ctx)}


def checkpoint_identity(ctx: StudyContext) -> dict[str, Any]:
    """What tells the study's local or hub checkpoint from any other; asked once per context, so that a branch is one commit throughout."""
    if "subject_identity" not in ctx.remembered:
        from sae_pipeline.activations.identity import subject_identity

        ctx.remembered["subject_identity"] = subject_identity(ctx.study.subject.model, ctx.study.subject.revision)
    return ctx.remembered["subject_identity"]


def find(ctx: StudyContext) -> Subject | None:
    """The recorded subject, if the stage has run for this study."""
    artifact = ctx.store.find(STAGE, fingerprint(ctx))
    return Subject(artifact, artifact.summary, ctx.study.subject) if artifact else None


def need(ctx: StudyContext) -> Subject:
    """The recorded subject, which must exist."""
    artifact = ctx.store.open(STAGE, fingerprint(ctx))
    return Subject(artifact, artifact.summary, ctx.study.subject)


def prepare(ctx: StudyContext) -> Subject:
    """Train or record the subject, once.

    Raises:
        SubjectError: the checkpoint cannot be read or does not have the study's layers, site or context length.
    """
    study = ctx.study
    with ctx.store.draft(STAGE, fingerprint(ctx), _inputs(ctx)) as draft:
        if isinstance(draft, Artifact):
            return Subject(draft, draft.summary, study.subject)
        with ctx.compute.lease() as device:
            summary: dict[str, Any] = {"model": study.subject.model, "revision": study.subject.revision}
            location = study.subject.model
            if study.subject.model == "bundled":
                require_unchanged(ctx, slices.bundled_sources(study))
                summary |= _train_bundled(ctx, draft.path)
                require_unchanged(ctx, slices.bundled_sources(study))
                location = str(draft.path / "checkpoint")
            else:
                summary["revision"] = checkpoint_identity(ctx).get("commit")
            from sae_pipeline.activations.identity import subject_identity
            from sae_pipeline.activations.subject import SubjectModel
            from sae_pipeline.corpora.tokenization import TextTokenizer

            summary["randomised"] = slices.randomised(study)
            trust = study.subject.trust_remote_code
            model = SubjectModel.load(
                location,
                summary["revision"],
                study.subject.dtype,
                device,
                randomised=summary["randomised"],
                trust_remote_code=trust,
                pickled_weights=study.subject.pickled_weights,
            )
            for site in study.activations.sites:
                model.check(study.activations.layers, site, study.activations.context_length)
            tokenizer = TextTokenizer.load(location, summary["revision"], trust_remote_code=trust)
            summary |= {
                "d_model": model.d_model,
                "n_layers": model.n_layers,
                "parameters": model.parameters,
                "causal": model.causal,
                "context_limit": model.context_limit,
                "tokenizer_hash": tokenizer.hash,
                "vocab_size": tokenizer.vocab_size,
            }
            write_json(draft.path / RECORD, summary)
        # The same weights and tokenizer are the same subject, however long they took to train and wherever they lie.
        artifact = draft.publish(
            summary, content=digest(subject_identity(location, summary["revision"]), summary["tokenizer_hash"], summary["randomised"])
        )
    return Subject(artifact, summary, study.subject)


def _train_bundled(ctx: StudyContext, folder: Any) -> dict[str, Any]:
    from sae_pipeline.activations.bundled import train_bundled_subject

    names = slices.bundled_sources(ctx.study)
    return train_bundled_subject(
        folder,
        config=ctx.study.subject.bundled,
        context_length=ctx.study.activations.context_length,
        train_texts=_interleaved([documents(ctx, name, held_out=False) for name in names]),
        held_out_texts=chain.from_iterable(islice(documents(ctx, name, held_out=True), HELD_OUT_DOCUMENTS) for name in names),
    )


def _interleaved(streams: list[Any]) -> Any:
    """Texts in turn from every stream; one that ends is left out from then on."""
    streams = list(streams)
    while streams:
        for stream in list(streams):
            text = next(stream, None)
            if text is None:
                streams.remove(stream)
            else:
                yield text

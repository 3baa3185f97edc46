"""Sources made here rather than read: text that the subject samples, and documents retrieved from another source."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_pipeline.errors import BadInput, StudyError, SubjectError
from sae_pipeline.stages import commits, slices, sources, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, Draft, digest
from sae_pipeline.study.text_sections import Retrieved, SelfGenerated, TracIn

if TYPE_CHECKING:
    from sae_pipeline.activations.subject import SubjectModel
    from sae_pipeline.corpora.retrieval.dense import Encoder
    from sae_pipeline.corpora.retrieval.tracin import Influence
    from sae_pipeline.corpora.sources import TextSource
    from sae_pipeline.corpora.tokenization import TextTokenizer

DOCUMENTS_FILE = "documents.parquet"


def _stage(ctx: StudyContext, name: str) -> str:
    return "generated" if isinstance(ctx.study.sources[name], SelfGenerated) else "retrieved"


def _inputs(ctx: StudyContext, name: str) -> dict[str, Any]:
    declared = ctx.study.sources[name]
    inputs: dict[str, Any] = {"study": slices.source(ctx.study, name)}
    if slices.needs_subject(ctx.study, name):
        inputs["subject"] = subject.fingerprint(ctx)
    if isinstance(declared, Retrieved):
        inputs["source"] = sources.data_version(ctx, declared.source)
        inputs["template"] = sources.template(ctx, declared.source)
        inputs["order"] = ctx.study.corpus.seed
        if declared.method == "dense" and declared.encoder != "subject":
            inputs["encoder"] = _encoder_identity(ctx, declared.encoder)
        if declared.rerank is not None:
            inputs["sae"] = _sae_content(declared.rerank)
    return inputs


def _sae_content(rerank: TracIn) -> str:
    from sae_pipeline.store.fingerprints import files_digest

    folder = Path(rerank.sae)
    files = [folder / "cfg.json", folder / "sae_weights.safetensors"]
    if not all(file.is_file() for file in files):
        raise StudyError(f"rerank.sae: expected the folder of an SAE with cfg.json and sae_weights.safetensors, found none at {folder}; export one")
    return files_digest(files, relative_to=folder)


def _encoder_identity(ctx: StudyContext, encoder: str) -> dict[str, str]:
    """The contents of a local encoder, or hub id and commit of another."""
    if Path(encoder).is_dir():
        from sae_pipeline.corpora.sources.file_contents import folder_digest

        return {"content": folder_digest(Path(encoder))}
    # the library's own models may be named without their owner
    repository = encoder if "/" in encoder else f"sentence-transformers/{encoder}"
    return {"model": repository, "commit": commits.settled(ctx, "encoder", repository, None, partial(_asked_commit, repository))}


def _asked_commit(repository: str) -> str:
    from sae_pipeline.activations.identity import resolve_commit

    try:
        return resolve_commit(repository, None)
    except SubjectError as error:
        raise BadInput(
            f"encoder: expected 'subject', a local folder or a sentence-transformers model that the hub has, found {repository}, "
            f"whose commit it does not tell ({type(error.__context__ or error).__name__}); correct the name, connect, or name a local folder"
        ) from error


def check(ctx: StudyContext, name: str) -> None:
    """Refuse a derived source that cannot be made, as far as can be told before anything runs (StudyError, BadInput)."""
    declared = ctx.study.sources[name]
    if not isinstance(declared, Retrieved):
        return
    if declared.rerank is not None:
        _sae_content(declared.rerank)
    if declared.method == "dense" and declared.encoder != "subject":
        _encoder_identity(ctx, declared.encoder)


def fingerprint(ctx: StudyContext, name: str) -> str:
    """Identity of a derived source: its recipe and what it is made from. Known before it is made."""
    stage = _stage(ctx, name)
    return digest(stage, slices.VERSIONS[stage], _inputs(ctx, name))


def find(ctx: StudyContext, name: str) -> Artifact | None:
    """The derived source, if it has been made."""
    return ctx.store.find(_stage(ctx, name), fingerprint(ctx, name))


def need(ctx: StudyContext, name: str) -> Artifact:
    """The derived source, which must exist."""
    return ctx.store.open(_stage(ctx, name), fingerprint(ctx, name))


def text(ctx: StudyContext, name: str) -> TextSource:
    """Its documents, to be read like those of any other source."""
    from sae_pipeline.corpora.sources.stored import StoredDocuments

    made = need(ctx, name)
    return StoredDocuments(made.file(DOCUMENTS_FILE), made.fingerprint)


def make(ctx: StudyContext, name: str) -> Artifact:
    """Sample or retrieve the documents of a derived source, once; sampling goes on where a killed process stopped."""
    stage, declared = _stage(ctx, name), ctx.study.sources[name]
    with ctx.store.draft(stage, fingerprint(ctx, name), _inputs(ctx, name), resumable=stage == "generated") as draft:
        if isinstance(draft, Artifact):
            return draft
        if isinstance(declared, SelfGenerated):
            return draft.publish(_generate(ctx, declared, draft))
        assert isinstance(declared, Retrieved)
        sources.require_unchanged(ctx, [declared.source])
        summary = _retrieve(ctx, declared, draft)
        sources.require_unchanged(ctx, [declared.source])
        return draft.publish(summary)


def _generate(ctx: StudyContext, declared: SelfGenerated, draft: Draft) -> dict[str, Any]:
    from sae_pipeline.corpora.generation import generate

    model = subject.need(ctx)
    model.verify()
    with ctx.compute.lease() as device:
        return generate(
            draft.path,
            location=model.location,
            revision=model.revision,
            tokenizer=model.tokenizer(),
            device=device,
            dtype=ctx.study.subject.dtype,
            tokens=declared.tokens,
            context_length=ctx.study.activations.context_length,
            temperature=declared.temperature,
            top_p=declared.top_p,
            batch_size=declared.batch_size,
            seed=declared.seed,
            randomised=slices.randomised(ctx.study),
            trust_remote_code=ctx.study.subject.trust_remote_code,
            pickled_weights=ctx.study.subject.pickled_weights,
        )


def _retrieve(ctx: StudyContext, declared: Retrieved, draft: Draft) -> dict[str, Any]:
    from sae_pipeline.corpora.retrieval import retrieve

    documents = sources.open_source(ctx, declared.source).documents(ctx.study.corpus.seed)
    how: dict[str, Any] = {"keywords": declared.keywords, "pool": declared.pool, "top": declared.top, "threshold": declared.threshold}
    if declared.method == "bm25" and declared.rerank is None:
        return retrieve(draft.path, documents=documents, **how)
    with ctx.compute.lease() as device:
        if declared.method == "dense":
            how["encoder"] = _encoder(ctx, declared, device)
        if declared.rerank is not None:
            how |= {"influence": _influence(ctx, declared.rerank, device), "keep": declared.rerank.keep}
        return retrieve(draft.path, documents=documents, **how)


def _reader(ctx: StudyContext, device: str) -> tuple[SubjectModel, TextTokenizer]:
    """The subject and its tokenizer, to read documents with."""

    model = subject.need(ctx)
    return model.load(ctx.study.subject.dtype, device), model.tokenizer()


def _encoder(ctx: StudyContext, declared: Retrieved, device: str) -> Encoder:
    from sae_pipeline.corpora.retrieval.dense import SentenceEncoder, SubjectEncoder

    if declared.encoder != "subject":
        known = _encoder_identity(ctx, declared.encoder)
        return SentenceEncoder(known.get("model", declared.encoder), device, known.get("commit"))
    model, tokenizer = _reader(ctx, device)
    layer = model.n_layers // 2 if declared.layer is None else declared.layer
    return SubjectEncoder(model, tokenizer, model.hook_name("resid_post", layer), ctx.study.activations.context_length)


def _influence(ctx: StudyContext, rerank: TracIn, device: str) -> Influence:
    from sae_pipeline.corpora.retrieval.tracin import Influence
    from sae_pipeline.saes.inference import InferenceSAE

    model, tokenizer = _reader(ctx, device)
    sae = InferenceSAE.load(Path(rerank.sae))
    return Influence(sae, model, tokenizer, exemplars=rerank.exemplars, context_length=ctx.study.activations.context_length)

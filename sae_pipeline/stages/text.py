"""The text stage: what every corpus contains, and what they have in common, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import corpora, slices, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, digest

if TYPE_CHECKING:
    import pandas as pd

    from sae_pipeline.corpora.near_duplicates import Sketch

STAGE = "text"
LANE_STAGE = "lane_text"
STATISTICS, LEFT_OUT, DUPLICATES, ADEQUACY, FREQUENCIES, RANKS = (
    "corpus_statistics",
    "left_out",
    "duplicates",
    "adequacy",
    "token_frequencies",
    "token_ranks",
)
LANE_TABLES = (STATISTICS, LEFT_OUT, ADEQUACY, FREQUENCIES, RANKS)
SIGNATURES = "signatures.npy"


def lanes(ctx: StudyContext) -> list[str]:
    """Every lane with a corpus: mixes first, then evaluation sets."""
    return [*ctx.study.mixes, *(f"held_out/{name}" for name in ctx.study.held_out)]


def can_be_described(ctx: StudyContext) -> bool:
    """Whether every corpus of the study has been packed."""
    return all(corpora.find(ctx, lane) is not None for lane in lanes(ctx))


# ------------------------------------------------------------------------------------------------ one corpus


def _read_of(corpus: Artifact) -> dict[str, Any]:
    """Everything of a corpus that its tables show: what it holds, and what its content leaves out of account."""
    return {"corpus": corpus.content, "dropped": corpus.summary["dropped"], "vocab_size": corpus.summary["vocab_size"]}


def _lane_identity(corpus: Artifact) -> tuple[str, dict[str, Any]]:
    inputs = _read_of(corpus)
    return digest(LANE_STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find_lane(ctx: StudyContext, lane: str) -> Artifact | None:
    """The description of one corpus, if it has been made."""
    corpus = corpora.find(ctx, lane)
    return ctx.store.find(LANE_STAGE, _lane_identity(corpus)[0]) if corpus else None


def need_lane(ctx: StudyContext, lane: str) -> Artifact:
    """The description of one corpus, which must exist."""
    return ctx.store.open(LANE_STAGE, _lane_identity(corpora.need(ctx, lane))[0])


def _describe_lane(ctx: StudyContext, lane: str) -> Artifact:
    packed = corpora.need(ctx, lane)
    fingerprint, inputs = _lane_identity(packed)
    with ctx.store.draft(LANE_STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        import numpy as np

        from sae_pipeline.corpora import adequacy, near_duplicates, statistics, token_frequencies
        from sae_pipeline.corpora.corpus import Corpus
        from sae_pipeline.progress import track

        corpus = Corpus.load(packed)
        with track(f"describing the text of {lane}", len(corpus.documents), "documents"):
            signatures = near_duplicates.signatures(corpus.texts())
            frequencies = token_frequencies.token_frequencies(corpus, corpus.summary["vocab_size"])
            frames = {
                STATISTICS: statistics.corpus_statistics(corpus, signatures),
                LEFT_OUT: statistics.left_out(corpus),
                ADEQUACY: adequacy.check(adequacy.corpus_figures(corpus)),
                FREQUENCIES: frequencies,
                RANKS: token_frequencies.rank_frequency(frequencies),
            }
        for name, frame in frames.items():
            frame.to_parquet(draft.path / f"{name}.parquet", index=False)
        np.save(draft.path / SIGNATURES, signatures)
        return draft.publish({"documents": len(corpus.documents)})


# ------------------------------------------------------------------------------------------------ all of them


def _identity(ctx: StudyContext, packed: dict[str, Artifact]) -> tuple[str, dict[str, Any]]:
    inputs = {"study": slices.text(ctx.study), "corpora": {lane: _read_of(corpus) for lane, corpus in packed.items()}}
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext) -> Artifact | None:
    """The text tables, if they have been made."""
    if subject.find(ctx) is None:
        return None
    found = {lane: corpora.find(ctx, lane) for lane in lanes(ctx)}
    packed = {lane: corpus for lane, corpus in found.items() if corpus is not None}
    return ctx.store.find(STAGE, _identity(ctx, packed)[0]) if len(packed) == len(found) else None


def need(ctx: StudyContext) -> Artifact:
    """The text tables, which must exist."""
    return ctx.store.open(STAGE, _identity(ctx, {lane: corpora.need(ctx, lane) for lane in lanes(ctx)})[0])


def describe(ctx: StudyContext) -> Artifact:
    """Describe every corpus, count what is in two of them, and stack the tables."""
    fingerprint, inputs = _identity(ctx, {lane: corpora.need(ctx, lane) for lane in lanes(ctx)})
    with ctx.store.draft(STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        from sae_pipeline.corpora.near_duplicates import duplicate_counts, on_both_sides

        described = {lane: _describe_lane(ctx, lane) for lane in lanes(ctx)}
        sketches = {lane: _sketch(ctx, lane, artifact) for lane, artifact in described.items()}
        training = {lane: sketch for lane, sketch in sketches.items() if not corpora.is_held_out(lane)}
        held_out = {lane: sketch for lane, sketch in sketches.items() if corpora.is_held_out(lane)}
        duplicates = duplicate_counts(training, held_out)
        frames = {name: _stacked(described, name) for name in LANE_TABLES} | {DUPLICATES: duplicates}
        frames[ADEQUACY] = frames[ADEQUACY][frames[ADEQUACY]["corpus"].isin(training)]  # requirements are on text to train on
        for name, frame in frames.items():
            frame.to_parquet(draft.path / f"{name}.parquet", index=False)
        crossed = duplicates[duplicates["corpus"] != duplicates["against"]]
        return draft.publish(
            {
                "documents": sum(len(sketch.hashes) for sketch in sketches.values()),
                "documents_on_both_sides": on_both_sides(training.values(), held_out.values()),
                "held_out_near_duplicates": int(crossed["near"].max()) if len(crossed) else 0,
                **{name: len(frame) for name, frame in frames.items()},
            }
        )


def _stacked(described: dict[str, Artifact], name: str) -> pd.DataFrame:
    """The table of every lane, one below the other; a source that a lane does not draw on has no counts there."""
    import pandas as pd

    frames = []
    for lane, artifact in described.items():
        frame = pd.read_parquet(artifact.file(f"{name}.parquet"))
        frame.insert(0, "corpus", lane)
        frames.append(frame)
    stacked = pd.concat(frames, ignore_index=True)
    return stacked.astype({column: "string" for column in stacked.columns if stacked[column].dtype == object})  # typed even when empty


def _sketch(ctx: StudyContext, lane: str, described: Artifact) -> Sketch:
    import numpy as np
    import pandas as pd

    from sae_pipeline.corpora.near_duplicates import Sketch

    hashes = pd.read_parquet(corpora.need(ctx, lane).file("documents.parquet"), columns=["document_hash"])["document_hash"]
    return Sketch(hashes.tolist(), np.load(described.file(SIGNATURES)))


def frames(artifact: Artifact) -> dict[str, pd.DataFrame]:
    """The text tables by name, token frequencies left out: only concept analysis needs every token."""
    import pandas as pd

    return {name: pd.read_parquet(artifact.file(f"{name}.parquet")) for name in (STATISTICS, LEFT_OUT, DUPLICATES, ADEQUACY, RANKS)}

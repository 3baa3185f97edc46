"""The concept stages: at each hook point the first arm of every cell, looked at for concepts and directions, and the tables of all of them."""

from __future__ import annotations

from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import activations, corpora, evaluation, saes, slices, subject, text
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.of_hook_points import Measured, found_everywhere, needed_everywhere, publish_frames, read_frames, stacked
from sae_pipeline.store import Artifact, digest
from sae_pipeline.study import HookPoint, Study

if TYPE_CHECKING:
    import pandas as pd

    from sae_pipeline.concepts.direction_tables import OfSets, Written

STAGE = "concepts"
TABLES_STAGE = "concept_tables"
STUDIES = "concept_studies"
MEASURED = ("concept_features", "concept_fits", "tail_recall", "directions", "direction_fits", "direction_latents")
"""Tables of a hook point; those of all hook points have :data:`STUDIES` beside them."""


# ------------------------------------------------------------------------------------------------ one hook point


def _sets(study: Study) -> tuple[str, ...]:
    return study.concepts.read_sets(study.held_out) if study.concepts else ()


def _found(ctx: StudyContext, point: HookPoint) -> list[saes.TrainedCell] | None:
    """Every cell of the hook point, if all have been trained."""
    cells = [saes.find(ctx, mix, point, expansion) for mix in ctx.study.mixes for expansion in ctx.study.saes.expansions]
    there = [cell for cell in cells if cell is not None]
    return there if len(there) == len(cells) else None


def _chosen(cells: list[saes.TrainedCell]) -> dict[str, tuple[saes.TrainedCell, str]]:
    """By name, of each cell the first arm that has not diverged."""
    first = ((cell, next((label for label in cell.cell.arms if label in cell.saes), None)) for cell in cells)
    return {cell.cell.sae_id(label): (cell, label) for cell, label in first if label is not None}


def _identity(
    ctx: StudyContext, point: HookPoint, chosen: dict[str, tuple[saes.TrainedCell, str]], described: dict[str, Artifact], read: dict[str, Artifact]
) -> tuple[str, dict[str, Any]]:
    inputs = {
        "study": slices.concepts(ctx.study),
        "layer": point.layer,
        "site": point.site,
        "subject": subject.need(ctx).artifact.content,
        "backend": f"transformer-lens {version('transformer-lens')}, raw weights",
        # In order: those of later mixes are held against the first.
        "saes": [[sae_id, cell.saes[label].fingerprint] for sae_id, (cell, label) in chosen.items()],
        "mixes": {mix: artifact.fingerprint for mix, artifact in described.items()},
        "activations": {name: artifact.fingerprint for name, artifact in read.items()},
    }
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext, point: HookPoint) -> Artifact | None:
    """What was found at a hook point, if the stage has run."""
    if subject.find(ctx) is None or (cells := _found(ctx, point)) is None:
        return None
    described = {mix: text.find_lane(ctx, mix) for mix in ctx.study.mixes}
    read = {name: activations.find(ctx, f"held_out/{name}", point) for name in _sets(ctx.study)}
    if None in (*described.values(), *read.values()):
        return None
    return ctx.store.find(STAGE, _identity(ctx, point, _chosen(cells), *({k: v for k, v in each.items() if v} for each in (described, read)))[0])


def _needed(ctx: StudyContext, point: HookPoint) -> tuple[dict[str, tuple[saes.TrainedCell, str]], dict[str, Artifact], dict[str, Artifact]]:
    cells = [saes.need(ctx, mix, point, expansion) for mix in ctx.study.mixes for expansion in ctx.study.saes.expansions]
    described = {mix: text.need_lane(ctx, mix) for mix in ctx.study.mixes}
    return _chosen(cells), described, {name: activations.need(ctx, f"held_out/{name}", point) for name in _sets(ctx.study)}


def need(ctx: StudyContext, point: HookPoint) -> Artifact:
    """What was found at a hook point, which must exist."""
    return ctx.store.open(STAGE, _identity(ctx, point, *_needed(ctx, point))[0])


def measure(ctx: StudyContext, point: HookPoint) -> Artifact:
    """Look for the study's concepts and directions in the first arm of every cell of a hook point."""
    chosen, described, read = _needed(ctx, point)
    fingerprint, inputs = _identity(ctx, point, chosen, described, read)
    with ctx.store.draft(STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        import pandas as pd

        from sae_pipeline.concepts.measure import StudiedSae, measure_concepts
        from sae_pipeline.concepts.text import read_sets
        from sae_pipeline.corpora.corpus import Corpus

        settings, model = slices.concepts(ctx.study), subject.need(ctx)
        tokenizer = model.tokenizer()
        texts = {name: (Corpus.load(corpora.need(ctx, f"held_out/{name}")), activations.shards(artifact)) for name, artifact in read.items()}
        with ctx.compute.lease() as device:
            summary = measure_concepts(
                draft.path,
                sets=read_sets(texts, settings["tokens"]),
                saes={
                    sae_id: StudiedSae(cell.cell.mix, cell.cell.expansion, label, partial(evaluation.load_sae, cell.saes[label], device))
                    for sae_id, (cell, label) in chosen.items()
                },
                mixes={
                    mix: (Corpus.load(corpora.need(ctx, mix)), pd.read_parquet(artifact.file(f"{text.FREQUENCIES}.parquet"))["total"].to_numpy())
                    for mix, artifact in described.items()
                },
                tokenizer=tokenizer,
                keywords=settings["keywords"],
                directions=_directions(ctx, point, device),
                confidence=settings["confidence"],
                seed=settings["seed"],
                **{name: settings[name] for name in ("token_concepts", "min_occurrences", "f1_cut")},
            )
        return draft.publish(summary)


def _directions(ctx: StudyContext, point: HookPoint, device: str) -> dict[str, Written | OfSets]:
    """The study's directions; written prompts are read with the subject, which is loaded for nothing else."""
    from sae_pipeline.concepts.direction_tables import OfSets, Written
    from sae_pipeline.concepts.directions import read_prompts

    asked = ctx.study.concepts.asked_directions(ctx.study.held_out) if ctx.study.concepts else {}
    model = subject.need(ctx)
    found: dict[str, Written | OfSets] = {}
    for name, declared in asked.items():
        if declared.positive is None or declared.negative is None:
            found[name] = OfSets(*declared.sets)
            continue
        loaded = model.load(ctx.study.subject.dtype, device)
        read = partial(
            read_prompts,
            position=declared.position,
            model=loaded,
            tokenizer=model.tokenizer(),
            hook=loaded.hook_name(point.site, point.layer),
            batch_size=ctx.study.evaluation.batch_size,
        )
        found[name] = Written(read(declared.positive), read(declared.negative))
    return found


# ------------------------------------------------------------------------------------------------ all of them


def _tables_identity(ctx: StudyContext, measured: Measured) -> tuple[str, dict[str, Any]]:
    inputs = {"study": slices.concepts(ctx.study), "concepts": {point.key: artifact.fingerprint for point, artifact in measured.items()}}
    return digest(TABLES_STAGE, slices.VERSIONS[TABLES_STAGE], inputs), inputs


def find_tables(ctx: StudyContext) -> Artifact | None:
    """The concept tables, if the study asks for them and they have been gathered."""
    if ctx.study.concepts is None or (measured := found_everywhere(ctx, find)) is None:
        return None
    return ctx.store.find(TABLES_STAGE, _tables_identity(ctx, measured)[0])


def need_tables(ctx: StudyContext) -> Artifact:
    """The concept tables, which must exist."""
    return ctx.store.open(TABLES_STAGE, _tables_identity(ctx, needed_everywhere(ctx, need))[0])


def gather(ctx: StudyContext) -> Artifact:
    """Stack the tables of every hook point, and say what each was measured on."""
    measured = needed_everywhere(ctx, need)
    fingerprint, inputs = _tables_identity(ctx, measured)
    with ctx.store.draft(TABLES_STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        return publish_frames(draft, {STUDIES: _studies(ctx, measured)} | {name: stacked(measured, name) for name in MEASURED})


def _studies(ctx: StudyContext, measured: Measured) -> pd.DataFrame:
    import pandas as pd

    settings = slices.concepts(ctx.study)
    rows = [
        {"layer": point.layer, "site": point.site, "evaluation_sets": ", ".join(_sets(ctx.study))}
        | {name: artifact.summary[name] for name in ("tokens", "documents", "judged_documents", "token_concepts", "keyword_concepts")}
        | {"saes": len(artifact.summary["saes"]), "min_occurrences": settings["min_occurrences"], "f1_cut": settings["f1_cut"]}
        for point, artifact in measured.items()
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(("site", "evaluation_sets"), "string"))


def frames(artifact: Artifact) -> dict[str, pd.DataFrame]:
    """The concept tables by name."""
    return read_frames(artifact, (STUDIES, *MEASURED))

"""The position stages: each hook point read with its positions as they are, zeroed and shuffled, and the tables of all of them."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from sae_pipeline.stages import corpora, evaluation, saes, slices, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.of_hook_points import Measured, found_everywhere, needed_everywhere, publish_frames, read_frames, stacked
from sae_pipeline.store import Artifact, digest
from sae_pipeline.study import HookPoint

if TYPE_CHECKING:
    import pandas as pd

STAGE = "positions"
TABLES_STAGE = "position_tables"
STUDIES, EFFECTS = "position_studies", "position_effects"
MEASURED = ("position_curves", EFFECTS, "position_features", "position_tokens")
"""Tables of a hook point; those of all hook points have :data:`STUDIES` beside them."""


# ------------------------------------------------------------------------------------------------ one hook point


def _chosen(trained: saes.TrainedCell) -> dict[str, Artifact]:
    """By name, of each architecture of the cell the first SAE that has not diverged."""
    first: dict[str, str] = {}
    for label, arm in trained.cell.arms.items():
        if label in trained.saes:
            first.setdefault(arm.architecture, label)
    return {trained.cell.sae_id(label): trained.saes[label] for label in first.values()}


def _lane(ctx: StudyContext) -> str:
    return f"held_out/{ctx.study.read_for_positions[0]}"


def _identity(
    ctx: StudyContext, point: HookPoint, corpus: Artifact, model: subject.Subject, chosen: dict[str, Artifact]
) -> tuple[str, dict[str, Any]]:
    inputs = {
        "study": slices.positions(ctx.study),
        "layer": point.layer,
        "site": point.site,
        "corpus": corpus.content,
        "subject": model.artifact.content,
        "backend": f"transformer-lens {version('transformer-lens')}, raw weights",
        "saes": {sae_id: sae.fingerprint for sae_id, sae in chosen.items()},
    }
    return digest(STAGE, slices.VERSIONS[STAGE], inputs), inputs


def find(ctx: StudyContext, point: HookPoint) -> Artifact | None:
    """What was measured at a hook point, if the stage has run."""
    _, mix, expansion = ctx.study.read_for_positions
    corpus, model, trained = corpora.find(ctx, _lane(ctx)), subject.find(ctx), saes.find(ctx, mix, point, expansion)
    if corpus is None or model is None or trained is None:
        return None
    return ctx.store.find(STAGE, _identity(ctx, point, corpus, model, _chosen(trained))[0])


def _needed(ctx: StudyContext, point: HookPoint) -> tuple[Artifact, subject.Subject, dict[str, Artifact]]:
    _, mix, expansion = ctx.study.read_for_positions
    return corpora.need(ctx, _lane(ctx)), subject.need(ctx), _chosen(saes.need(ctx, mix, point, expansion))


def need(ctx: StudyContext, point: HookPoint) -> Artifact:
    """What was measured at a hook point, which must exist."""
    return ctx.store.open(STAGE, _identity(ctx, point, *_needed(ctx, point))[0])


def measure(ctx: StudyContext, point: HookPoint) -> Artifact:
    """Read the evaluation set under every condition that applies to the subject, with the SAEs of the hook point."""
    corpus, model, chosen = _needed(ctx, point)
    fingerprint, inputs = _identity(ctx, point, corpus, model, chosen)
    with ctx.store.draft(STAGE, fingerprint, inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        from sae_pipeline.analysis.position_effects import measure_positions
        from sae_pipeline.corpora.corpus import Corpus
        from sae_pipeline.metrics.positions.reading import PositionText

        settings = slices.positions(ctx.study)
        with ctx.compute.lease() as device:
            loaded = model.load(ctx.study.subject.dtype, device)
            summary = measure_positions(
                draft.path,
                text=PositionText.of(Corpus.load(corpus), settings["tokens"]),
                saes={sae_id: evaluation.load_sae(sae, device) for sae_id, sae in chosen.items()},
                model=loaded,
                hook=loaded.hook_name(point.site, point.layer),
                evaluation_set=settings["evaluation_set"],
                batch_size=settings["batch_size"],
                **settings["resamples"],
            )
        return draft.publish(summary)


def loss_rises(measured: Artifact) -> dict[str, float]:
    """How much each condition raises the model's loss, nats per token; empty where none applies or nothing is scored."""
    import pandas as pd

    rows = pd.read_parquet(measured.file(f"{EFFECTS}.parquet"))
    rows = rows[(rows["quantity"] == "cross_entropy") & rows["sae_id"].isna() & (rows["condition"] != "intact")]
    return {f"ce_rise_{condition}": rise for condition, rise in zip(rows["condition"], rows["rise"].tolist(), strict=True)}


# ------------------------------------------------------------------------------------------------ all of them


def _tables_identity(ctx: StudyContext, measured: Measured) -> tuple[str, dict[str, Any]]:
    inputs = {"study": slices.positions(ctx.study), "positions": {point.key: artifact.fingerprint for point, artifact in measured.items()}}
    return digest(TABLES_STAGE, slices.VERSIONS[TABLES_STAGE], inputs), inputs


def find_tables(ctx: StudyContext) -> Artifact | None:
    """The position tables, if the study asks for them and they have been gathered."""
    if ctx.study.positions is None or (measured := found_everywhere(ctx, find)) is None:
        return None
    return ctx.store.find(TABLES_STAGE, _tables_identity(ctx, measured)[0])


def need_tables(ctx: StudyContext) -> Artifact:
    """The position tables, which must exist."""
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

    evaluation_set, mix, expansion = ctx.study.read_for_positions
    rows = [
        {"layer": point.layer, "site": point.site, "evaluation_set": evaluation_set, "mix": mix, "expansion": float(expansion)}
        | {name: artifact.summary[name] for name in ("contexts", "tokens", "documents", "not_applicable")}
        | {"saes": len(artifact.summary["saes"])}
        for point, artifact in measured.items()
    ]
    return pd.DataFrame(rows).astype(dict.fromkeys(("site", "evaluation_set", "mix", "not_applicable"), "string"))


def frames(artifact: Artifact) -> dict[str, pd.DataFrame]:
    """The position tables by name."""
    return read_frames(artifact, (STUDIES, *MEASURED))

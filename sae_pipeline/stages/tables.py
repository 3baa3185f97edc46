"""The study's tables: the cells' Parquet files gathered into one per kind of row."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sae_pipeline.errors import TrainingError
from sae_pipeline.stages import (
    activations,
    concepts,
    context_text,
    corpora,
    evaluation,
    lineage,
    matching,
    positions,
    saes,
    scorecards,
    slices,
    subject,
    text,
)
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Artifact, digest, storage_errors, write_json

if TYPE_CHECKING:
    import pandas as pd

SAES, DIVERGED, TRAINING, METRICS, DOCUMENTS, FEATURES, BASELINES, HEALTH, LINEAGE = (
    "saes",
    "diverged",
    "training",
    "sae_metrics",
    "document_sums",
    "feature_stats",
    "baseline_sums",
    "health",
    "lineage",
)
DISAGREEMENTS = "rubric_disagreements"
DEFINITIONS = "metrics"
POSITIONS, BASELINE_POSITIONS, TOP_CONTEXTS, CONTEXT_TEXT, DECODER_PAIRS = (
    "position_sums",
    "baseline_position_sums",
    "top_contexts",
    "context_text",
    "decoder_pairs",
)
FIRST_LETTERS = "first_letters"
PER_SAE = (DOCUMENTS, FEATURES, POSITIONS, TOP_CONTEXTS, DECODER_PAIRS, FIRST_LETTERS)
"""Tables that are put together from those of the cells."""
ASKED_FOR = {"positions": positions, "matching": matching, "concepts": concepts}
"""Sections of a study file that have tables of their own, which are gathered before these."""
DENSE_LATENTS = "dense_latents.json"
"""Latents above each density cut by SAE, layer and evaluation set; a copy of it lies beside the warehouse."""
NORM_COLUMNS = {"norm_min": "0", "norm_q05": "0.05", "norm_median": "0.5", "norm_q95": "0.95", "norm_q999": "0.999", "norm_max": "1"}
"""Columns of ``activation_statistics`` and the quantiles they hold."""
ACTIVATIONS = ("activation_statistics", "massive_tokens")
DIVERGED_COLUMNS: dict[str, Any] = (
    dict.fromkeys(("sae_id", "mix"), "string")
    | {"layer": int, "site": "string", "expansion": float, "arm": "string", "architecture": "string", "sparsity": float}
    | {"tokens": int, "step": int, "steps": int, "loss": float, "learning_rate": float}
)
"""Columns of ``diverged`` and their types, which an empty table has too."""
TABLES = (
    SAES,
    DIVERGED,
    TRAINING,
    METRICS,
    *PER_SAE,
    BASELINES,
    BASELINE_POSITIONS,
    CONTEXT_TEXT,
    HEALTH,
    DISAGREEMENTS,
    LINEAGE,
    *ACTIVATIONS,
    DEFINITIONS,
)


# ------------------------------------------------------------------------------------------------ the study's tables


def _inputs(ctx: StudyContext, scorecards: list[Artifact]) -> dict[str, Any]:
    """What the tables are gathered from: the scorecards, and the artifacts further up that the lineage lists."""
    lanes = [*ctx.study.mixes, *(f"held_out/{name}" for name in ctx.study.held_out)]
    return {
        "study": slices.tables(ctx.study),
        "scorecards": [card.content for card in scorecards],
        "subject": subject.need(ctx).artifact.fingerprint,
        "corpora": {lane: corpora.need(ctx, lane).fingerprint for lane in lanes},
        "activations": {lane: [activations.need(ctx, lane, point).fingerprint for point in ctx.study.hook_points] for lane in lanes},
        "diverged": {trained.cell.sae_id(label): found.fingerprint for trained in _cells(ctx) for label, found in trained.diverged.items()},
        "positions": [positions.need(ctx, point).fingerprint for point in ctx.study.hook_points] if ctx.study.positions else [],
        "matching": _matched(ctx),
        "concepts": [concepts.need(ctx, point).fingerprint for point in ctx.study.hook_points] if ctx.study.concepts else [],
    }


def _matched(ctx: StudyContext) -> list[str]:
    """What was matched at every hook point and across layers, where the study asks for it."""
    if ctx.study.matching is None:
        return []
    return [*(matching.need(ctx, point).fingerprint for point in ctx.study.hook_points), matching.need_layers(ctx).fingerprint]


def _cells(ctx: StudyContext) -> list[saes.TrainedCell]:
    """Every cell of the study, in its order."""
    return [
        saes.need(ctx, mix, point, expansion) for mix in ctx.study.mixes for point in ctx.study.hook_points for expansion in ctx.study.saes.expansions
    ]


def _scorecards(ctx: StudyContext) -> list[Artifact]:
    return [scorecards.need(ctx, mix, point) for mix in ctx.study.mixes for point in ctx.study.hook_points]


def find(ctx: StudyContext) -> Artifact | None:
    """The study's tables, if they have been gathered."""
    cards = [scorecards.find(ctx, mix, point) for mix in ctx.study.mixes for point in ctx.study.hook_points]
    present = [card for card in cards if card is not None]
    measured = [stage.find_tables(ctx) for name, stage in ASKED_FOR.items() if getattr(ctx.study, name) is not None]
    if len(present) < len(cards) or None in measured:
        return None
    return ctx.store.find("tables", digest("tables", slices.VERSIONS["tables"], _inputs(ctx, present)))


def need(ctx: StudyContext) -> Artifact:
    """The study's tables, which must exist."""
    return ctx.store.open("tables", digest("tables", slices.VERSIONS["tables"], _inputs(ctx, _scorecards(ctx))))


def gather(ctx: StudyContext) -> Artifact:
    """Gather every cell into one Parquet file per table.

    Raises:
        TrainingError: every SAE of the study diverged, so there is nothing to compare.
    """
    inputs = _inputs(ctx, _scorecards(ctx))
    with ctx.store.draft("tables", digest("tables", slices.VERSIONS["tables"], inputs), inputs) as draft:
        if isinstance(draft, Artifact):
            return draft
        import pandas as pd

        from sae_pipeline.metrics.latents.dense_latents import filter_sets
        from sae_pipeline.metrics.registry import registry_frame

        cards = _scorecards(ctx)
        frames = _cell_rows(ctx)
        frames |= {
            name: pd.concat([pd.read_parquet(card.file(f"{name}.parquet")) for card in cards], ignore_index=True)
            for name in (SAES, METRICS, HEALTH, DISAGREEMENTS)
        }
        frames[BASELINES] = _baseline_rows(ctx, "documents", "sum_x")
        frames[BASELINE_POSITIONS] = _baseline_rows(ctx, "positions", "sum_x_position")
        # Where no contexts are kept, columns of names would have no type.
        frames[TOP_CONTEXTS] = frames[TOP_CONTEXTS].astype(dict.fromkeys(("sae_id", "evaluation_set"), "string"))
        frames[CONTEXT_TEXT] = context_text.rows(ctx, frames[TOP_CONTEXTS])
        frames[LINEAGE] = lineage.rows(ctx)
        frames[DEFINITIONS] = registry_frame()
        frames |= dict(zip(ACTIVATIONS, _activation_rows(ctx), strict=True))
        for name in TABLES:
            frames[name].to_parquet(draft.path / f"{name}.parquet", index=False)
        write_json(draft.path / DENSE_LATENTS, filter_sets(frames[FEATURES], frames[SAES]))
        return draft.publish({name: len(frames[name]) for name in TABLES})


def _cell_rows(ctx: StudyContext) -> dict[str, pd.DataFrame]:
    """Rows per monitored step of every SAE and of its tables per document, position and latent, and per arm that diverged."""
    import pandas as pd

    training: list[dict[str, Any]] = []
    diverged: list[dict[str, Any]] = []
    evaluated: dict[str, list[pd.DataFrame]] = {name: [] for name in PER_SAE}
    for trained in _cells(ctx):
        diverged += saes.diverged_rows(trained)
        if not trained.saes:
            continue
        training += saes.training_rows(trained)
        cell = evaluation.need(ctx, trained.cell.mix, trained.cell.point, trained.cell.expansion)
        for name, rows in evaluated.items():
            frame = pd.read_parquet(cell.file(f"{name}.parquet"))
            frame.insert(0, "sae_id", [trained.cell.sae_id(label) for label in frame.pop("arm")])
            rows.append(frame)
    if not training:
        raise TrainingError(
            f"study '{ctx.study.name}': expected at least one SAE to compare, found that all {len(diverged)} diverged "
            f"({diverged[0]['sae_id']} at step {diverged[0]['step']}); lower learning_rate or lengthen warmup_share in saes"
        )
    return {
        TRAINING: pd.DataFrame(training),
        DIVERGED: pd.DataFrame(diverged, columns=list(DIVERGED_COLUMNS)).astype(DIVERGED_COLUMNS),
    } | {name: pd.concat(rows, ignore_index=True) for name, rows in evaluated.items()}


def _activation_rows(ctx: StudyContext) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What raw activations are like, a row per corpus and hook point; and their longest tokens."""
    import pandas as pd

    model = subject.need(ctx)
    tokenizer = model.tokenizer()
    rows: list[dict[str, Any]] = []
    longest: list[dict[str, Any]] = []
    for lane in text.lanes(ctx):
        for point in ctx.study.hook_points:
            summary = activations.need(ctx, lane, point).summary
            found, place = summary["statistics"], {"corpus": lane, "layer": point.layer, "site": point.site}
            norms, errors = found["norm_quantiles"], found["storage"]
            rows.append(
                place
                | {name: found[name] for name in ("tokens", "mean_norm", "total_variance", "natural_sparsity", "massive_tokens", "massive_share")}
                | {column: norms[share] for column, share in NORM_COLUMNS.items()}
                | {
                    "sparsity_cut": found["near_zero_below"],
                    "position0_mean_norm": found["first_tokens"]["mean_norm"],
                    "storage_dtype": summary["storage_dtype"],
                    "storage_error": summary["storage_relative_error"],
                    "error_float16": inf if errors["float16"]["overflow_share"] else errors["float16"]["relative_error"],
                    "error_bfloat16": errors["bfloat16"]["relative_error"],
                }
            )
            longest += [
                place | {"place": n, "text": tokenizer.decode([[token["token"]]])[0], "norm_over_median": token["norm"] / norms["0.5"]} | token
                for n, token in enumerate(found["largest_tokens"])
            ]
    return pd.DataFrame(rows), pd.DataFrame(longest)


def _baseline_rows(ctx: StudyContext, table: str, vectors: str) -> pd.DataFrame:
    """Rows per document or position of every evaluation set and layer, with the vector sum of their activations; documents with their origin."""
    import pandas as pd
    from safetensors.numpy import load_file

    frames = []
    for name in ctx.study.held_out:
        for point in ctx.study.hook_points:
            baseline = evaluation.need_baseline(ctx, name, point)
            frame = pd.read_parquet(baseline.file(f"{table}.parquet"))
            frame["sum_x"] = list(load_file(baseline.file("sums.safetensors"))[vectors])
            frame.insert(0, "evaluation_set", name)
            frame.insert(1, "layer", point.layer)
            frame.insert(2, "site", point.site)
            if "document" in frame:
                texts = pd.read_parquet(corpora.need(ctx, f"held_out/{name}").file("documents.parquet"), columns=["source", "key"])
                frame = frame.join(texts, on="document")
            frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def publish_dense_latents(ctx: StudyContext) -> None:
    """Put the study's dense latents beside its warehouse, where whoever filters features finds them."""
    if (gathered := find(ctx)) is not None:
        target = ctx.home.dense_latents(ctx.study.name)
        with storage_errors(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            for left_over in _unfinished(target):
                left_over.unlink()
            write_json(target, gathered.json(DENSE_LATENTS))


def _unfinished(target: Path) -> list[Path]:
    """What processes have left that were killed while they wrote a file."""
    return list(target.parent.glob(f".{target.name}.*"))


def holds_dense_latents(ctx: StudyContext) -> bool:
    """Whether the file beside the warehouse says what the tables say, and no process was killed while it wrote another."""
    gathered, target = find(ctx), ctx.home.dense_latents(ctx.study.name)
    try:
        return gathered is not None and not _unfinished(target) and json.loads(target.read_text()) == gathered.json(DENSE_LATENTS)
    except (OSError, ValueError):
        return False


def study_tables(artifact: Artifact) -> Any:
    """The tables as the analysis reads them."""
    import pandas as pd

    from sae_pipeline.analysis.tables import StudyTables

    return StudyTables(**{name: pd.read_parquet(artifact.file(f"{name}.parquet")) for name in (SAES, METRICS, DOCUMENTS, BASELINES, FEATURES)})

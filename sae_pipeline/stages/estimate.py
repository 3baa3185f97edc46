"""What a study will cost before anything runs: cells, SAEs, tokens, bytes on disk, rough seconds."""

from __future__ import annotations

import math
import os
import shutil
from typing import Any

from sae_pipeline.activations.disk import estimate_bytes
from sae_pipeline.errors import StorageError
from sae_pipeline.execution import Execution
from sae_pipeline.reports.wording import counted
from sae_pipeline.saes.memory import memory_budget, memory_groups
from sae_pipeline.saes.schedule import steps_with_trunks
from sae_pipeline.stages import activations, matching, reachable, saes, subject
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store.budget import idle, room
from sae_pipeline.study import Cell, Study, cells, d_sae_of

FLOP_PER_SECOND = 2e11
"""fp32 matrix products on two current CPU cores; the estimate is meant to be right within a factor of three."""

SAE_STEP = 4
"""Operations of an SAE's step per token and weight of W_enc: the encoder product's 2, and as much again in time for what reads active latents."""

MOST_NAMED = 4
"""Cells that a note names."""

MATCH = 100
"""Operations of matching a pair per entry of the cosines and dimension: four products, and what it takes to rank and to pair what they hold."""

UMAP_COMPILES, UMAP_LATENT = 15, 0.0025
"""Seconds of one core: until UMAP's own code is compiled, in every process anew, and after that for each latent laid out (256 and 2,048 of them)."""


def estimate(ctx: StudyContext) -> dict[str, Any]:
    """``cells, arms, tokens, training_tokens, bytes, seconds`` of the whole study from nothing, and ``notes``.

    Sizes need the subject's width: known for the bundled subject and for one that has been recorded, otherwise bytes
    and seconds are 0 and a note says so.
    """
    study = ctx.study
    all_cells = list(cells(study))
    arms = [(cell, arm) for cell in all_cells for arm in cell.arms.values()]
    held_out_tokens = sum(declared.tokens for declared in study.held_out.values())
    tokens = len(study.mixes) * study.activations.tokens + held_out_tokens
    training_tokens = sum(arm.tokens for _, arm in arms)
    figures: dict[str, Any] = {"cells": len(all_cells), "arms": len(arms), "tokens": tokens, "training_tokens": training_tokens}
    steps = [steps_with_trunks(cell.arms.values()) for cell in all_cells]
    taken, separate = sum(each.taken for each in steps), sum(each.separate for each in steps)
    from sae_pipeline.activations.reserve import RESERVED_SHARE, RESERVED_TOKENS

    held_back = min(RESERVED_TOKENS, study.activations.tokens // RESERVED_SHARE)
    notes = []
    if taken < separate:
        notes.append(f"token budgets share trunks: {taken:,} training steps instead of {separate:,} ({1 - taken / separate:.0%} saved)")
    if held_back and any(arm.tokens > study.activations.tokens - held_back for _, arm in arms):
        notes.append(
            f"up to {held_back:,} of the {study.activations.tokens:,} tokens of a mix are held back to set and measure sparsity, so an arm with a budget "
            f"above {study.activations.tokens - held_back:,} sees some tokens twice"
        )
    for group in {(arm.tokens, cell.mix) for cell, arm in arms if arm.tokens > study.activations.tokens}:
        notes.append(
            f"an arm of {group[1]} trains on {group[0]:,} tokens of a mix of {study.activations.tokens:,}: {group[0] / study.activations.tokens:.2f} passes"
        )
    notes += _across_layers(study, all_cells)
    shape = _shape(ctx)
    if shape is None:
        notes.append("disk and time are known once the subject model has been recorded (run with --select 'key:\"*/subject_model\"')")
        return figures | {"bytes": 0, "seconds": 0, "notes": notes}
    d_model, parameters = shape
    notes += _groups(ctx, all_cells, d_model)
    weights = sum(4 * (2 * d_model + 1) * d_sae_of(cell.expansion, d_model) for cell, _ in arms)
    # Forward pass 2, training 6 operations per parameter and token.
    operations: float = 2 * parameters * tokens
    for cell, found in zip(all_cells, steps, strict=True):
        shared = found.taken / max(1, found.separate)  # steps of a trunk are taken once
        operations += SAE_STEP * d_model * d_sae_of(cell.expansion, d_model) * sum(arm.tokens for arm in cell.arms.values()) * shared
    if study.subject.model == "bundled":
        operations += 6 * parameters * study.subject.bundled.tokens
    if not study.activations.cache:  # every cell runs the model over its training tokens again
        operations += 2 * parameters * sum(max(arm.tokens for arm in cell.arms.values()) for cell in all_cells if cell.arms)
    evaluated = sum(h.tokens + 4 * study.evaluation.ce_tokens for h in study.held_out.values()) * len(arms)
    operations += 2 * parameters * evaluated
    if study.positions is not None:  # three readings of every hook point, and one with each architecture's SAE in place
        passes = 3 + len({group.architecture for group in study.saes.arms})
        operations += 2 * parameters * passes * study.positions.tokens * len(study.hook_points)
    if study.matching is not None:
        choices = [matching.declared_choice(study, point) for point in study.hook_points]
        widths = [[d_sae_of(sae.cell.expansion, d_model) for sae in (pair.a, pair.b)] for choice in choices for pair in choice.pairs]
        operations += sum(MATCH * d_model * here * there for here, there in widths)
        left_out = sum(sum(choice.possible.values()) for choice in choices) - len(widths)
        if left_out > 0:
            notes.append(f"{counted(len(widths), 'pair')} of SAEs are matched and {left_out:,} left out; matching.pairs_per_factor is the limit")
    if study.concepts is not None:  # one SAE of every cell reads the sets once
        tokens_read = sum(min(study.held_out[name].tokens, study.concepts.tokens) for name in study.concepts.read_sets(study.held_out))
        operations += sum(2 * d_model * d_sae_of(cell.expansion, d_model) * tokens_read for cell in all_cells if cell.arms)
    seconds = math.ceil(operations / FLOP_PER_SECOND + 0.5 * (len(all_cells) * 2 + 10))
    if study.matching is not None and study.matching.umap:
        layout = _layout(study, all_cells, d_model)
        notes.append(f"matching.umap takes about {layout} s of one core, {UMAP_COMPILES} of them to compile UMAP, however few the latents")
        seconds += layout
    settings = study.activations
    corpora = [declared.tokens for declared in study.held_out.values()] + len(study.mixes) * [settings.tokens] * settings.cache
    shards = {"shard_tokens": settings.shard_tokens, "context_length": settings.context_length}
    cached = len(study.hook_points) * sum(estimate_bytes(size, d_model, settings.storage_dtype, **shards) for size in corpora)
    free = shutil.disk_usage(ctx.home.existing_root).free
    if cached + weights > free:
        notes.append(
            f"the study needs about {(cached + weights) / 1e9:.1f} GB and {ctx.home.root} has {free / 1e9:.1f} GB free; set activations.cache: false or point SAE_HOME elsewhere"
        )
    return figures | {"bytes": cached + weights, "seconds": seconds, "notes": notes}


def check_budget(ctx: StudyContext) -> None:
    """Refuse a study that cannot be kept within the disk budget, before anything starts.

    What it still has to write is what :func:`estimate` counts, activations and weights, less those that lie in this home and stay.

    Raises:
        StorageError: what it lacks is expected to take more than may still be written.
    """
    free = room(ctx.store.root, ctx.store.shared)
    if free is None:
        return
    may_go = {folder for _, folder in idle(ctx.store.root, ctx.store.shared)}  # counted in ``free`` already
    wanted = estimate(ctx)["bytes"] - sum(
        file["bytes"]
        for _, artifact in reachable.artifacts(ctx)
        if artifact.stage in (activations.STAGE, saes.STAGE) and artifact.folder.exists() and artifact.folder not in may_go
        for file in artifact.manifest["files"].values()
    )
    if wanted > max(0, free):
        raise StorageError(
            f"SAE_DISK_BUDGET={os.environ['SAE_DISK_BUDGET']}: expected room for the study '{ctx.study.name}', found {max(0, free) / 1e9:.3g} GB left of it "
            f"in {ctx.store.root} where about {wanted / 1e9:.3g} GB are needed; raise it, remove what no study needs with `sae-pipeline gc STUDY…`, "
            "set activations.cache to false, or shrink the study"
        )


def _across_layers(study: Study, all_cells: list[Cell]) -> list[str]:
    """That the cell to be matched across layers is at one of several, as it is by default where arms are restricted to layers or widths."""
    layers: dict[tuple[str, float], set[int]] = {}
    for cell in all_cells:
        if cell.arms:
            layers.setdefault((cell.mix, float(cell.expansion)), set()).add(cell.point.layer)
    everywhere = sorted(set().union(*layers.values()))
    mix, expansion = study.matched_across_layers
    here = sorted(layers.get((mix, float(expansion)), set()))
    if study.matching is None or len(everywhere) < 2 or len(here) > 1:
        return []
    found = f"at layer {here[0]} alone" if here else "at no layer"
    others = [f"{mix} at {expansion:g}" for (mix, expansion), there in layers.items() if len(there) > 1]
    advice = f"let matching.layers name one that is at several: {', '.join(others[:MOST_NAMED])}" if others else "train one cell at several"
    return [
        f"nothing is matched across layers: the SAEs of {mix} at expansion factor {expansion:g}, which matching.layers names, are {found}, "
        f"those of the study at {', '.join(map(str, everywhere))}; {advice}"
    ]


def _layout(study: Study, all_cells: list[Cell], d_model: int) -> int:
    """Seconds to lay out the directions of the SAEs matched across layers, if all of their latents are alive."""
    from sae_pipeline.matching.study_tables.directions_map import MOST_LATENTS

    mix, expansion = study.matched_across_layers
    saes = sum(len(cell.arms) for cell in all_cells if (cell.mix, float(cell.expansion)) == (mix, float(expansion)))
    return math.ceil(UMAP_COMPILES + UMAP_LATENT * saes * min(d_sae_of(expansion, d_model), MOST_LATENTS))


def _groups(ctx: StudyContext, all_cells: list[Cell], d_model: int) -> list[str]:
    """How many arms train side by side and what they are expected to need; the largest cell is stated. Nothing on Ray: other machines train."""
    if Execution.from_environment().executor == "ray":
        return []
    device = ctx.compute.devices()[0]
    budget = memory_budget(device, ctx.study.compute.memory_gib)
    threads = (ctx.study.compute.threads or os.cpu_count() or 1) if device == "cpu" else 1
    split = [groups for cell in all_cells if (groups := memory_groups(cell.arms, d_model, d_sae_of(cell.expansion, d_model), budget, threads))]
    if not split:
        return []
    most = max(max(group.bytes for group in groups) for groups in split)
    passes = sum(map(len, split))
    return [
        f"arms train side by side in {counted(passes, 'group')} in {counted(len(split), 'cell')}; the largest needs about {most / 2**30:.2g} GiB "
        "(compute.memory_gib limits it; otherwise half of what is free now)"
    ]


def _shape(ctx: StudyContext) -> tuple[int, int] | None:
    """(d_model, parameters) of the subject, as far as it is known without loading it."""
    if ctx.study.subject.model == "bundled":
        shape = ctx.study.subject.bundled
        return shape.d_model, 12 * shape.n_layers * shape.d_model**2 + shape.vocab_size * shape.d_model
    recorded = subject.find(ctx)
    if recorded is None:
        return None
    d_model, n_layers = recorded.record["d_model"], recorded.record["n_layers"]
    return d_model, 12 * n_layers * d_model**2 + recorded.record["vocab_size"] * d_model

"""Training many SAEs on one pass over the activations.

All arms that share a data order are trained side by side: a batch is read once for every batch size and given to each
arm that wants it. Every arm has its own budget, schedule and files, and goes on from its own checkpoint.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.progress import track
from sae_pipeline.saes.architectures import Workspace
from sae_pipeline.saes.arm import Arm
from sae_pipeline.saes.initialisation import SAMPLE_SIZE, Activations, input_statistics
from sae_pipeline.saes.run import Run, check_arm

CHECKPOINT_SECONDS = 20.0
"""Longest work that a killed process loses, however slow a step is."""


@torch.no_grad()
def train_arms(
    folders: dict[str, Path],
    arms: dict[str, Arm],
    *,
    stream: Activations,
    d_model: int,
    d_sae: int,
    checkpoint_every: int,
    device: str = "cpu",
    label: str,
    metadata: dict[str, Any],
) -> dict[str, dict[str, Any]]:
    """Train every arm and write ``cfg.json``, ``sae_weights.safetensors`` and ``training.json`` into its folder.

    An arm's bits depend on the arm, the stream, the device and the thread count; not on its company and not on
    interruptions.

    Args:
        folders: an existing folder per arm, by arm label; may hold the checkpoint of a killed process.
        arms: configurations by label, all with the data seed that ``stream`` was made with.
        stream: raw activations in the order of the data seed; ends of batches and interruptions leave no trace in it.
        checkpoint_every: steps between checkpoints; also written after twenty seconds without one.
        label: what is trained, for messages and progress, such as ``PRE L01 x08``.
        metadata: JSON-like provenance for every ``cfg.json`` (``model_name`` and ``hook_name`` among it).

    Returns:
        Per label: final_loss (normalised squared error of the last batch), final_l0 (with the inference rule, on a sample
        of the training activations), steps, tokens, dead_share, seconds, tokens_per_second, normalisation_scale
        (input units to normalised units) and input_variance (normalised units).

    Raises:
        StudyError: an arm does not fit the width.
        TrainingError: a loss is not finite or exploded; names the arm and the step.
    """
    for name, arm in arms.items():
        check_arm(arm, d_sae, f"{label} {name}")
    raw = stream.sample(SAMPLE_SIZE)
    statistics = {normalise: input_statistics(raw, normalise=normalise) for normalise in {arm.normalise for arm in arms.values()}}
    workspace = Workspace()
    runs = {
        name: Run(
            name,
            folders[name],
            arm,
            d_model=d_model,
            d_sae=d_sae,
            statistics=statistics[arm.normalise],
            workspace=workspace,
            device=device,
            label=label,
            metadata=metadata,
        )
        for name, arm in arms.items()
    }
    summaries = {name: summary for name, run in runs.items() if (summary := run.finished_summary) is not None}
    waiting = [run for name, run in runs.items() if name not in summaries]
    for run in waiting:
        run.restore()
    total = sum(run.steps * run.arm.batch_size for run in waiting)
    done = sum(run.step * run.arm.batch_size for run in waiting)
    with track(f"training {label}", total, "tokens", done=done) as progress:
        for batch_size in sorted({run.arm.batch_size for run in waiting}):
            group = [run for run in waiting if run.arm.batch_size == batch_size]
            with closing(_shared_batches(stream, group, batch_size, device)) as batches:
                for step, batch in batches:
                    wanting = [run for run in group if run.step == step < run.steps]
                    scaled = {normalise: batch * statistics[normalise].scale for normalise in {run.arm.normalise for run in wanting}}
                    for run in wanting:
                        run.take_step(scaled[run.arm.normalise])
                        progress.advance(batch_size, loss=run.parts["mse"], l0=run.parts["l0"])
                        if run.step == run.steps:
                            summaries[run.name] = run.finish()
                        elif run.step % checkpoint_every == 0 or time.monotonic() - run.saved_at > CHECKPOINT_SECONDS:
                            run.save()
    return {name: summaries[name] for name in arms}


def _shared_batches(stream: Activations, runs: list[Run], batch_size: int, device: str) -> Generator[tuple[int, Tensor], None, None]:
    """Every step that a run has still to take and its batch, each once and in order; the run takes it before the next is asked for."""
    # Runs that a killed process left behind catch up first; then all share every batch.
    while unfinished := [run for run in runs if run.step < run.steps]:
        first, end = _next_steps(unfinished)
        with closing(stream.batches(first * batch_size, batch_size, end - first, device)) as batches:
            yield from enumerate(batches, first)


def _next_steps(runs: list[Run]) -> tuple[int, int]:
    """The longest row of steps [first, end), from the run that is furthest behind, in which every step is wanted by a run."""
    first = end = min(run.step for run in runs)
    for run in sorted(runs, key=lambda run: run.step):
        if run.step <= end:
            end = max(end, run.steps)
    return first, end

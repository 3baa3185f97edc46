"""Training many SAEs on one pass over the activations.

All arms that share a data order are trained side by side, as many as fit in memory: a batch is read once for every batch
size and given to each arm that wants it. Every arm has its own budget, schedule and files, and goes on from its own
checkpoint; arms of one trunk begin with a state that a longer budget leaves at their branch step.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from sae_pipeline.progress import track
from sae_pipeline.saes.arm import Arm
from sae_pipeline.saes.checkpoint import checkpointed_steps
from sae_pipeline.saes.cohort import Cohort, Entrant
from sae_pipeline.saes.divergence import DivergedArms
from sae_pipeline.saes.finishing import finished_summary
from sae_pipeline.saes.initialisation import SAMPLE_SIZE, Activations, input_statistics
from sae_pipeline.saes.lanes import Lanes, alone
from sae_pipeline.saes.memory import MemoryGroup, memory_budget, memory_groups
from sae_pipeline.saes.run import Run, check_arm, run_identity
from sae_pipeline.saes.schedule import branch_step, steps_of, steps_with_trunks, trunk_leaders

logger = logging.getLogger(__name__)


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
    monitor_every: int = 100,
    memory_bytes: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Train every arm and write ``cfg.json``, ``sae_weights.safetensors``, ``monitoring.jsonl`` and ``training.json`` into its folder.

    An arm's bits depend on the arm, the stream and the device; not on its company, on the number of threads, on the memory,
    or on interruptions.

    Args:
        folders: an existing folder per arm, by arm label; may hold the checkpoint of a killed process.
        arms: configurations by label, all with the data seed that ``stream`` was made with.
        stream: raw activations in the order of the data seed; ends of batches and interruptions leave no trace in it.
        checkpoint_every: steps between checkpoints; also written after some twenty seconds without one.
        label: what is trained, for messages and progress, such as ``PRE L01 x08``.
        metadata: JSON-like provenance for every ``cfg.json`` (``model_name`` and ``hook_name`` among it).
        monitor_every: steps between rows of the training table.
        memory_bytes: memory for arms side by side; more arms are trained in groups one after the other. None: half of what is
            free.

    Returns:
        Per label: final_loss (normalised squared error of the last batch), final_l0 (with the inference rule, on held-out
        activations other than those of the calibration), l0_target_error (relative), steps, trunk_steps (of them taken by
        a longer budget of the trunk), tokens, dead_share, learning_rate, seconds (with those of the trunk),
        tokens_per_second, normalisation_scale (input units to normalised units), input_variance (normalised units) and
        environments (device, kernels, bfloat16 and torch from which step on).

    Raises:
        StudyError: an arm does not fit the width.
        DivergedArms: losses were not finite or errors exploded; raised when all other arms have finished, with their summaries.
    """
    for name, arm in arms.items():
        check_arm(arm, d_sae, f"{label} {name}")
    raw = stream.sample(SAMPLE_SIZE)
    units = {arm.normalise for arm in arms.values()}
    statistics = alone(lambda: {normalise: input_statistics(raw, normalise=normalise) for normalise in units})
    identities = {name: run_identity(arm, d_model, d_sae, statistics[arm.normalise]) for name, arm in arms.items()}
    finished = {name: finished_summary(folders[name], identity) for name, identity in identities.items()}
    waiting = {name: arm for name, arm in arms.items() if finished[name] is None}
    entrants = _entrants(waiting, folders, identities, label)
    threads = torch.get_num_threads() if device == "cpu" else 1
    groups = memory_groups(waiting, d_model, d_sae, memory_budget(device) if memory_bytes is None else memory_bytes, threads)
    _announce(label, waiting, groups)
    calibration, measurement = stream.held_out(0), stream.held_out(1)
    done = sum(entrant.planned_step * entrant.arm.batch_size for entrant in entrants.values() if entrant.leader is None)
    total = done + sum((entrant.steps - entrant.planned_step) * entrant.arm.batch_size for entrant in entrants.values())
    scales = {normalise: found.scale for normalise, found in statistics.items()}

    def open_run(entrant: Entrant) -> Run:
        return Run(
            entrant.name,
            entrant.folder,
            entrant.arm,
            d_model=d_model,
            d_sae=d_sae,
            statistics=statistics[entrant.arm.normalise],
            device=device,
            label=label,
            metadata=metadata,
            monitor_every=monitor_every,
        )

    with track(f"training {label}", total, "tokens", done=done) as progress:
        for group in groups:
            members = [entrants[name] for name in group.labels]
            cohort = Cohort(members, entrants, open_run, scales, (calibration, measurement), Lanes(threads), progress)
            cohort.train(stream, device, checkpoint_every)
    summaries = {name: found for name in arms if (found := finished[name] or entrants[name].summary) is not None}
    diverged = [entrant.divergence for entrant in entrants.values() if entrant.divergence is not None]
    if diverged:
        raise DivergedArms(label, diverged, summaries)
    return summaries


def _entrants(arms: dict[str, Arm], folders: dict[str, Path], identities: dict[str, str], label: str) -> dict[str, Entrant]:
    """The arms with the steps that they begin with: behind their checkpoints, or behind their trunk."""
    taken = {name: checkpointed_steps(folders[name], identities[name]) for name in arms}
    leaders = trunk_leaders(arms, taken)
    return {
        name: Entrant(
            name,
            f"{label} {name}",
            folders[name],
            arm,
            identities[name],
            steps=steps_of(arm.tokens, arm.batch_size),
            planned_step=branch_step(arm) if name in leaders else taken[name],
            leader=leaders.get(name),
        )
        for name, arm in arms.items()
    }


def _announce(label: str, arms: dict[str, Arm], groups: list[MemoryGroup]) -> None:
    """Say how the arms are grouped and what their trunks save, where there is something to say."""
    if len(groups) > 1:
        sizes = ", ".join(f"{len(group.labels)} ({group.bytes / 2**30:.2f} GiB)" for group in groups)
        logger.info("%s: %d arms are trained in %d groups, one after the other, by batch size and memory: %s", label, len(arms), len(groups), sizes)
    steps = steps_with_trunks(arms.values())
    if steps.taken < steps.separate:
        logger.info("%s: budgets share trunks, so that %d steps are taken instead of %d", label, steps.taken, steps.separate)

"""One SAE in training: its architecture, optimiser, schedule, monitor and checkpoint.

The trainer decides which batch comes next; a run only takes steps, so it gives the same bits alone and beside others.
"""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.errors import StudyError
from sae_pipeline.saes.architectures import ARCHITECTURES, Workspace
from sae_pipeline.saes.arm import WITH_AUXK, Arm, check_division
from sae_pipeline.saes.checkpoint import NAME as CHECKPOINT
from sae_pipeline.saes.checkpoint import read_checkpoint, write_checkpoint
from sae_pipeline.saes.divergence import EXPLODED, Divergence
from sae_pipeline.saes.environment import environment, in_words
from sae_pipeline.saes.initialisation import InputStatistics
from sae_pipeline.saes.kernels import UnitRowAdam
from sae_pipeline.saes.monitoring import Monitor
from sae_pipeline.saes.schedule import Schedule
from sae_pipeline.saes.warm_start import warm_start
from sae_pipeline.store import digest

CHECKPOINT_SECONDS = 20.0
"""Longest work that a killed process loses, however slow a step is; more only where writing takes long."""

SECONDS_PER_SECOND_OF_WRITING = 20.0
"""Training between two such checkpoints for each second that one takes: they cost 5 % at most."""

logger = logging.getLogger(__name__)


def check_arm(arm: Arm, d_sae: int, label: str) -> None:
    """Refuse an arm that cannot be trained at this width.

    Raises:
        StudyError: unknown architecture, a sparsity above the number of latents, or a batch that cannot be divided.
    """
    if arm.architecture not in ARCHITECTURES:
        raise StudyError(f"{label}: expected one of the architectures {', '.join(ARCHITECTURES)}, found {arm.architecture}; change saes.arms")
    name = "k" if arm.k is not None else "target_l0"
    if arm.sparsity > d_sae:
        raise StudyError(
            f"{label}: {name} {arm.sparsity:g} > d_sae {d_sae}, but no more latents can be active than there are; "
            f"lower {name}, raise the expansion, or restrict the arm with only.expansions"
        )
    check_division(arm, label)


def run_identity(arm: Arm, d_model: int, d_sae: int, statistics: InputStatistics) -> str:
    """Hash of the configuration that a checkpoint or a finished training record must have to be used."""
    return digest("training run", arm.identity(), d_model, d_sae, statistics.scale, statistics.variance)


class Run:
    """An arm on its way from step 0 to its budget."""

    def __init__(
        self,
        name: str,
        folder: Path,
        arm: Arm,
        *,
        d_model: int,
        d_sae: int,
        statistics: InputStatistics,
        device: str,
        label: str,
        metadata: dict[str, Any],
        monitor_every: int = 100,
    ) -> None:
        self.name, self.folder, self.arm, self.metadata = name, folder, arm, metadata
        self.label = f"{label} {name}"
        self.schedule = Schedule.of(arm, d_sae)
        self.steps = self.schedule.steps
        self.step, self.trunk_steps, self.seconds = 0, 0, 0.0
        self.parts: dict[str, float] = {}
        self.monitor = Monitor(self.label, monitor_every, has_auxk=arm.architecture in WITH_AUXK)
        self.environments = [{"from_step": 0, **environment(device)}]
        self.saved_at, self.saving_seconds = time.monotonic(), 0.0
        self.sae = ARCHITECTURES[arm.architecture](arm, d_model, d_sae, statistics, Workspace(), device)
        warm_start(self.sae, self.label)
        self.optimiser = UnitRowAdam(self.sae.parameters, self.sae.gradients, self.sae.W_dec)
        self.identity = run_identity(arm, d_model, d_sae, statistics)

    def take_step(self, x: Tensor, workspace: Workspace) -> Divergence | None:
        """Train on one batch of normalised activations (batch_size, d_model), in memory that no other arm uses meanwhile.

        Returns:
            A record when the loss is not finite or the squared error exploded; the parameters are then as they were before the step, and no
            further step can be taken.
        """
        started = time.perf_counter()
        self.sae.workspace = workspace
        self.parts = self._loss_and_gradients(x)
        loss, error = self.parts["loss"], self.parts["mse"]
        # Only the error has a scale: a tilted loss of one massive activation is large in a healthy run.
        if not (math.isfinite(loss) and error < EXPLODED):
            return self.divergence(self.step + 1, error if math.isfinite(loss) else loss)
        rate = self.schedule.learning_rate(self.step)
        self.optimiser.step(rate)
        self.sae.adjust(self.parts, self.schedule.fallen(self.step))
        self.step += 1
        self.seconds += time.perf_counter() - started
        if self.monitor.due(self.step, self.steps):
            self._record(rate)
        return None

    def _loss_and_gradients(self, x: Tensor) -> dict[str, float]:
        """Mean loss parts and mean gradient of the batch's equal parts, so that only one part's activations exist at a time."""
        if self.arm.accumulate == 1:
            return self.sae.loss_and_gradients(x)
        found = []
        total = self.sae.workspace.get("accumulated", self.sae.gradients, len(self.sae.gradients)).zero_()
        for part in x.chunk(self.arm.accumulate):
            found.append(self.sae.loss_and_gradients(part))
            total.add_(self.sae.gradients)
        torch.div(total, len(found), out=self.sae.gradients)
        return {name: sum(parts[name] for parts in found) / len(found) for name in found[0]}

    def divergence(self, step: int, loss: float) -> Divergence:
        """The record of a step, counted from 1, that cannot be accepted."""
        return Divergence(self.name, step, self.steps, loss, self.schedule.base_rate)

    def _record(self, rate: float) -> None:
        """Add a row for the step just taken."""
        row = {
            "step": self.step,
            "tokens": self.step * self.arm.batch_size,
            **self.parts,
            "explained_variance": 1 - self.parts["mse"],
            "dead_share": self.sae.dead.double().mean().item(),
            "learning_rate": rate,
        }
        self.monitor.add(row, self.seconds, self.sae.parameters.device)

    # ------------------------------------------------------------------ resuming

    @property
    def wants_checkpoint(self) -> bool:
        """Whether the last one is so long ago that a kill would cost more than the writing."""
        return time.monotonic() - self.saved_at > max(CHECKPOINT_SECONDS, SECONDS_PER_SECOND_OF_WRITING * self.saving_seconds)

    def save(self) -> None:
        """Write a checkpoint from which :meth:`restore` goes on with the same bits."""
        started = time.monotonic()
        self._write(self.folder, self.identity, self.trunk_steps)
        self.saved_at = time.monotonic()
        self.saving_seconds = self.saved_at - started

    def branch_off(self, folder: Path, identity: str, steps: int) -> None:
        """Write this state as the checkpoint of a shorter budget of the same trunk, which has ``steps`` in all."""
        if self.monitor.due(self.step, steps):
            self._record(self.schedule.learning_rate(self.step - 1))
            self._write(folder, identity, self.step)
            self.monitor.rows.pop()  # the last step of the other budget only
        else:
            self._write(folder, identity, self.step)

    def _write(self, folder: Path, identity: str, trunk_steps: int) -> None:
        table, columns = self.monitor.state()
        tensors = {
            "parameters": self.sae.parameters,
            "tokens_since_fired": self.sae.tokens_since_fired,
            "monitor": table,
            **{f"adam.{name}": value for name, value in self.optimiser.state.items()},
            **{f"extra.{name}": value for name, value in self.sae.extra_state().items()},
        }
        # The position in the stream is step * batch_size and the schedule is a function of the step.
        progress = {"step": self.step, "trunk_steps": trunk_steps, "seconds": self.seconds, "columns": columns, "environments": self.environments}
        write_checkpoint(folder, tensors, progress, identity)

    def restore(self) -> None:
        """Go on from the folder's checkpoint, if there is an intact one.

        One made with another kind of device, other kernels or torch is used too, because starting over can cost days;
        but the bits are then those of no single environment, so it is said and kept in the summary's ``environments``.
        """
        if (found := read_checkpoint(self.folder, self.identity)) is None:
            return
        tensors, progress = found
        self.sae.parameters.copy_(tensors["parameters"])
        self.sae.tokens_since_fired.copy_(tensors["tokens_since_fired"])
        self.sae.load_extra_state({name.removeprefix("extra."): t for name, t in tensors.items() if name.startswith("extra.")})
        device = self.sae.parameters.device
        self.optimiser.load({name.removeprefix("adam."): t for name, t in tensors.items() if name.startswith("adam.")})
        self.monitor.load_state(tensors["monitor"], progress["columns"])
        self.step, self.trunk_steps, self.seconds = progress["step"], progress["trunk_steps"], progress["seconds"]
        here, self.environments = environment(device), progress["environments"]
        before = {name: value for name, value in self.environments[-1].items() if name != "from_step"}
        if before != here:
            logger.warning(
                "%s: expected to go on from step %d on %s, found %s; the bits will differ from those of an uninterrupted run (remove %s to start over)",
                self.label,
                self.step,
                in_words(before),
                in_words(here),
                self.folder / CHECKPOINT,
            )
            self.environments.append({"from_step": self.step, **here})

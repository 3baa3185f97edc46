"""One SAE in training: its architecture, optimiser, schedule, history and files.

The trainer decides which batch comes next; a run only takes steps, so it gives the same bits alone and beside others.
"""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.errors import StudyError, TrainingError
from sae_pipeline.saes.architectures import ARCHITECTURES, Workspace
from sae_pipeline.saes.architectures.base import CHUNK
from sae_pipeline.saes.arm import Arm
from sae_pipeline.saes.checkpoint import NAME as CHECKPOINT
from sae_pipeline.saes.checkpoint import read_checkpoint, write_checkpoint
from sae_pipeline.saes.initialisation import InputStatistics
from sae_pipeline.store import digest, flush, write_atomically

TRAINING_FILE = "training.json"

HISTORY_LENGTH = 100
"""Steps recorded per run, evenly spaced, whatever its length."""

EXPLODED = 1e3
"""Loss at which a run is given up; predicting the mean has an error of 1 in these units."""

DEAD_SHARE_WARNING = 0.25

logger = logging.getLogger(__name__)


def check_arm(arm: Arm, d_sae: int, label: str) -> None:
    """Refuse an arm that cannot be trained at this width.

    Raises:
        StudyError: unknown architecture, or a sparsity above the number of latents.
    """
    if arm.architecture not in ARCHITECTURES:
        raise StudyError(f"{label}: expected one of the architectures {', '.join(ARCHITECTURES)}, found {arm.architecture}; change saes.arms")
    name = "k" if arm.k is not None else "target_l0"
    if arm.sparsity > d_sae:
        raise StudyError(
            f"{label}: {name} {arm.sparsity:g} > d_sae {d_sae}, but no more latents can be active than there are; "
            f"lower {name}, raise the expansion, or restrict the arm with only.expansions"
        )


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
        workspace: Workspace,
        device: str,
        label: str,
        metadata: dict[str, Any],
    ) -> None:
        self.name, self.folder, self.arm, self.metadata = name, folder, arm, metadata
        self.label = f"{label} {name}"
        self.steps = max(1, arm.tokens // arm.batch_size)
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.parts: dict[str, float] = {}
        self.saved_at = time.monotonic()
        self.base_rate = arm.learning_rate or 2e-4 / math.sqrt(d_sae / 2**14)
        self.sae = ARCHITECTURES[arm.architecture](arm, d_model, d_sae, statistics, workspace, device)
        # Epsilon as in Gao et al. 2024: gradients of a normalised loss are small against the usual 1e-8.
        self.optimiser = torch.optim.Adam([self.sae.parameters], lr=self.base_rate, eps=6.25e-10, fused=True)
        self.sae.parameters.grad = self.sae.gradients
        self.identity = digest("training run", arm.identity(), d_model, d_sae, statistics.scale, statistics.variance)

    @property
    def finished_summary(self) -> dict[str, Any] | None:
        """The summary, if an earlier process finished this run and died before the artifact was published."""
        try:
            record = json.loads((self.folder / TRAINING_FILE).read_text())
            return record["summary"] if record["identity"] == self.identity else None
        except (OSError, ValueError, KeyError):
            return None

    def learning_rate(self, step: int) -> float:
        """Linear warm-up, constant, linear decay; ``step`` counts from 0 and no step has a rate of 0."""
        warm_up, decay = round(self.arm.warmup_share * self.steps), round(self.arm.decay_share * self.steps)
        rising = (step + 1) / warm_up if warm_up else 1.0
        falling = (self.steps - step) / decay if decay else 1.0
        return self.base_rate * min(1.0, rising, falling)

    def take_step(self, x: Tensor) -> None:
        """Train on one batch of normalised activations (batch_size, d_model).

        Raises:
            TrainingError: the loss is not finite or exploded.
        """
        started = time.perf_counter()
        rate = self.learning_rate(self.step)
        self.parts = self.sae.loss_and_gradients(x)
        if not self.parts["loss"] < EXPLODED:
            raise TrainingError(
                f"{self.label}: expected a finite loss (1 is the error of the mean), found {self.parts['loss']:g} at step {self.step + 1} "
                f"of {self.steps}; lower learning_rate (now {self.base_rate:g}) or lengthen warmup_share"
            )
        self.sae.project_decoder_gradient()
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()
        self.sae.normalise_decoder()
        self.sae.adjust(self.parts)
        self.step += 1
        self.seconds += time.perf_counter() - started
        if self.step % max(1, self.steps // HISTORY_LENGTH) == 0 or self.step == self.steps:
            self.history.append(self._record(rate))

    def _record(self, rate: float) -> dict[str, float]:
        return {
            "step": self.step,
            "tokens": self.step * self.arm.batch_size,
            **self.parts,
            "explained_variance": 1 - self.parts["mse"],
            "dead_share": self.dead_share,
            "learning_rate": rate,
        }

    @property
    def dead_share(self) -> float:
        """Share of latents silent for the arm's dead window."""
        return self.sae.dead.double().mean().item()

    # ------------------------------------------------------------------ resuming

    def save(self) -> None:
        """Write a checkpoint from which :meth:`restore` goes on with the same bits."""
        adam = self.optimiser.state[self.sae.parameters]
        tensors = {
            "parameters": self.sae.parameters,
            "tokens_since_fired": self.sae.tokens_since_fired,
            **{f"adam.{name}": value for name, value in adam.items()},
            **{f"extra.{name}": value for name, value in self.sae.extra_state().items()},
        }
        # The position in the stream is step * batch_size and the schedule is a function of the step.
        write_checkpoint(self.folder, tensors, {"step": self.step, "seconds": self.seconds, "history": self.history}, self.identity)
        self.saved_at = time.monotonic()

    def restore(self) -> None:
        """Go on from the folder's checkpoint, if there is an intact one."""
        if (found := read_checkpoint(self.folder, self.identity)) is None:
            return
        tensors, progress = found
        self.sae.parameters.copy_(tensors["parameters"])
        self.sae.tokens_since_fired.copy_(tensors["tokens_since_fired"])
        self.sae.load_extra_state({name.removeprefix("extra."): t for name, t in tensors.items() if name.startswith("extra.")})
        device = self.sae.parameters.device
        self.optimiser.state[self.sae.parameters] = {
            name.removeprefix("adam."): t.to(device) for name, t in tensors.items() if name.startswith("adam.")
        }
        self.step, self.seconds, self.history = progress["step"], progress["seconds"], progress["history"]

    # ------------------------------------------------------------------ finishing

    def finish(self) -> dict[str, Any]:
        """Calibrate, write the SAE and its training record, remove the checkpoint; the summary says how it went."""
        started = time.perf_counter()
        self.sae.calibrate()
        tokens, last = self.step * self.arm.batch_size, self.history[-1]
        statistics = self.sae.statistics
        provenance = {**self.arm.identity(), "learning_rate": self.base_rate, "normalisation_scale": statistics.scale, "training_tokens": tokens}
        exported = self.sae.export({**self.metadata, **provenance})
        exported.save(self.folder)
        for file in self.folder.glob("[!.]*"):
            flush(file)
        raw = statistics.sample.div(statistics.scale).split(CHUNK)
        final_l0 = sum(int((exported.encode(rows) > 0).sum()) for rows in raw) / len(statistics.sample)
        self.seconds += time.perf_counter() - started
        summary = {
            "final_loss": last["mse"],
            "final_l0": final_l0,
            "steps": self.step,
            "tokens": tokens,
            "dead_share": last["dead_share"],
            "learning_rate": self.base_rate,
            "seconds": round(self.seconds, 3),
            "tokens_per_second": round(tokens / self.seconds),
            "normalisation_scale": statistics.scale,
            "input_variance": statistics.variance,
        }
        if last["dead_share"] > DEAD_SHARE_WARNING:
            logger.warning("%s: %.0f %% of the latents are dead at the end of training", self.label, 100 * last["dead_share"])
        # Written last: its presence says that the other files are complete.
        record = {"identity": self.identity, "summary": summary, "history": self.history}
        write_atomically(self.folder / TRAINING_FILE, json.dumps(record, indent=1).encode())
        (self.folder / CHECKPOINT).unlink(missing_ok=True)
        return summary

"""This project's trainer. Imports with torch, NumPy and safetensors alone, so that it runs on any bare machine.

A step is the one that the trainer takes with each batch of the stream (``Run.take_step``), its record of the loss
included; ``steers`` of the set-up says whether the L0 is held at its target. Several arms together are the trainer itself, on a stream that hands out shuffled rows from memory.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from protocol import Actions, serve
from torch import Tensor
from training_loop import save_initial_state, training_actions

from sae_pipeline.saes.arm import WITH_K, Arm
from sae_pipeline.saes.initialisation import SAMPLE_SIZE, input_statistics
from sae_pipeline.saes.lanes import Lanes
from sae_pipeline.saes.run import Run
from sae_pipeline.saes.trainer import train_arms


class Ours:
    """One arm in training."""

    def __init__(self, setup: dict[str, Any]) -> None:
        rows = torch.from_numpy(np.load(setup["activations"], mmap_mode="r")[:SAMPLE_SIZE].copy())
        folder = Path(setup["scratch"]) / setup["name"]
        folder.mkdir(parents=True, exist_ok=True)
        self.run = Run(
            setup["name"], folder, arm(setup), d_model=setup["d_in"], d_sae=setup["d_sae"], statistics=input_statistics(rows, normalise=False),
            device=setup["device"], label="benchmark", metadata={},
        )  # fmt: skip
        self.lanes = Lanes(torch.get_num_threads())
        if not setup["steers"] and hasattr(self.run.sae, "controller"):
            # The loss alone, as the other tools minimise it: no sparsity that is held by moving coefficient and thresholds.
            self.run.sae.adjust = lambda parts, fallen: None
        if setup["writes_initial"]:
            save_initial_state(setup["initial"], self.initial_state())

    def initial_state(self) -> dict[str, Tensor]:
        """What the other tools begin with; see ``training_loop``."""
        sae = self.run.sae
        controller = getattr(sae, "controller", None)
        extra = {} if controller is None else {"coefficient": torch.tensor(controller.coefficient)}
        return sae.views(sae.parameters) | extra

    @torch.no_grad()
    def step(self, x: Tensor) -> None:
        """One step of the trainer."""
        self.lanes.each(lambda run, workspace: run.take_step(x, workspace), [self.run])

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> tuple[float, float]:
        """Through the training step without its update; counters that it advances are put back."""
        sae = self.run.sae
        silent = sae.tokens_since_fired.clone()
        parts = sae.loss_and_gradients(x)
        sae.tokens_since_fired.copy_(silent)
        return parts["mse"] * sae.statistics.variance, parts["l0"]

    def decoder(self) -> Tensor:
        """See Trainee."""
        return self.run.sae.W_dec


def arm(setup: dict[str, Any], seed: int = 0, tokens: int | None = None) -> Arm:
    """The set-up as an arm: inputs as they come, b_dec at their mean, the schedule in steps."""
    steps, selects = setup["total_steps"], setup["architecture"] in WITH_K
    budget = tokens or steps * setup["batch"]
    return Arm(
        architecture=setup["architecture"],
        k=setup["sparsity"] if selects else None,
        target_l0=None if selects else float(setup["sparsity"]),
        tokens=budget,
        init_seed=setup["seed"] + seed,
        data_seed=0,
        batch_size=setup["batch"],
        learning_rate=setup["lr"],
        warmup_share=setup["warmup_steps"] / steps,
        decay_share=setup["decay_steps"] / steps,
        auxk_coefficient=1 / 32,
        dead_window_share=min(1.0, setup["dead_tokens"] / budget),
        b_dec_init="mean",
        normalise=False,
    )


class MemoryStream:
    """Shuffled rows of a bfloat16 table in memory, widened as the stream of a cache widens them; it times its own use.

    Arms are opened when the first batch has come and finished (calibrated, measured, written) before one more than the last
    is asked for. Time therefore counts from the demand for the second batch to the demand for the last: reading and
    taking steps, nothing else.

    Attributes:
        seconds: between those moments, summed over uses.
        timed: batches between them, summed over uses.
    """

    def __init__(self, rows: Tensor, batch: int) -> None:
        self.rows, self.seconds, self.timed = rows.bfloat16(), 0.0, 0
        self._order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(1))
        self._buffer = torch.empty(batch, rows.shape[1], dtype=torch.bfloat16)

    def sample(self, size: int) -> Tensor:
        """See ``Activations``."""
        return self.rows[:size].float()

    def held_out(self, half: int) -> Tensor:
        """See ``Activations``."""
        return self.rows[half::2][:SAMPLE_SIZE].float()

    def batches(self, start: int, size: int, count: int, device: str) -> Generator[Tensor, None, None]:
        """See ``Activations``."""
        started = 0.0
        for number in range(count):
            if number == 1:
                started = time.perf_counter()
            if number == count - 1 and count > 2:
                self.seconds += time.perf_counter() - started
                self.timed += count - 2
            first = (start + number * size) % (len(self._order) - size + 1)
            torch.index_select(self.rows, 0, self._order[first : first + size], out=self._buffer)
            yield self._buffer.to(device).float()


def arms_actions(setup: dict[str, Any]) -> Actions:
    """Several arms that differ in their initial weights, on one stream or one after the other."""
    rows = torch.from_numpy(np.load(setup["activations"]))
    folder = Path(setup["scratch"]) / "arms"

    def train(count: int, steps: int, together: bool) -> dict[str, Any]:
        """Seconds of all but the first and the last of ``steps`` steps of ``count`` arms, reading included, and tokens of these."""
        arms = {f"arm-{seed}": arm(setup, seed, steps * setup["batch"]) for seed in range(count)}
        stream = MemoryStream(rows, setup["batch"])
        groups = [arms] if together else [{name: each} for name, each in arms.items()]
        for group in groups:
            folders = {name: folder / name for name in group}
            for path in folders.values():
                path.mkdir(parents=True)
            train_arms(
                folders, group, stream=stream, d_model=setup["d_in"], d_sae=setup["d_sae"], checkpoint_every=steps + 1, device=setup["device"],
                label="benchmark", metadata={"model_name": "none", "hook_name": "none"},
            )  # fmt: skip
        shutil.rmtree(folder)
        return {"seconds": stream.seconds, "tokens": stream.timed * (count if together else 1) * setup["batch"]}

    return {"arms": train}


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """The arm, warm; writes the initial state that the other tools begin with."""
    torch.set_num_threads(setup["threads"])
    actions = training_actions(setup, Ours) | (arms_actions(setup) if setup["arms"] else {})
    return {"versions": {"torch": torch.__version__}}, actions


if __name__ == "__main__":
    serve(load)

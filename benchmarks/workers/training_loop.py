"""What every trainer is asked to do, in the same words: so many steps, steps for so long, an evaluation, its dictionary.

Needs torch and numpy alone. Activations lie in memory before anything is timed and are handed out as slices, so that no
tool pays for loading data.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from protocol import MIB, Actions
from torch import Tensor

WARM_SECONDS = 1.5
"""Least time of the steps before those that are timed."""


class Trainee(Protocol):
    """An SAE in one tool's hands."""

    def step(self, x: Tensor) -> None:
        """One training step on (batch, d_in), with all that the tool's own loop does for it."""

    def evaluate(self, x: Tensor) -> tuple[float, float]:
        """Mean squared distance to the reconstruction of (n, d_in), and mean active latents per row, as in training."""

    def decoder(self) -> Tensor:
        """(d_sae, d_in)."""


def training_actions(setup: dict[str, Any], make: Callable[[dict[str, Any]], Trainee]) -> Actions:
    """The actions of a worker that trains what ``make`` makes of the set-up, on the set-up's activations."""
    device, now = torch.device(setup["device"]), dict(setup)
    trainee, rows, held_out, taken = make(now), *_data(now), 0

    def restart(**changes: Any) -> dict[str, Any]:
        """Begin anew with a changed set-up: other activations, another architecture, other settings."""
        nonlocal trainee, rows, held_out, taken
        now.update(changes)
        trainee, rows, held_out, taken = make(now), *_data(now), 0
        return {}

    def advance() -> None:
        nonlocal taken
        batch = now["batch"]
        start = taken % (len(rows) // batch) * batch
        trainee.step(rows[start : start + batch])
        taken += 1

    def train(steps: int) -> dict[str, Any]:
        """Exactly ``steps`` steps."""
        for _ in range(steps):
            advance()
        _wait(device)
        return {"steps": taken}

    def run(seconds: float, least: int) -> dict[str, Any]:
        """Steps for at least ``seconds`` and ``least`` steps, timed as one piece, after some that are not: a virtual machine may have given
        away the memory of what waited for its turn, which costs a tool with short steps as much as one with long ones."""
        begun = time.perf_counter()
        while True:
            advance()
            _wait(device)
            if time.perf_counter() - begun > WARM_SECONDS:
                break
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        first, started, elapsed = taken, time.perf_counter(), 0.0
        while elapsed < seconds or taken - first < least:
            advance()
            if device.type == "cuda" and (taken - first) % least:
                continue  # asking for the time means waiting for the device
            _wait(device)
            elapsed = time.perf_counter() - started
        found = {"seconds": elapsed, "steps": taken - first, "tokens": (taken - first) * now["batch"]}
        return found | ({"device_peak_mib": torch.cuda.max_memory_allocated(device) / MIB} if device.type == "cuda" else {})

    def evaluate() -> dict[str, Any]:
        """Squared error over the held-out rows' variance, and L0."""
        squared, l0 = trainee.evaluate(held_out)
        return {"nmse": squared / now["variance"], "l0": l0, "steps": taken}

    def decoder(path: str) -> dict[str, Any]:
        """Write the dictionary as a NumPy file."""
        np.save(path, trainee.decoder().detach().float().cpu().numpy())
        return {"path": path}

    return {"restart": restart, "train": train, "run": run, "evaluate": evaluate, "decoder": decoder}


def _data(setup: dict[str, Any]) -> tuple[Tensor, Tensor]:
    """Activations to train on and held-out ones, on the device."""
    training, held_out = (torch.from_numpy(np.load(setup[name])).to(setup["device"]) for name in ("activations", "held_out"))
    return training, held_out


def initial_state(setup: dict[str, Any]) -> dict[str, Tensor]:
    """The parameters that all tools begin with: W_enc (d_in, d_sae), b_enc (d_sae,), W_dec (d_sae, d_in) with rows of norm 1,
    b_dec (d_in,), the architecture's further ones, and ``coefficient`` of the sparsity term where there is one.
    """
    with np.load(setup["initial"]) as stored:
        return {name: torch.from_numpy(stored[name]).to(setup["device"]) for name in stored.files}


def strength(setup: dict[str, Any], state: dict[str, Tensor]) -> float:
    """The coefficient of the sparsity term that a tool begins with, as many times as the set-up says; 0 where there is none."""
    return float(state["coefficient"]) * setup["strength"] if "coefficient" in state else 0.0


def save_initial_state(path: str, tensors: dict[str, Tensor]) -> None:
    """Write what :func:`initial_state` reads."""
    partial = Path(f"{path}.partial.npz")
    arrays: dict[str, Any] = {name: value.detach().float().cpu().numpy() for name, value in tensors.items()}
    np.savez(partial, **arrays)
    partial.rename(path)


def copy_into(parameter: Tensor, value: Tensor) -> None:
    """Overwrite a parameter in place, keeping its memory layout."""
    with torch.no_grad():
        if parameter.shape != value.shape:
            raise ValueError(f"expected a parameter of shape {tuple(value.shape)}, found {tuple(parameter.shape)}")
        parameter.copy_(value)


def _wait(device: torch.device) -> None:
    """Until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)

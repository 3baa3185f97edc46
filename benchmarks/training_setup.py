"""What the workers of the training benchmarks are told: the problem, the schedule, the files."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import Any

from training_rows import Row, Written, write_activations
from training_tools import LEARNING_RATE, Tool

BANDWIDTH = 0.1
"""JumpReLU's, in units of a coordinate's root mean square, which is 1 here."""
DEAD_TOKENS = 10_000_000
"""When a latent counts as dead, in every tool: later than anything measured here, so nobody pays for AuxK."""
HELD_OUT = 1_024
"""Rows that errors are read on."""
TOTAL_STEPS = 10**6
"""Length that the schedules are told: the rate is constant throughout."""


def base_setup(row: Row, arguments: argparse.Namespace, folder: Path, written: Written) -> dict[str, Any]:
    """What all workers of a row are told."""
    return asdict(row) | {
        "widths": row.widths, "lr": LEARNING_RATE, "warmup_steps": 0, "decay_steps": 0, "total_steps": TOTAL_STEPS, "dead_tokens": DEAD_TOKENS,
        "bandwidth": BANDWIDTH, "threads": arguments.threads, "device": arguments.device, "seed": 0, "scratch": str(folder),
        "activations": str(written.activations), "held_out": str(written.held_out), "variance": written.variance,
        "initial": str(folder / "initial.npz"), "options": {}, "strength": 1.0, "writes_initial": False, "arms": False, "steers": True,
    }  # fmt: skip


def problem_setup(row: Row, arguments: argparse.Namespace, folder: Path, batches: int) -> dict[str, Any]:
    """Write a row's activations into the folder and return what all workers are told of it."""
    written = write_activations(folder, row.d_in, batches * row.batch, HELD_OUT, n_features=2 * row.d_in, l0=row.sparsity, seed=0)
    return base_setup(row, arguments, folder, written)


def told(name: str, tool: Tool) -> dict[str, Any]:
    """What one tool is told beside that."""
    return {"name": name.replace(", ", "-").replace(" ", "-"), "options": tool.options, "writes_initial": name == "ours"}

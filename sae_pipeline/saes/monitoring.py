"""The training table of an arm: a row every N steps and one for the last step.

Written as ``monitoring.jsonl`` beside the SAE: one JSON object per line, all with the same keys in the same order,
ascending in ``step`` without gaps or repetitions, however often the run was interrupted. The keys:

``step`` (from 1), ``tokens`` (seen so far); the parts of the step's loss as the architecture names them, among them
``loss`` (what is minimised), ``mse`` (squared error over the inputs' variance) and ``l0``; ``explained_variance``
(1 - mse of this batch), ``dead_share``, ``learning_rate``; and of the machine ``seconds`` (of training so far),
``tokens_per_second`` (since the row before), ``resident_bytes`` and ``device_bytes`` (0 on a CPU).
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from pathlib import Path

import torch
from torch import Tensor

from sae_pipeline.store import write_atomically

MONITORING_FILE = "monitoring.jsonl"

MACHINE_COLUMNS = ("seconds", "tokens_per_second", "resident_bytes", "device_bytes")
"""Columns that differ between two runs with the same bits."""

WHOLE_NUMBERS = ("step", "tokens", "resident_bytes", "device_bytes")

DEAD_SHARE_WARNING = 0.25
"""Share of dead latents worth a warning."""

L0_TOLERANCE = 0.02
"""Relative miss of the target L0 beyond which architectures are not compared at matched sparsity; worth a warning."""

logger = logging.getLogger(__name__)


class Monitor:
    """The rows of one arm so far; part of its checkpoint."""

    def __init__(self, label: str, every: int, *, has_auxk: bool = True) -> None:
        self.label, self.every = label, every
        self._advice = "a lower learning_rate, " + "a higher auxk_coefficient " * has_auxk + "or a smaller expansion"
        self.rows: list[dict[str, float]] = []

    def due(self, step: int, steps: int) -> bool:
        """Whether the step just taken, of so many, gets a row."""
        return (step % self.every == 0 or step == steps) and not (self.rows and self.rows[-1]["step"] == step)

    def add(self, row: dict[str, float], seconds: float, device: torch.device) -> None:
        """Append a row, completed by what the machine shows; warns when the share of dead latents passes 25 %."""
        before = self.rows[-1] if self.rows else {"tokens": 0, "seconds": 0.0, "dead_share": 0.0}
        rate = (row["tokens"] - before["tokens"]) / max(seconds - before["seconds"], 1e-9)
        if row["dead_share"] > DEAD_SHARE_WARNING >= before["dead_share"]:
            logger.warning(
                "%s: %.0f %% of the latents are dead at step %d; consider %s",
                self.label,
                100 * row["dead_share"],
                row["step"],
                self._advice,
            )
        self.rows.append({**row, **dict(zip(MACHINE_COLUMNS, (seconds, rate, resident_bytes(), device_bytes(device)), strict=True))})

    def state(self) -> tuple[Tensor, list[str]]:
        """The rows as a float64 table (n_rows, n_columns), exact for whole numbers too, and its columns."""
        columns = list(self.rows[0]) if self.rows else []
        return torch.tensor([[row[name] for name in columns] for row in self.rows], dtype=torch.float64), columns

    def load_state(self, table: Tensor, columns: list[str]) -> None:
        """Continue from what :meth:`state` gave."""
        self.rows = [
            {name: int(value) if name in WHOLE_NUMBERS else value for name, value in zip(columns, values, strict=True)} for values in table.tolist()
        ]

    def write(self, folder: Path) -> None:
        """Write the table; see the module's docstring for its format."""
        write_atomically(folder / MONITORING_FILE, "".join(json.dumps(row) + "\n" for row in self.rows).encode())


def read_monitoring(path: Path) -> list[dict[str, float]]:
    """The rows of a ``monitoring.jsonl``."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def resident_bytes() -> int:
    """Memory of this process at present; where the system does not tell, the most that it has had."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def device_bytes(device: torch.device) -> int:
    """Memory of the device in tensors of this process at present; 0 for the CPU."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    return torch.mps.current_allocated_memory() if device.type == "mps" else 0

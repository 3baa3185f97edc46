"""What tests of training runs look at: weights, the training table, equality to the bit, and a process that is killed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from sae_pipeline.saes.monitoring import MACHINE_COLUMNS, read_monitoring
from sae_pipeline.saes.run import Run


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "sae_weights.safetensors")


def record(folder: Path) -> list[dict[str, float]]:
    """The training table without what differs between equal runs."""
    rows = read_monitoring(folder / "monitoring.jsonl")
    return [{name: value for name, value in row.items() if name not in MACHINE_COLUMNS} for row in rows]


def assert_same_bits(one: Path, two: Path) -> None:
    a, b = weights(one), weights(two)
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name
    assert record(one) == record(two)


class Killed(Exception):
    pass


def interrupt(monkeypatch: pytest.MonkeyPatch, at_step: int, name: str | None = None) -> None:
    """Let every run, or the one of this name, die when it is about to take the step after ``at_step``."""
    original = Run.take_step

    def take_step(self, x, workspace):
        if self.step == at_step and name in (None, self.name):
            raise Killed
        return original(self, x, workspace)

    monkeypatch.setattr(Run, "take_step", take_step)

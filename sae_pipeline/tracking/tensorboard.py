"""TensorBoard: an event folder per SAE."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from sae_pipeline.errors import BadInput
from sae_pipeline.tracking import TrackedRun

DEFAULT_PLACE = "tensorboard"
MARKER = "sae.fingerprint"
"""File that says which SAE a folder's events are of."""


def export(study: str, runs: Iterable[TrackedRun], place: str) -> int:
    """Write ``<place>/<study>/<SAE id>/``.

    Raises:
        BadInput: a folder of that name holds the events of another SAE.
    """
    from torch.utils.tensorboard import SummaryWriter

    new = 0
    for run in runs:
        folder = Path(place) / study / run.name
        marker = folder / MARKER
        if marker.exists() and marker.read_text() == run.fingerprint:
            continue
        if folder.exists():
            raise BadInput(
                f"{folder}: expected no folder, or one with this SAE's events, found another; move it away or choose another place with --to"
            )
        with SummaryWriter(log_dir=str(folder)) as writer:
            writer.add_text("configuration", f"```json\n{json.dumps(run.configuration, indent=1)}\n```")
            for name, value, step in run.scalars():
                writer.add_scalar(name, value, step)
        marker.write_text(run.fingerprint)
        new += 1
    return new

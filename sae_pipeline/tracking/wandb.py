"""Weights & Biases: runs on disk, which `wandb sync` uploads; nothing is sent from here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from sae_pipeline.tracking import TrackedRun

DEFAULT_PLACE = "."


def export(study: str, runs: Iterable[TrackedRun], place: str) -> int:
    """Write offline runs under ``<place>/wandb``, with the study as project and the SAE's fingerprint as run id."""
    import wandb

    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, disable_code=True)
    new = 0
    for run in runs:
        if list(folder.glob(f"wandb/offline-run-*-{run.fingerprint}")):
            continue
        with wandb.init(
            mode="offline", project=study, name=run.name, id=run.fingerprint, dir=folder, config=dict(run.configuration), settings=settings
        ) as logged:
            for row in run.curve:
                logged.log({f"train/{name}": value for name, value in row.items() if name != "step"}, step=int(row["step"]))
            logged.summary.update(dict(run.metrics))
        new += 1
    return new

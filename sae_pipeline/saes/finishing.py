"""From the last step to the files of an SAE: calibration, export, the L0 reached, and the training record."""

from __future__ import annotations

import json
import logging
import math
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_pipeline.saes.checkpoint import NAME as CHECKPOINT
from sae_pipeline.saes.chunks import CHUNK
from sae_pipeline.saes.divergence import Divergence
from sae_pipeline.saes.kernels import Workspace
from sae_pipeline.saes.monitoring import DEAD_SHARE_WARNING, L0_TOLERANCE
from sae_pipeline.saes.run import Run
from sae_pipeline.store import flush, write_atomically

TRAINING_FILE = "training.json"


logger = logging.getLogger(__name__)


def finish(run: Run, calibration: Tensor, measurement: Tensor, workspace: Workspace) -> dict[str, Any] | Divergence:
    """Calibrate, write the SAE, its training table and record, remove the checkpoint; the summary says how it went.

    Args:
        run: a run that has taken all of its steps.
        calibration: raw activations (n, d_model) that thresholds are set on, outside the training order.
        measurement: others, that ``final_l0`` is measured on.
        workspace: memory that no other arm uses meanwhile.

    Returns:
        The summary (see ``train_arms``), or a record if the last update left parameters that are not finite.
    """
    sae, statistics, device = run.sae, run.sae.statistics, run.sae.parameters.device
    if not bool(sae.parameters.isfinite().all()):  # the loss of the last step was still finite
        return run.divergence(run.step, math.nan)
    started = time.perf_counter()
    sae.workspace = workspace
    sae.calibrate(calibration * statistics.scale)
    tokens, last, rate = run.step * run.arm.batch_size, run.monitor.rows[-1], run.schedule.base_rate
    provenance = {**run.arm.identity(), "learning_rate": rate, "normalisation_scale": statistics.scale, "training_tokens": tokens}
    exported = sae.export({**run.metadata, **provenance})
    exported.save(run.folder)
    run.monitor.write(run.folder)
    for file in run.folder.glob("[!.]*"):
        flush(file)
    on_device = exported.to(device)
    final_l0 = sum(int((on_device.encode(rows.to(device)) > 0).sum()) for rows in measurement.split(CHUNK)) / len(measurement)
    l0_error = final_l0 / run.arm.sparsity - 1
    seconds = run.seconds + time.perf_counter() - started
    summary = {
        "final_loss": last["mse"],
        "final_l0": final_l0,
        "l0_target_error": l0_error,
        "steps": run.step,
        "trunk_steps": run.trunk_steps,
        "tokens": tokens,
        "dead_share": last["dead_share"],
        "learning_rate": rate,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(tokens / seconds),
        "normalisation_scale": statistics.scale,
        "input_variance": statistics.variance,
        "environments": run.environments,
    }
    if last["dead_share"] > DEAD_SHARE_WARNING:
        logger.warning("%s: %.0f %% of the latents are dead at the end of training", run.label, 100 * last["dead_share"])
    # TopK may use fewer than k latents where fewer are positive; that is not a miss.
    if abs(l0_error) > L0_TOLERANCE and run.arm.architecture != "topk":
        logger.warning(
            "%s: %.4g latents are active per token at the end of training, %+.1f %% from the target of %g, on %d tokens outside training",
            run.label,
            final_l0,
            100 * l0_error,
            run.arm.sparsity,
            len(measurement),
        )
    # Written last: its presence says that the other files are complete.
    write_atomically(run.folder / TRAINING_FILE, json.dumps({"identity": run.identity, "summary": summary}, indent=1).encode())
    (run.folder / CHECKPOINT).unlink(missing_ok=True)
    return summary


def finished_summary(folder: Path, identity: str) -> dict[str, Any] | None:
    """The summary, if an earlier process finished this run and died before the artifact was published."""
    try:
        record = json.loads((folder / TRAINING_FILE).read_text())
        return record["summary"] if record["identity"] == identity else None
    except (OSError, ValueError, KeyError):
        return None

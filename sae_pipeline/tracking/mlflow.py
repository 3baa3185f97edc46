"""MLflow: an experiment per study, a run per SAE."""

from __future__ import annotations

import time
from collections.abc import Iterable

from sae_pipeline.tracking import TrackedRun

DEFAULT_PLACE = "sqlite:///mlflow.db"
FINGERPRINT = "sae.fingerprint"
AT_ONCE = 1000
"""Metrics that a server takes in one request."""
LONGEST = 500
"""Characters of a parameter's value that every server takes."""


def export(study: str, runs: Iterable[TrackedRun], place: str) -> int:
    """Log to the tracking server or database at the address ``place``."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client = MlflowClient(tracking_uri=place)
    known = client.get_experiment_by_name(study)
    experiment = known.experiment_id if known is not None else client.create_experiment(study)
    new = 0
    for run in runs:
        if client.search_runs(
            [experiment], filter_string=f"tags.`{FINGERPRINT}` = '{run.fingerprint}' and attributes.status = 'FINISHED'", max_results=1
        ):
            continue
        logged = client.create_run(experiment, run_name=run.name, tags={FINGERPRINT: run.fingerprint}).info.run_id
        now = int(time.time() * 1000)
        params = [Param(name, str(value)[:LONGEST]) for name, value in run.configuration.items()]
        # "@" is in the names of metrics and not among the characters that a server allows in one.
        metrics = [Metric(name.replace("@", "_at_"), value, now, step) for name, value, step in run.scalars()]
        client.log_batch(logged, params=params)
        for first in range(0, len(metrics), AT_ONCE):
            client.log_batch(logged, metrics=metrics[first : first + AT_ONCE])
        client.set_terminated(logged)
        new += 1
    return new

"""How Dagster executes a run that the UI, a schedule or a backfill started; `sae-pipeline run` hands its runs to workers of its own."""

import os
from typing import Any

import dagster as dg

from sae_pipeline.errors import BadInput
from sae_pipeline.execution import Execution
from sae_pipeline.study import Study

FOR_RAY = "dagster-ray/config"
"""Tag of a step by which dagster-ray learns what to ask Ray for."""


def executor() -> dg.ExecutorDefinition:
    """The executor that the environment asks for.

    Raises:
        BadInput: the environment's settings mean nothing, or dagster-ray is not installed.
    """
    execution = Execution.from_environment()
    if execution.executor == "multiprocess":
        return dg.multiprocess_executor.configured({"max_concurrent": execution.workers})
    if execution.executor == "ray":
        try:
            from dagster_ray import ray_executor
        except ImportError:
            raise BadInput("SAE_EXECUTOR=ray: expected the package dagster-ray, found none; `pip install 'sae-pipeline[ray]'`") from None
        return ray_executor.configured({"ray": {"env_vars": _settings()}})
    return dg.in_process_executor


def _settings() -> list[str]:
    """Names of the variables that a step on another machine needs. An address with a password is not among them: Ray shows what it passes on."""
    return sorted(name for name in os.environ if name.startswith("SAE_") and not name.endswith("_URL"))


def ray_resources(study: Study) -> dict[str, Any]:
    """Tags of a heavy step: its CPUs and GPUs on Ray. Where nothing says whether there are GPUs, ``auto`` asks for none."""
    execution = Execution.from_environment()
    if execution.executor != "ray":
        return {}
    cpus = study.compute.threads or execution.threads or 1
    return {FOR_RAY: {"num_cpus": cpus, "num_gpus": execution.gpus_for(study.compute.device, offered=False)}}

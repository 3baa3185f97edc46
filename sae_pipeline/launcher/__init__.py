"""Launching a study on Dagster: what is stale, and running it in waves."""

from sae_pipeline.launcher.instance import definition_errors, observe_sources, open_instance, share_gpu_pool
from sae_pipeline.launcher.staleness import plan, status
from sae_pipeline.launcher.waves import run

__all__ = ["definition_errors", "observe_sources", "open_instance", "plan", "run", "share_gpu_pool", "status"]

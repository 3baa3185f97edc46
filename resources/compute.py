"""The compute device as a Dagster resource."""

from __future__ import annotations

import dagster as dg
from pydantic import Field

from sae_pipeline.compute import Compute
from sae_pipeline.store import Home


class ComputeResource(dg.ConfigurableResource):
    """Which device heavy steps use: ``auto``, ``cpu``, ``cuda``, ``cuda:1`` or ``mps``.

    The ``gpu`` pool shows the queue in the UI; the file lease underneath is what keeps two processes off one device,
    because the kernel drops it however the process ends.
    """

    device: str = Field(
        "auto", description="auto (any CUDA device, else MPS, else the CPU), cpu, cuda, cuda:1 or mps; the default is the study's own"
    )
    threads: int | None = Field(default=None, description="CPU threads of torch; left out: torch's own choice")

    def open(self, home: Home) -> Compute:
        """The engine's view of the device, with its lock files in the home."""
        return Compute(self.device, self.threads, home.locks)

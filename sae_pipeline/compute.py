"""Where heavy work runs: the device, torch's threads, and a lease so that one job at a time uses a device."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sae_pipeline.errors import DeviceError
from sae_pipeline.execution import Execution
from sae_pipeline.store.locks import lease


@dataclass(frozen=True)
class Compute:
    """A device by name (``auto``, ``cpu``, ``cuda``, ``cuda:1``, ``mps``), threads, and the folder of the lock files.

    ``auto`` means any CUDA device, else MPS, else the CPU.
    """

    device: str
    threads: int | None
    locks: Path

    def devices(self) -> list[str]:
        """The torch device names that may be leased.

        Raises:
            DeviceError: the device asked for is not on this machine.
        """
        if self.device == "cpu":
            return ["cpu"]
        import torch

        cuda = [f"cuda:{n}" for n in range(torch.cuda.device_count())]
        mps = ["mps"] if torch.backends.mps.is_available() else []
        found = {"auto": cuda or mps or ["cpu"], "cuda": cuda, "mps": mps}.get(self.device, [d for d in cuda if d == self.device])
        if not found:
            here = ", ".join(["cpu", *cuda, *mps])
            raise DeviceError(f"compute.device: expected a device of this machine ({here}), found '{self.device}'; choose one of them or 'auto'")
        return found

    @contextmanager
    def lease(self) -> Iterator[str]:
        """Hold the first free device; the kernel lets go of it when the process dies."""
        by_lock = {self.locks / f"device-{place}.lock": name for name in self.devices() for place in _places(name)}
        with lease(list(by_lock)) as lock:
            import torch

            if self.threads is not None:
                torch.set_num_threads(self.threads)
            yield by_lock[lock]


def _places(device: str) -> Iterator[str]:
    """What is leased of a device: a GPU by the number that this machine knows it by, as often as steps share it; the CPU once per worker.

    The machine's name is part of it, because several machines may share a home.
    """
    host, execution = platform.node(), Execution.from_environment()
    if device == "cpu":
        yield from (f"{host}-cpu-{n}" for n in range(execution.workers or 1))
        return
    kind, _, number = device.partition(":")
    # Ray gives each step its GPU by this variable, and the step then calls it cuda:0.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if kind == "cuda" else []
    place = f"{host}-{kind}-{re.sub(r'[^A-Za-z0-9]', '-', visible[int(number)]) if number and any(visible) else number}"
    yield place
    yield from (f"{place}-share-{n}" for n in range(1, execution.steps_per_gpu))

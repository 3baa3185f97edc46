"""How a study's steps are executed: one after the other, in several processes, or on Ray; said by the environment, never by the study.

``SAE_EXECUTOR`` is ``in_process`` (default), ``multiprocess`` or ``ray``. ``SAE_WORKERS`` is how many steps run at the same time: by default
half the cores, and on Ray as many as the cluster has room for. ``SAE_GPUS_PER_STEP`` is how many GPUs each heavy step asks of Ray, fractions
included: by default one, and none where the study is for the CPU or the cluster has no GPU. A setting that the executor does not read is refused,
since whoever set it expects something of it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal, get_args

from sae_pipeline.errors import BadInput

Executor = Literal["in_process", "multiprocess", "ray"]
EXECUTOR, WORKERS, GPUS = "SAE_EXECUTOR", "SAE_WORKERS", "SAE_GPUS_PER_STEP"
READ_BY: dict[str, tuple[Executor, ...]] = {WORKERS: ("multiprocess", "ray"), GPUS: ("ray",)}
"""Executors that read a setting."""


@dataclass(frozen=True)
class Execution:
    """What the environment says about executing steps."""

    executor: Executor
    workers: int | None
    """Steps at the same time; None leaves it to Ray."""
    gpus: float | None
    """GPUs that a heavy step asks of Ray; None leaves it to the study's device and the cluster."""

    @classmethod
    def from_environment(cls) -> Execution:
        """Read the three variables.

        Raises:
            BadInput: one of them has a value that means nothing, or is not read by the executor.
        """
        executor = os.environ.get(EXECUTOR) or "in_process"
        for known in get_args(Executor):
            if executor == known:
                execution = cls(known, _workers(known), _gpus())
                for name, readers in READ_BY.items():
                    if os.environ.get(name) and known not in readers:
                        raise BadInput(
                            f"{name}: expected {EXECUTOR} to be {' or '.join(readers)}, found '{known}', which does not read it; set {EXECUTOR} or unset {name}"
                        )
                return execution
        raise BadInput(
            f"{EXECUTOR}: expected {', '.join(get_args(Executor)[:-1])} or {get_args(Executor)[-1]}, found '{executor}'; correct it or unset it"
        )

    @property
    def threads(self) -> int | None:
        """CPU threads of a step where the study does not say: the cores shared out among processes, one on Ray, torch's own choice otherwise."""
        if self.executor == "multiprocess":
            return max(1, _cores() // (self.workers or 1))
        return 1 if self.executor == "ray" else None

    @property
    def steps_per_gpu(self) -> int:
        """Heavy steps that share a GPU: several where each asks Ray for a part of one."""
        return int(1 / self.gpus) if self.executor == "ray" and self.gpus is not None and 0 < self.gpus < 1 else 1

    def gpus_for(self, device: str, *, offered: bool) -> float:
        """GPUs that a heavy step of a study for ``device`` asks of a cluster; ``offered``: whether the cluster has any."""
        if self.gpus is not None:
            return self.gpus
        return float(device.startswith("cuda") or (device == "auto" and offered))


def _cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _workers(executor: Executor) -> int | None:
    given = os.environ.get(WORKERS)
    if not given:
        return {"in_process": 1, "multiprocess": max(1, _cores() // 2)}.get(executor)
    if not given.isdecimal() or int(given) < 1:
        raise BadInput(f"{WORKERS}: expected the number of steps to run at the same time, 1 or more, found '{given}'; correct it or unset it")
    return int(given)


def _gpus() -> float | None:
    given = os.environ.get(GPUS)
    if not given:
        return None
    try:
        count = float(given)
    except ValueError:
        count = -1.0
    # Ray gives out parts of one GPU, or whole ones.
    if not (0 <= count <= 1 or (count > 1 and count.is_integer())):
        raise BadInput(f"{GPUS}: expected a number of GPUs such as 1, 2 or 0.5, found '{given}'; correct it or unset it")
    return count

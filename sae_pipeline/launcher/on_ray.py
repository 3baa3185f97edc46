"""Workers that are tasks on a Ray cluster: ``SAE_EXECUTOR=ray``.

Ray's own variable ``RAY_ADDRESS`` names the cluster. Without it a cluster that runs on this machine is used, or one is started for the launch,
which gives every GPU of the machine a step of its own.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

from sae_pipeline.errors import BadInput
from sae_pipeline.execution import GPUS, WORKERS, Execution
from sae_pipeline.launcher.runs import Call, Ending
from sae_pipeline.launcher.workers import Answer, Define, Lost, Task, Workers, work
from sae_pipeline.safety.text import plain, without_secrets
from sae_pipeline.stages.context import StudyContext


class OnRay(Workers):
    """One Ray task per run; a heavy one asks for GPUs, which Ray then keeps from all others."""

    def __init__(self, define: Define, ctx: StudyContext, execution: Execution, lost: Lost) -> None:
        self._ours = _connect()
        import ray

        offered = ray.cluster_resources()
        study, cpus = ctx.study.compute, float(ctx.study.compute.threads or execution.threads or 1)
        gpus = execution.gpus_for(study.device, offered=offered.get("GPU", 0) > 0)
        count = execution.workers or int(offered.get("CPU", 0) // cpus)
        if count < 1 or (execution.workers is None and offered.get("GPU", 0) < gpus):
            _disconnect(self._ours)
            raise BadInput(
                f"SAE_EXECUTOR=ray: expected a cluster with {cpus:g} CPUs and {gpus:g} GPUs for one step, found {offered.get('CPU', 0):g} CPUs and "
                f"{offered.get('GPU', 0):g} GPUs in all; add nodes, lower compute.threads or {GPUS}, or set {WORKERS} where the cluster grows on demand"
            )
        super().__init__(count, lost)
        self._task = ray.put(Task.of(define, ctx, execution, count))
        self._light, self._heavy = ({"num_cpus": cpus, "num_gpus": g, "max_retries": 0} for g in (0, gpus))
        self._under_way: set[Any] = set()

    def do(self, call: Call) -> Answer:
        """One run wherever Ray finds room."""
        import ray

        task = None
        try:
            task = ray.remote(work).options(**(self._heavy if call.heavy else self._light), name=call.name).remote(self._task, call)
            self._under_way.add(task)
            answer: Answer = ray.get(task)
        except ray.exceptions.TaskCancelledError:
            return KeyboardInterrupt()
        except ray.exceptions.RayTaskError as error:  # the worker lives, and `work` raised what is no sentence of ours
            self._lost(call)  # the run may have begun: Dagster must not go on keeping its place in the pool
            return Ending(
                failure=f"expected the node that Ray chose to do this run, found {plain(without_secrets(_reason(error)))}; look at the node's log "
                "(`ray logs`) and at what is installed there: every node needs the same version of this project and of its packages"
            )
        except (ray.exceptions.RayError, ConnectionError) as error:
            sentence = f"expected the Ray worker of this run to finish it, found it lost ({_reason(error)}); look at the node's log (`ray logs`), then run again (finished work is kept)"
            return Ending(failure=sentence, lost=True)
        finally:
            self._under_way.discard(task)
        return answer

    def interrupt(self) -> None:
        """Ctrl-C for every task."""
        self._cancel(force=False)

    def kill(self) -> None:
        """Kill the worker of every task."""
        self._cancel(force=True)

    def _cancel(self, *, force: bool) -> None:
        import ray

        for task in list(self._under_way):
            ray.cancel(task, force=force)

    def close(self) -> None:
        """Leave the cluster; one that was started for this launch ends."""
        super().close()
        _disconnect(self._ours)


def _connect() -> bool:
    """Join the cluster; whether this call did, and so is to leave it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise BadInput("SAE_EXECUTOR=ray: expected the package ray, found none; `pip install 'sae-pipeline[ray]'`") from None
    if ray.is_initialized():
        return False
    address = os.environ.get("RAY_ADDRESS")
    try:
        host, _, port = (address or "").rpartition("://")[2].rpartition(":")
        if host and port.isdecimal():  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=10).close()
        ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=None if address else False)
    except (OSError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        raise BadInput(
            f"RAY_ADDRESS: expected the address of a Ray cluster, such as auto or HOST:6379, found '{address}' ({_reason(error)}); "
            "start the cluster or correct the address; unset, a cluster of this machine alone is started"
        ) from None
    return True


def _disconnect(ours: bool) -> None:
    if ours:
        import ray

        ray.shutdown()


def _reason(error: BaseException) -> str:
    """What Ray says in its first sentence."""
    cause = getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {str(cause).strip().splitlines()[0][:200]}" if str(cause).strip() else type(cause).__name__

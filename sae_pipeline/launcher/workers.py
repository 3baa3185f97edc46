"""Where the runs of a launch are done: what this process, processes beside it and Ray have in common.

A worker does whole Dagster runs, one after the other, in its own process and from what the launcher hands it: the study as it was read, and
the environment's settings. So an edit of the study file under way mixes nothing, a model that was loaded stays loaded, and what fails is said
in the same words everywhere.
"""

from __future__ import annotations

import os
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import lru_cache

import dagster as dg

from sae_pipeline.errors import SaePipelineError
from sae_pipeline.execution import EXECUTOR, WORKERS, Execution
from sae_pipeline.launcher.instance import POSTGRES_URL, event_log_errors, open_instance
from sae_pipeline.launcher.runs import Call, Ending, execute
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home
from sae_pipeline.study import Study

GRACE_SECONDS = 60.0
"""How long a run may take to stop after Ctrl-C before its worker is killed; a checkpoint of a large SAE takes seconds."""

OF_THE_NODE = (POSTGRES_URL,)
"""Settings that hold a password, which every node of a cluster has in its own environment. ``SAE_STORE`` is none: one with a password is refused."""

Answer = Ending | SaePipelineError | KeyboardInterrupt
"""What a worker sends back. Exceptions come as values, because pipes and Ray wrap those that are raised."""


Define = Callable[[Study], dg.Definitions]
"""Makes a study's definitions: a function of a module, which every worker imports for itself, as definitions do not travel."""


Lost = Callable[[Call], object]
"""Told of a run whose worker died, from the thread that waited for it."""


@dataclass(frozen=True)
class Task:
    """What every worker of a launch is handed."""

    define: Define = field(compare=False)
    study: Study = field(compare=False)
    """As the launcher read it."""
    home: Home = field(compare=False)
    settings: dict[str, str] = field(compare=False, repr=False)
    """Environment variables. They travel as an argument: Ray logs and shows its runtime environments."""
    launch: str = field(default_factory=lambda: uuid.uuid4().hex)
    """What tells this launch from the one before, which a worker of Ray's may have served too."""

    @classmethod
    def of(cls, define: Define, ctx: StudyContext, execution: Execution, count: int) -> Task:
        """The task of ``count`` workers; nothing with a password in it leaves this machine."""
        stays = OF_THE_NODE if execution.executor == "ray" else ()
        settings = {name: value for name, value in os.environ.items() if name.startswith("SAE_") and name not in stays}
        return cls(define, ctx.study, ctx.home, settings | {EXECUTOR: execution.executor, WORKERS: str(count), "SAE_HOME": str(ctx.home.root)})


def work(task: Task, call: Call) -> Answer:
    """One run in a worker's process."""
    for name in [name for name in os.environ if name.startswith("SAE_") and name not in task.settings and name not in OF_THE_NODE]:
        del os.environ[name]  # of an earlier launch that this process served
    os.environ.update(task.settings)
    try:
        defs, instance = _opened(task)
        with event_log_errors(task.home):
            return execute(defs, instance, call)
    except (SaePipelineError, KeyboardInterrupt) as error:
        return error


@lru_cache(maxsize=1)
def _opened(task: Task) -> tuple[dg.Definitions, dg.DagsterInstance]:
    return task.define(task.study), open_instance(task.home)


class Here:
    """This process itself, one run after the other."""

    def __init__(self, defs: dg.Definitions, instance: dg.DagsterInstance) -> None:
        self._defs, self._instance = defs, instance

    def endings(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Ending]]:
        """Do the runs; what came of each, in their order."""
        for call in calls:
            yield call, execute(self._defs, self._instance, call)


class Workers(ABC):
    """Several runs at the same time, each in another process; this one waits in a thread for each."""

    def __init__(self, count: int, lost: Lost) -> None:
        self.count = count
        self._lost = lost
        self._threads = ThreadPoolExecutor(count)

    def endings(self, calls: Sequence[Call]) -> Iterator[tuple[Call, Ending]]:
        """Do the runs; what came of each, in their order.

        Raises:
            KeyboardInterrupt: Ctrl-C; the runs under way were told to stop, and have ended.
            SaePipelineError: what concerns more than one run, such as Dagster's database.
        """
        under_way: list[Future[Answer]] = [self._threads.submit(self._done, call) for call in calls]
        try:
            for call, future in zip(calls, under_way, strict=True):
                answer = future.result()
                if isinstance(answer, BaseException):
                    raise answer
                yield call, answer
        except BaseException:
            for future in under_way:
                future.cancel()
            self.interrupt()
            if wait(under_way, GRACE_SECONDS).not_done:
                self.kill()
                wait(under_way)
            raise

    def _done(self, call: Call) -> Answer:
        """One run; one whose worker was lost is ended at once, because others wait for the place that it holds in the pool."""
        answer = self.do(call)
        if isinstance(answer, Ending) and answer.lost:
            self._lost(call)
        return answer

    def close(self) -> None:
        """Let go of every worker."""
        self._threads.shutdown()

    @abstractmethod
    def do(self, call: Call) -> Answer:
        """One run, waited for; a failure that says so where its worker was lost."""

    @abstractmethod
    def interrupt(self) -> None:
        """Tell the runs under way to stop."""

    @abstractmethod
    def kill(self) -> None:
        """End the workers of runs that did not stop."""

"""Where arms that are trained side by side take their steps: several at a time, each with memory and threads of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import wait
from contextlib import contextmanager
from typing import TypeVar

from sae_pipeline.saes.kernels import Workspace
from sae_pipeline.saes.kernels.team import ALONE, Team, teams, working_together

T = TypeVar("T")
R = TypeVar("R")


class Lanes:
    """Runs one function on many arms; which lane takes an arm, and how many lanes there are, changes no bit of the result."""

    def __init__(self, threads: int) -> None:
        """Share ``threads`` among the arms; with 1, arms take their steps one after the other."""
        self._threads = threads
        self._workspaces: list[Workspace] = []

    def each(self, work: Callable[[T, Workspace], R], items: Sequence[T]) -> list[R]:
        """Call work(item, workspace) for every item and return the results in order.

        As many items at a time as there are threads; threads that are left over help with the work of an item. When work
        fails, or this thread is interrupted, no further item is begun, and the error is raised once all lanes stand still.
        """
        if not items:
            return []
        found = teams(min(len(items), self._threads), self._threads)
        self._workspaces += [Workspace() for _ in range(len(found) - len(self._workspaces))]
        waiting = deque(range(len(items)))
        results: dict[int, R] = {}

        def drive(team: Team, workspace: Workspace) -> None:
            with working_together(team), _emptied_on_failure(waiting):
                while (number := _next(waiting)) is not None:
                    results[number] = work(items[number], workspace)

        if len(found) == 1:
            drive(found[0], self._workspaces[0])
        else:
            running = [team.lead().submit(drive, team, workspace) for team, workspace in zip(found, self._workspaces, strict=False)]
            try:
                with _emptied_on_failure(waiting):
                    for lane in running:
                        lane.result()
            finally:
                wait(running)
        return [results[number] for number in range(len(items))]


def alone(work: Callable[[], R]) -> R:
    """The result of work that is done by one thread, so that its bits do not depend on how many there are."""
    with working_together(ALONE):
        return work()


@contextmanager
def _emptied_on_failure(waiting: deque[int]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        waiting.clear()
        raise


def _next(waiting: deque[int]) -> int | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None

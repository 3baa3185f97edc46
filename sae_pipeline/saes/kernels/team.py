"""Threads of a training step: who does which piece of its work.

Torch's own threads split sums wherever their number says, so that the last bit of a step would depend on it, and they
spin for a while after each operation, in the way of others. In a step torch therefore uses one thread, and the costly
parts are cut into pieces of fixed size that a team of threads shares: every piece is the work of one thread, and the
bits are the same for teams of any size. Several arms can then take their steps at once, each with a smaller team.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from typing import TypeVar

import torch

from sae_pipeline.saes.chunks import CHUNK

T = TypeVar("T")

LARGE_CHUNK = 512
"""Rows that an accelerator works on at a time."""

_mine = threading.local()


@dataclass(frozen=True)
class Team:
    """Threads that share work, by their numbers in the process: two teams that work at once have no number in common."""

    first: int
    size: int
    bound: bool = False
    """Whether every thread keeps to one processor; see :func:`teams`."""

    def member(self, number: int) -> Executor:
        """The thread that does the stretches of this number, counted from 0."""
        return _thread(os.getpid(), self.first + number, self.bound)

    def lead(self) -> Executor:
        """A thread that may wait for the members; of a team of one, its only member."""
        return self.member(0) if self.size == 1 else _thread(os.getpid(), -1 - self.first, bound=False)


ALONE = Team(0, 1)
"""A thread that shares its work with nobody."""


def teams(count: int, threads: int) -> list[Team]:
    """Split ``threads`` into ``count`` teams of one size, at least one thread in each.

    Where the threads are as many as the processors they may use, each is bound to one. Some systems wake a thread on the
    processor that wakes it and leave it there for milliseconds beside another, while the next is idle.
    """
    size = max(1, threads // count)
    return [Team(number * size, size, bound=threads == len(processors())) for number in range(count)]


def processors() -> list[int]:
    """The processors that this process may use; none where the system does not bind threads to them."""
    return sorted(os.sched_getaffinity(os.getpid())) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def working_together(team: Team) -> Iterator[None]:
    """Until the end, the team shares the work of this thread, and torch uses one thread in each."""
    before, threads = current_team(), torch.get_num_threads()
    _mine.team = team
    torch.set_num_threads(1)
    try:
        yield
    finally:
        _mine.team = before
        torch.set_num_threads(threads)


def current_team() -> Team:
    """The team of this thread."""
    return getattr(_mine, "team", ALONE)


def shared(work: Callable[[int, int, int], T], count: int, piece: int = 1) -> list[T]:
    """Call work(member, first, last) for stretches of ``count`` items, one for each member of the team, and return what they gave in order.

    Args:
        work: ``member`` counts the stretches from 0.
        piece: stretches begin at multiples of this many items. Work whose bits depend on where a stretch begins goes
            through its stretch in such pieces.
    """
    team, pieces = current_team(), -(-count // piece)
    members = max(1, min(team.size, pieces))
    if members == 1:
        return [work(0, 0, count)]
    edges = [min(count, pieces * member // members * piece) for member in range(members + 1)]
    running = [team.member(number).submit(work, number, edges[number], edges[number + 1]) for number in range(members)]
    return [stretch.result() for stretch in running]


def chunks_of(first: int, last: int, device: torch.device) -> Iterator[slice]:
    """The chunks of a stretch of rows; a device that shares nothing takes larger ones."""
    size = CHUNK if device.type == "cpu" else LARGE_CHUNK
    return (slice(start, min(start + size, last)) for start in range(first, last, size))


@cache
def _thread(process: int, number: int, bound: bool) -> Executor:
    """One thread, made once per process: threads do not survive a fork."""

    def prepare() -> None:
        torch.set_num_threads(1)
        torch.set_grad_enabled(False)
        if bound:
            with suppress(OSError):  # not allowed to: slower, nothing else
                os.sched_setaffinity(0, {processors()[number]})

    return ThreadPoolExecutor(1, thread_name_prefix=f"sae-{process}-{number}", initializer=prepare)

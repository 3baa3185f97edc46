"""Workers that are processes beside the launcher: ``SAE_EXECUTOR=multiprocess``."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from queue import SimpleQueue

from sae_pipeline.execution import Execution
from sae_pipeline.launcher.runs import Call, Ending
from sae_pipeline.launcher.workers import GRACE_SECONDS, Answer, Define, Lost, Task, Workers, work
from sae_pipeline.notices import hide_notices
from sae_pipeline.stages.context import StudyContext


class Processes(Workers):
    """Processes that stay for the whole launch; one that dies is replaced."""

    def __init__(self, define: Define, ctx: StudyContext, execution: Execution, lost: Lost) -> None:
        super().__init__(execution.workers or 1, lost)
        task, threads = Task.of(define, ctx, execution, self.count), ctx.study.compute.threads or execution.threads
        self._processes = [_Process(task, threads) for _ in range(self.count)]
        self._idle: SimpleQueue[_Process] = SimpleQueue()
        for process in self._processes:
            self._idle.put(process)

    def do(self, call: Call) -> Answer:
        """One run in whichever process is idle."""
        process = self._idle.get()
        try:
            return process.ask(call)
        finally:
            self._idle.put(process)

    def interrupt(self) -> None:
        """Ctrl-C for every process; idle ones ignore it."""
        for process in self._processes:
            process.interrupt()

    def kill(self) -> None:
        """Kill every process."""
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """End every process."""
        for process in self._processes:
            process.close()
        super().close()


class _Process:
    """One process, and the pipe to it."""

    def __init__(self, task: Task, threads: int | None) -> None:
        self._task, self._threads, self._closed = task, threads, False
        self._start()

    def _start(self) -> None:
        # Started afresh: a forked process could not use a CUDA device or threads that its parent had.
        context = multiprocessing.get_context("spawn")
        self._pipe, there = context.Pipe()
        self._process = context.Process(target=_serve, args=(there, self._task, self._threads), name="sae-pipeline worker")
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # the process takes this over until it can deal with Ctrl-C
        try:
            self._process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        there.close()

    def ask(self, call: Call) -> Answer:
        """One run; the process is replaced when it dies of it."""
        try:
            self._pipe.send(call)
            answer: Answer = self._pipe.recv()
        except (EOFError, OSError):
            self._process.join()
            code = self._process.exitcode or 0
            if not self._closed:
                self._start()
            how = f"killed by signal {-code}" if code < 0 else f"ended with code {code}"
            hint = ", the system's way when memory runs out: fewer SAE_WORKERS need less" if code == -signal.SIGKILL else ""
            sentence = f"expected the process of this run to finish it, found it {how}{hint}; run again (finished work is kept)"
            return Ending(failure=sentence, lost=True)
        return answer

    def interrupt(self) -> None:
        """Ctrl-C for the run under way."""
        if self._process.pid is not None and self._process.is_alive():
            os.kill(self._process.pid, signal.SIGINT)

    def kill(self) -> None:
        """End the process, whatever it does."""
        self._closed = True
        self._process.kill()

    def close(self) -> None:
        """End the process when it has done its run, if it does so in time."""
        self._closed = True
        self._pipe.close()
        self._process.join(GRACE_SECONDS)
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, task: Task, threads: int | None) -> None:
    """What a process does: runs, until the launcher closes the pipe or is gone."""
    os.setsid()  # a terminal's Ctrl-C reaches the launcher alone, which passes it on
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    hide_notices()
    if threads is not None:
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))  # before any library starts its own
    while True:
        try:
            call = pipe.recv()
        except EOFError:
            return
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            answer = work(task, call)
        except KeyboardInterrupt as interrupt:
            answer = interrupt
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
        pipe.send(answer)


def _end_with_launcher() -> None:
    """Die with the launcher, however it dies: its runs are called dead from then on, and another may do them."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)

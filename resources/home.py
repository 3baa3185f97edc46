"""The home folder (store, studies, locks) as a Dagster resource, and the engine's warnings as events of the run that uses it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import dagster as dg
from pydantic import Field

from sae_pipeline.store import Home


class HomeResource(dg.ConfigurableResource):
    """Where artifacts, reports and locks lie; empty takes ``SAE_HOME``, by default ``.sae`` in the working directory."""

    root: str = Field(default="", description="the home folder; empty: SAE_HOME, by default .sae in the working directory")

    def open(self) -> Home:
        """The engine's view of the folder."""
        return Home(Path(self.root).resolve()) if self.root else Home.from_environment()

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[HomeResource]:
        """The folder, for one run; what the engine warns of meanwhile is in the run's log too, once however many resources hold the folder."""
        engine = logging.getLogger("sae_pipeline")
        if context.run_id is not None and any(isinstance(handler, _ToTheRun) and handler.run_id == context.run_id for handler in engine.handlers):
            yield self
            return
        handlers: list[logging.Handler] = [_ToTheRun(context.log, context.run_id)]
        if not engine.hasHandlers() and logging.lastResort is not None:
            handlers.append(logging.lastResort)  # what prints warnings for as long as there is no handler
        for handler in handlers:
            engine.addHandler(handler)
        try:
            yield self
        finally:
            for handler in handlers:
                engine.removeHandler(handler)


class _ToTheRun(logging.Handler):
    """Repeats records in a run's log, where the UI shows them; a log that cannot be written fails the run at its next event, not here."""

    def __init__(self, log: dg.DagsterLogManager | None, run_id: str | None) -> None:
        super().__init__()
        self._log, self.run_id = log, run_id

    def emit(self, record: logging.LogRecord) -> None:
        if self._log is not None:
            with suppress(Exception):
                self._log.log(record.levelno, record.getMessage())

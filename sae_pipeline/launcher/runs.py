"""One Dagster run in this process, and what came of it in a sentence; the same whichever process does it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import dagster as dg

from sae_pipeline.errors import SaePipelineError
from sae_pipeline.launcher.outcome import COMPUTED, REUSED, WHAT_TO_DO
from sae_pipeline.safety.text import plain, without_secrets

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


@dataclass(frozen=True)
class Call:
    """What one run is to do: an asset, its partitions, and what ``execute_in_process`` is told besides."""

    asset: Sequence[str]
    """Path of the asset's key."""
    heavy: bool
    """Whether it takes a place of the ``gpu`` pool."""
    partitions: tuple[str | None, ...]
    arguments: dict[str, Any]
    """Run id and tags; the partition, or the tags of a range."""

    @property
    def name(self) -> str:
        """Asset and partitions as a user reads them."""
        return " ".join(filter(None, ["/".join(self.asset), ", ".join(p for p in self.partitions if p)]))


@dataclass(frozen=True)
class Ending:
    """What came of a run; ``failure`` is a sentence, or None where it succeeded."""

    computed: int = 0
    reused: int = 0
    failure: str | None = None
    damaged: bool = False
    lost: bool = False
    """Whether its worker died of it, so that Dagster still calls the run unfinished."""


def execute(defs: dg.Definitions, instance: dg.DagsterInstance, call: Call) -> Ending:
    """One run, here and now.

    Raises:
        KeyboardInterrupt: the run was interrupted.
    """
    job = defs.resolve_implicit_global_asset_job_def()
    done = job.execute_in_process(
        instance=instance, asset_selection=[dg.AssetKey(call.asset)], run_config=QUIET, raise_on_error=False, **call.arguments
    )
    # A run of several partitions says the same for each of them.
    made = [event.materialization.metadata for event in done.get_asset_materialization_events()[:1]]
    failures = [event.step_failure_data for event in done.all_events if event.is_step_failure]
    # An asset that failed may still have published something.
    made += [data.user_failure_data.metadata for data in failures if data.user_failure_data and COMPUTED in data.user_failure_data.metadata]
    computed, reused = (sum(int(str(metadata[count].value)) for metadata in made) for count in (COMPUTED, REUSED))
    if done.success:
        return Ending(computed, reused)
    unmet = [check for check in done.get_asset_check_evaluations() if not check.passed and check.blocking]
    if unmet:
        return Ending(computed, reused, "; ".join(_unmet(check) for check in unmet))
    if failures:
        sentence, damaged = _sentence(failures[0].error)
        return Ending(computed, reused, sentence, damaged)
    for event in done.all_events:
        if event.event_type in (dg.DagsterEventType.RUN_CANCELING, dg.DagsterEventType.RUN_CANCELED):
            raise KeyboardInterrupt
    return Ending(computed, reused, "the run failed without a step failure; `sae-pipeline ui` shows its log")


def _unmet(check: Any) -> str:
    """A failed blocking check as a sentence."""
    figures = ", ".join(f"{name} {value.value}" for name, value in check.metadata.items() if name != WHAT_TO_DO)
    advice = check.metadata[WHAT_TO_DO].value if WHAT_TO_DO in check.metadata else "change the study"
    return (
        f"expected the check {check.check_name} to pass, found {figures or 'that it does not'}; "
        f"what follows would rest on it, so it was not run: {advice}, or look at the asset in `sae-pipeline ui`"
    )


def _sentence(error: Any) -> tuple[str, bool]:
    """The user's sentence at the bottom of an error chain and whether it tells of damage; Ctrl-C goes on as such."""
    own = _subclasses(SaePipelineError)  # asked now: some are defined in modules that a run imports when it needs them
    bottom = error
    while bottom is not None:
        if bottom.cls_name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError"):
            raise KeyboardInterrupt
        if bottom.cls_name in own:
            return re.sub(rf"^[\w.]*\b{bottom.cls_name}: ", "", bottom.message).strip(), bottom.cls_name == "DamagedArtifact"
        if bottom.cause is None:
            break
        bottom = bottom.cause
    return plain(without_secrets(bottom.message.strip().splitlines()[0])) if bottom and bottom.message else "unknown error", False


def _subclasses(cls: type[Exception]) -> set[str]:
    return {cls.__name__}.union(*(_subclasses(sub) for sub in cls.__subclasses__()))

"""Running what is stale, in waves.

Dagster 1.13 cannot launch "only what is stale" for partitioned assets, and its staleness is not transitive. So the
launcher walks the graph from the sources down. At each asset it asks which partitions are stale *now*, after everything
upstream has run: an upstream that came out equal therefore stops the work there.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import dagster as dg

from sae_pipeline.errors import BadInput, SaePipelineError
from sae_pipeline.launcher.instance import event_log_errors, living, observe_sources
from sae_pipeline.launcher.outcome import COMPUTED, REUSED, WHAT_TO_DO, Outcome
from sae_pipeline.launcher.staleness import materialisable, shares_dimensions, stale_partitions
from sae_pipeline.stages.context import StudyContext

QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def run(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    ctx: StudyContext,
    *,
    select: str | None = None,
    announce: Callable[[str, int], Any] = lambda asset, partitions: None,
) -> Outcome:
    """Compute what is stale, in waves; damage found on the way is mended by one more round.

    Raises:
        BadInput: ``select`` names no asset, or the study asks for what cannot be done.
    """
    started = time.monotonic()
    observe_sources(instance, ctx)
    graph = defs.resolve_asset_graph()
    keys = _selected(graph, select)
    total = Outcome()
    for _ in range(2):
        with event_log_errors(ctx.home), living(instance, ctx.home) as tags:
            outcome = _round(defs, graph, instance, ctx, keys, tags, announce)
        total.launched += outcome.launched
        total.computed += outcome.computed
        total.reused += outcome.reused
        for asset, count in outcome.computed_by_asset.items():
            total.computed_by_asset[asset] = total.computed_by_asset.get(asset, 0) + count
        total.failures = outcome.failures
        if not outcome.damaged:
            break
    total.seconds = round(time.monotonic() - started, 3)
    return total


def _selected(graph: Any, select: str | None) -> list[dg.AssetKey]:
    keys = materialisable(graph)
    if select is None:
        return keys
    try:
        chosen = dg.AssetSelection.from_string(select).resolve(graph)
    except Exception as error:
        raise BadInput(f"--select: expected a Dagster asset selection such as 'group:PRE' or 'key:\"*/PRE/*\"', found '{select}' ({error})") from None
    kept = [key for key in keys if key in chosen]
    if not kept:
        raise BadInput(f"--select: expected at least one asset of the study, '{select}' names none; `sae-pipeline status` lists them")
    return kept


def _round(
    defs: dg.Definitions,
    graph: Any,
    instance: dg.DagsterInstance,
    ctx: StudyContext,
    keys: list[dg.AssetKey],
    tags: dict[str, str],
    announce: Callable[[str, int], Any],
) -> Outcome:
    outcome = Outcome()
    failed: dict[dg.AssetKey, set[str | None]] = {}
    for key in keys:
        node = graph.get(key)
        blocked = [p for up in node.parent_keys for p in failed.get(up, ())]
        todo = []
        for item in stale_partitions(graph, instance, ctx, key):
            if any(shares_dimensions(item.partition, p) for p in blocked):
                failed.setdefault(key, set()).add(item.partition)
            else:
                todo.append(item.partition)
        # A partition that Dagster calls fresh is out of date all the same when its upstream failed, so what hangs on it waits too.
        failed.setdefault(key, set()).update(blocked)
        if not todo:
            continue
        announce(key.to_user_string(), len(todo))
        for partitions, call in _calls(node, todo, tags):
            outcome.launched += 1
            message = _launch(defs, instance, key, call, outcome)
            if message is not None:
                outcome.failures.append((f"{key.to_user_string()}{' ' + ', '.join(p for p in partitions if p) if partitions[0] else ''}", message))
                failed.setdefault(key, set()).update(partitions)
    return outcome


def _calls(node: Any, partitions: list[str | None], tags: dict[str, str]) -> Iterator[tuple[list[str | None], dict[str, Any]]]:
    """How to launch the partitions: one by one, or as ranges where the asset's policy is one run for all."""
    if partitions == [None]:
        yield [None], {"tags": tags}
    elif node.backfill_policy is None or node.backfill_policy.max_partitions_per_run is not None:
        for partition in partitions:
            yield [partition], {"partition_key": partition, "tags": tags}
    else:
        order = list(node.partitions_def.get_partition_keys())
        ranges: list[list[str | None]] = []
        for partition in partitions:
            if ranges and order.index(partition) == order.index(ranges[-1][-1]) + 1:
                ranges[-1].append(partition)
            else:
                ranges.append([partition])
        for chosen in ranges:
            yield chosen, {"tags": {RANGE_START: chosen[0], RANGE_END: chosen[-1], **tags}}


def _launch(defs: dg.Definitions, instance: dg.DagsterInstance, key: dg.AssetKey, call: dict[str, Any], outcome: Outcome) -> str | None:
    """One in-process Dagster run; returns the failure's sentence, or None when it succeeded."""
    job = defs.resolve_implicit_global_asset_job_def()
    run_result = job.execute_in_process(instance=instance, asset_selection=[key], run_config=QUIET, raise_on_error=False, **call)
    # A run of several partitions says the same for each of them.
    made = [event.materialization.metadata for event in run_result.get_asset_materialization_events()[:1]]
    failures = [event.step_failure_data for event in run_result.all_events if event.is_step_failure]
    # An asset that failed may still have published something.
    made += [data.user_failure_data.metadata for data in failures if data.user_failure_data and COMPUTED in data.user_failure_data.metadata]
    for metadata in made:
        computed = int(metadata[COMPUTED].value)  # type: ignore[arg-type]
        outcome.computed += computed
        outcome.reused += int(metadata[REUSED].value)  # type: ignore[arg-type]
        name = key.to_user_string()
        outcome.computed_by_asset[name] = outcome.computed_by_asset.get(name, 0) + computed
    if run_result.success:
        return None
    unmet = [check for check in run_result.get_asset_check_evaluations() if not check.passed and check.blocking]
    if unmet:
        return "; ".join(_unmet(check) for check in unmet)
    if failures:
        return _sentence(failures[0].error, outcome)
    for event in run_result.all_events:
        if event.event_type in (dg.DagsterEventType.RUN_CANCELING, dg.DagsterEventType.RUN_CANCELED):
            raise KeyboardInterrupt
    return "the run failed without a step failure; `sae-pipeline ui` shows its log"


def _unmet(check: Any) -> str:
    """A failed blocking check as a sentence."""
    figures = ", ".join(f"{name} {value.value}" for name, value in check.metadata.items() if name != WHAT_TO_DO)
    advice = check.metadata[WHAT_TO_DO].value if WHAT_TO_DO in check.metadata else "change the study"
    return (
        f"expected the check {check.check_name} to pass, found {figures or 'that it does not'}; "
        f"what follows would rest on it, so it was not run: {advice}, or look at the asset in `sae-pipeline ui`"
    )


def _sentence(error: Any, outcome: Outcome) -> str:
    """The user's sentence at the bottom of an error chain, or the error itself with its type; Ctrl-C goes on as such."""
    own = _subclasses(SaePipelineError)  # asked now: some are defined in modules that a run imports when it needs them
    bottom = error
    while bottom is not None:
        if bottom.cls_name in ("KeyboardInterrupt", "DagsterExecutionInterruptedError"):
            raise KeyboardInterrupt
        if bottom.cls_name in own:
            outcome.damaged |= bottom.cls_name == "DamagedArtifact"
            return re.sub(rf"^[\w.]*\b{bottom.cls_name}: ", "", bottom.message).strip()
        if bottom.cause is None:
            break
        bottom = bottom.cause
    return bottom.message.strip().splitlines()[0] if bottom and bottom.message else "unknown error"


def _subclasses(cls: type[Exception]) -> set[str]:
    return {cls.__name__}.union(*(_subclasses(sub) for sub in cls.__subclasses__()))

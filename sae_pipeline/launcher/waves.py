"""Running what is stale, in waves.

Dagster 1.13 cannot launch "only what is stale" for partitioned assets, and its staleness is not transitive. So the
launcher walks the graph from the sources down. A wave is the assets of one depth of the graph, none of which depends on another. At each it
asks which partitions are stale *now*, after everything upstream has run: an upstream that came out equal therefore stops the work there. The
runs of a wave are independent, so several workers do them at the same time.
"""

from __future__ import annotations

import platform
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import dagster as dg

from sae_pipeline.errors import BadInput, SharedStoreError
from sae_pipeline.execution import Execution
from sae_pipeline.launcher.instance import GPU_POOL, end, event_log_errors, living, observe_sources, share_gpu_pool, unfinished
from sae_pipeline.launcher.outcome import Outcome
from sae_pipeline.launcher.runs import Call
from sae_pipeline.launcher.staleness import materialisable, shares_dimensions, stale_partitions
from sae_pipeline.launcher.workers import Define, Here, Workers
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.estimate import check_budget
from sae_pipeline.stages.sharing import upload_finished
from sae_pipeline.store import digest

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"


def run(
    defs: dg.Definitions,
    instance: dg.DagsterInstance,
    ctx: StudyContext,
    *,
    define: Define,
    select: str | None = None,
    announce: Callable[[str, int], Any] = lambda asset, partitions: None,
) -> Outcome:
    """Compute what is stale, in waves; damage found on the way is mended by one more round. ``define`` makes ``defs`` anew in other processes.

    Raises:
        BadInput: ``select`` names no asset, or the study asks for what cannot be done.
    """
    started = time.monotonic()
    check_budget(ctx)
    upload_finished(ctx)
    observe_sources(instance, ctx)
    graph = defs.resolve_asset_graph()
    keys = _selected(graph, select)
    total = Outcome()
    with event_log_errors(ctx.home), living(instance, ctx.home) as tags, ExitStack() as stack:
        # Opened when there is something to do: an unchanged study needs neither processes nor a cluster.
        workers = cache(lambda: stack.enter_context(_workers(defs, define, instance, ctx)))
        for _ in range(2):
            if ctx.store.shared is not None:
                ctx.store.shared.refresh()  # a worker may have taken a damaged artifact out of it
            outcome = _round(graph, instance, ctx, keys, workers, tags, announce)
            total.launched += outcome.launched
            total.computed += outcome.computed
            total.reused += outcome.reused
            for asset, count in outcome.computed_by_asset.items():
                total.computed_by_asset[asset] = total.computed_by_asset.get(asset, 0) + count
            total.failures, total.outdated = outcome.failures, outcome.outdated
            if not outcome.damaged:
                break
    try:
        upload_finished(ctx, quarantines=False)
    except SharedStoreError as error:
        total.failures.append(("upload", str(error)))
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


@contextmanager
def _workers(defs: dg.Definitions, define: Define, instance: dg.DagsterInstance, ctx: StudyContext) -> Iterator[Here | Workers]:
    """The workers that the environment asks for, with a place in the ``gpu`` pool for each."""
    execution, lost = Execution.from_environment(), lambda call: _end_unfinished(instance, [call])
    if execution.executor == "in_process":
        share_gpu_pool(instance, 1)
        yield Here(defs, instance)
        return
    workers: Workers
    if execution.executor == "multiprocess":
        from sae_pipeline.launcher.processes import Processes

        workers = Processes(define, ctx, execution, lost)
    else:
        from sae_pipeline.launcher.on_ray import OnRay

        workers = OnRay(define, ctx, execution, lost)
    try:
        share_gpu_pool(instance, workers.count)
        yield workers
    finally:
        workers.close()


def _round(
    graph: Any,
    instance: dg.DagsterInstance,
    ctx: StudyContext,
    keys: list[dg.AssetKey],
    workers: Callable[[], Here | Workers],
    tags: dict[str, str],
    announce: Callable[[str, int], Any],
) -> Outcome:
    outcome = Outcome()
    failed: dict[dg.AssetKey, set[str | None]] = {}
    for wave in graph.toposorted_asset_keys_by_level:
        calls: list[Call] = []
        for key in (key for key in keys if key in wave):
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
            if todo:
                announce(key.to_user_string(), len(todo))
                calls += _calls(node, todo, tags)
        if not calls:
            continue
        if ctx.store.shared is not None:  # every machine begins elsewhere, so that they seldom wait for each other
            calls.sort(key=lambda call: digest(platform.node(), str(ctx.home.root), call.name))
        try:
            for call, ending in workers().endings(calls):
                outcome.launched += 1
                outcome.computed += ending.computed
                outcome.reused += ending.reused
                name = "/".join(call.asset)
                outcome.computed_by_asset[name] = outcome.computed_by_asset.get(name, 0) + ending.computed
                outcome.damaged |= ending.damaged
                if ending.failure is not None:
                    outcome.failures.append((call.name, ending.failure))
                    failed.setdefault(dg.AssetKey(call.asset), set()).update(call.partitions)
        finally:
            _end_unfinished(instance, calls)
    outcome.outdated = {"/".join(key.path) for key, partitions in failed.items() if partitions}
    return outcome


def _end_unfinished(instance: dg.DagsterInstance, calls: Sequence[Call]) -> None:
    """End what is called unfinished of runs that nobody does any more."""
    for run in unfinished(instance, run_ids=[call.arguments["run_id"] for call in calls]):
        end(instance, run)


def _calls(node: Any, partitions: list[str | None], tags: dict[str, str]) -> Iterator[Call]:
    """How to launch the partitions: one by one, or as ranges where the asset's policy is one run for all."""

    def call(*chosen: str | None, **arguments: Any) -> Call:
        return Call(tuple(node.key.path), GPU_POOL in (node.pools or ()), chosen, {"run_id": str(uuid.uuid4()), "tags": tags, **arguments})

    if partitions == [None]:
        yield call(None)
    elif node.backfill_policy is None or node.backfill_policy.max_partitions_per_run is not None:
        for partition in partitions:
            yield call(partition, partition_key=partition)
    else:
        order = list(node.partitions_def.get_partition_keys())
        ranges: list[list[str | None]] = []
        for partition in partitions:
            if ranges and order.index(partition) == order.index(ranges[-1][-1]) + 1:
                ranges[-1].append(partition)
            else:
                ranges.append([partition])
        for chosen in ranges:
            yield call(*chosen, tags={RANGE_START: chosen[0], RANGE_END: chosen[-1], **tags})

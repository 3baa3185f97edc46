"""What is stale, and why.

To Dagster's judgement two are added: a partition whose artifact is no longer in the store must run, whatever the event log
says, and so must one whose latest materialisation failed a blocking check.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus

from sae_pipeline.launcher.outcome import Stale
from sae_pipeline.stages import presence, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import HookPoint, expansion_of, point_of

CHECKS_LOOKED_AT = 1_000
"""Latest failures of a check that are matched with materialisations; a study has fewer partitions."""


def _dagster_stale(graph: Any, instance: dg.DagsterInstance, key: dg.AssetKey) -> Iterator[tuple[str | None, str]]:
    """Stale partitions of one asset with Dagster's reasons. The only place that touches Dagster's private resolver."""
    from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
    from dagster._core.definitions.events import AssetKeyPartitionKey
    from dagster._core.loader import LoadingContextForTest

    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    node = graph.get(key)
    for partition in partitions_of(node):
        status = resolver.get_status(key, partition)
        if status == StaleStatus.MISSING:
            yield partition, "never materialised"
        elif status == StaleStatus.STALE:
            causes = resolver.get_stale_causes(key, partition)
            provenance = resolver._get_current_data_provenance(key=AssetKeyPartitionKey(key, partition))
            edited = _edited(provenance.code_version if provenance else "", node.code_version)
            yield partition, "; ".join(dict.fromkeys(_worded(cause, edited) for cause in causes)) or "stale"


def _blocked_by_check(graph: Any, instance: dg.DagsterInstance, key: dg.AssetKey) -> set[str | None]:
    """Partitions whose latest materialisation failed a blocking check; Dagster itself would call them fresh.

    A check's record does not say which partition it was about, but it names the run, and so does a materialisation.
    """
    storage = instance.event_log_storage
    failed = {
        record.run_id
        for check in graph.get_check_keys_for_assets({key})
        if graph.get(check).blocking
        for record in storage.get_asset_check_execution_history(check, limit=CHECKS_LOOKED_AT, status={AssetCheckExecutionRecordStatus.FAILED})
    }
    if not failed:
        return set()
    node = graph.get(key)
    if not node.is_partitioned:
        event = instance.get_latest_materialization_event(key)
        return {None} if event is not None and event.run_id in failed else set()
    latest = storage.get_latest_storage_id_by_partition(key, dg.DagsterEventType.ASSET_MATERIALIZATION)
    records = instance.fetch_materializations(dg.AssetRecordsFilter(asset_key=key, storage_ids=list(latest.values())), limit=len(latest)).records
    return {record.partition_key for record in records if record.run_id in failed}


def _edited(recorded: str, made: str) -> str:
    """What is behind another code version: an edit of the study, or an update of this program."""
    update = slices.program_update(recorded, made)
    if update is None:
        return "its part of the study file changed"
    stage, then, now = update
    return f"the program's way of making its {stage} changed (was version {then}, is {now})"


def _worded(cause: Any, edited: str) -> str:
    """A stale cause as the end of 'stale because'."""
    words = {"has a new code version": edited, "has a new data version": "new data"}
    dependency = getattr(cause, "dependency", None)
    return words.get(cause.reason, str(cause.reason)) + (f" in {dependency.asset_key.to_user_string()}" if dependency else "")


def stale_partitions(graph: Any, instance: dg.DagsterInstance, ctx: StudyContext, key: dg.AssetKey) -> list[Stale]:
    """Partitions of one asset that must run now, in partition order."""
    name = key.to_user_string()
    reasons = dict(_dagster_stale(graph, instance, key))
    node = graph.get(key)
    reasons = dict.fromkeys(_blocked_by_check(graph, instance, key), "a blocking check failed") | reasons
    for partition in partitions_of(node):
        if partition not in reasons and not presence.present(ctx, *_address(ctx, key, partition)):
            reasons[partition] = (
                "the store does not hold it as it is asked for now (removed, put aside as damaged, or something that it rests on changed)"
            )
    return [Stale(name, partition, reasons[partition]) for partition in partitions_of(node) if partition in reasons]


def _address(ctx: StudyContext, key: dg.AssetKey, partition: str | None) -> tuple[str, str, HookPoint | None, float | None]:
    """(lane, stage, hook point, expansion) of an asset partition, in the engine's terms."""
    *lane, stage = key.path[1:]
    point = point_of(ctx.study, partition) if partition else None
    expansion = expansion_of(ctx.study, partition) if partition and "|" in partition else None
    return "/".join(lane), stage, point, expansion


def plan(defs: dg.Definitions, instance: dg.DagsterInstance, ctx: StudyContext) -> list[Stale]:
    """Everything a run would look at: what is stale now, and what follows from it unless it comes out equal."""
    graph = defs.resolve_asset_graph()
    found: list[Stale] = []
    touched: dict[dg.AssetKey, set[str | None]] = {}
    for key in materialisable(graph):
        direct = {s.partition: s for s in stale_partitions(graph, instance, ctx, key)}
        for partition in partitions_of(graph.get(key)):
            causes = [up.to_user_string() for up in graph.get(key).parent_keys if any(shares_dimensions(partition, p) for p in touched.get(up, ()))]
            if partition in direct:
                found.append(direct[partition])
            elif causes:
                found.append(Stale(key.to_user_string(), partition, f"follows {', '.join(sorted(causes))}", follows=True))
            else:
                continue
            touched.setdefault(key, set()).add(partition)
    return found


def status(defs: dg.Definitions, instance: dg.DagsterInstance, ctx: StudyContext) -> list[tuple[str, str | None, str]]:
    """(asset, partition, ``fresh`` or the reason it would run) of everything, upstream first."""
    graph = defs.resolve_asset_graph()
    reasons = {(s.asset, s.partition): s.reason for s in plan(defs, instance, ctx)}
    rows = []
    for key in materialisable(graph):
        name = key.to_user_string()
        rows += [(name, partition, reasons.get((name, partition), "fresh")) for partition in partitions_of(graph.get(key))]
    return rows


def partitions_of(node: Any) -> list[str | None]:
    """An asset's partition keys in order; ``[None]`` where it has none."""
    return list(node.partitions_def.get_partition_keys()) if node.is_partitioned else [None]


def materialisable(graph: Any) -> list[dg.AssetKey]:
    """The assets that can be run, upstream first."""
    return [key for key in graph.toposorted_asset_keys if graph.get(key).is_materializable]


def shares_dimensions(one: str | None, other: str | None) -> bool:
    """Whether two partitions can depend on each other: they agree wherever both name a layer (and an expansion)."""
    return one is None or other is None or all(a == b for a, b in zip(one.split("|"), other.split("|"), strict=False))

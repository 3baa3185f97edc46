"""What runs on its own: the staleness condition and the sensor that applies it, schedules, and the watch over sources."""

from collections.abc import Callable, Sequence
from functools import partial, reduce
from operator import or_
from typing import Any

import dagster as dg

from assets.history import WINDOW_TAG
from assets.jobs import EVALUATE, REFRESH, SCORECARDS, jobs
from assets.names import key
from resources import ComputeResource, HomeResource
from sae_pipeline.errors import SaePipelineError
from sae_pipeline.launcher.instance import DATA_VERSION, observed_version
from sae_pipeline.stages import history, sources
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.study import Study

Condition = dg.AutomationCondition


class RequestedNow(dg.AutomationCondition):
    """Whether this very tick requests an asset. ``will_be_requested`` answers that only where one run could hold both."""

    @property
    def name(self) -> str:
        return "requested_now"

    def evaluate(self, context: dg.AutomationContext) -> dg.AutomationResult:
        """What the tick, which goes from the sources down, requested of the asset so far."""
        requested = context.request_subsets_by_key.get(context.key)
        return dg.AutomationResult(context, requested if requested is not None else context.get_empty_subset())


def stale_only(upstream: Sequence[dg.AssetKey]) -> dg.AutomationCondition:
    """Run what is missing, whose recipe changed, or whose inputs' data changed, once everything ``upstream`` has settled.

    ``upstream`` is all of it, not only the direct dependencies: one edit can change the recipe at both ends of a lane, and
    the later asset would otherwise start first, on what is about to be replaced. A failure holds back what hangs on it. The
    condition reacts to changes seen between two ticks, so a first `sae-pipeline run` comes before it. ``eager()`` would
    ignore recipes and lack the early cut-off.
    """
    recipe_or_input = Condition.code_version_changed() | Condition.any_deps_match(Condition.data_version_changed())
    condition: Any = (Condition.newly_missing() | recipe_or_input).since_last_handled() & ~Condition.in_progress()  # type: ignore[misc]
    if upstream:
        # A run that ended after this tick began has not changed anything in the tick's eyes yet: wait one more.
        just_ended = Condition.newly_requested() | (~Condition.in_progress()).newly_true()
        unsettled: Any = RequestedNow() | Condition.in_progress() | just_ended | Condition.missing() | Condition.execution_failed()
        waits: Any = reduce(or_, (Condition.asset_matches(above, unsettled) for above in upstream))
        condition &= ~waits.with_label("upstream_unsettled")
    labelled: dg.AutomationCondition = condition.with_label("stale_only")
    return labelled


def automation(study: Study) -> dg.Definitions:
    """Sensors, schedules and jobs of a study; schedules that its file names run from the start, what it does not switch on is switched on in the UI."""
    sensors: list[dg.SensorDefinition] = [
        dg.AutomationConditionSensorDefinition(
            "rerun_stale",
            target=dg.AssetSelection.all(),
            minimum_interval_seconds=5,
            use_user_code_server=True,  # RequestedNow is our own condition
            default_status=dg.DefaultSensorStatus.RUNNING if study.schedules.rerun_stale else dg.DefaultSensorStatus.STOPPED,
            description="Materialises exactly what an edit of the study file, or new text, made stale.",
        )
    ]
    if study.schedules.watch_minutes:
        sensors.append(_watch(study))
    offered, asked = jobs(study), study.schedules
    at = partial(_at, study)
    schedules = [
        at("report", offered[REFRESH], "scheduled_refresh", "Rebuilds the study's tables, findings and report at the times the study file names.")
    ]
    for name in ("versions", "rubric_review"):
        if getattr(asked, name) is not None:
            schedules.append(at(name, offered[f"keep_{name}"], f"scheduled_{name}", offered[f"keep_{name}"].description))
    if asked.evaluation is not None:
        schedules += [
            at(
                "evaluation", offered[EVALUATE], "scheduled_evaluation",
                "Evaluates all SAEs on a fresh window of held-out text and compares the figures with those recorded before.", _fresh_window(study),
            ),
            at(
                "evaluation", offered[SCORECARDS], "scheduled_scorecards",
                "Draws every scorecard again, so that the health checks speak of the SAEs as they are and none is overdue.", _every_layer(study),
            ),
        ]  # fmt: skip
    return dg.Definitions(sensors=sensors, schedules=schedules, jobs=list(offered.values()))


def _at(
    study: Study, entry: str, job: Any, name: str, description: str, requests: Callable[..., Any] = lambda: dg.RunRequest()
) -> dg.ScheduleDefinition:
    """A schedule in UTC at the times of an entry of ``schedules:``; ``requests`` says at each tick what runs, by default the job once."""
    named = entry in study.schedules.model_fields_set
    schedule: Any = dg.schedule(
        name=name,
        job=job,
        cron_schedule=getattr(study.schedules, entry),
        execution_timezone="UTC",
        description=description,
        default_status=dg.DefaultScheduleStatus.RUNNING if named else dg.DefaultScheduleStatus.STOPPED,
    )
    made: dg.ScheduleDefinition = schedule(requests)
    return made


def _fresh_window(study: Study) -> Callable[..., dg.RunRequest | dg.SkipReason]:
    """Each tick evaluates on the window that was used least."""

    def request(home: HomeResource, compute: ComputeResource) -> dg.RunRequest | dg.SkipReason:
        opened = home.open()
        try:
            window = history.fresh_window(StudyContext(study, opened, compute.open(opened)))
        except SaePipelineError as error:
            return dg.SkipReason(f"nothing to evaluate yet: {error}")
        return dg.RunRequest(tags={WINDOW_TAG: str(window)})

    return request


def _every_layer(study: Study) -> Callable[[dg.ScheduleEvaluationContext], list[dg.RunRequest]]:
    """A run per layer: what did not change is found in the store, so that this costs seconds."""

    def request(context: dg.ScheduleEvaluationContext) -> list[dg.RunRequest]:
        due = context.scheduled_execution_time.isoformat()
        return [dg.RunRequest(run_key=f"{due} {point.key}", partition_key=point.key) for point in study.hook_points]

    return request


def _watch(study: Study) -> dg.SensorDefinition:
    """Tells Dagster the data version of every outside source whose text changed; `rerun_stale` then does the rest."""

    @dg.sensor(
        name="watch_sources",
        minimum_interval_seconds=60 * study.schedules.watch_minutes,
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Looks whether the files or the hub revision of a source changed, and says so to what is made from it.",
    )
    def watch_sources(context: dg.SensorEvaluationContext, home: HomeResource, compute: ComputeResource) -> dg.SensorResult | dg.SkipReason:
        opened = home.open()
        ctx = StudyContext(study, opened, compute.open(opened))
        try:
            changed = [
                dg.AssetObservation(asset, tags={DATA_VERSION: version})
                for name in study.sources
                if sources.is_external(ctx, name)
                for asset, version in [(key(study, "sources", name), sources.observe(ctx, name))]
                if observed_version(context.instance, asset) != version
            ]
        except SaePipelineError as error:
            return dg.SkipReason(str(error))
        return dg.SensorResult(asset_events=changed) if changed else dg.SkipReason("no source changed")

    return watch_sources

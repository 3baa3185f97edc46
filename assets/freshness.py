"""How old a scorecard, a history or a report may get: as old as the schedule that the study file asks for lets it."""

from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice, pairwise

import dagster as dg
from dagster._utils.schedules import schedule_execution_time_iterator

from sae_pipeline.study import Study

REFRESHED_BY = {
    "scorecard": "evaluation",
    "evaluation_history": "evaluation",
    "comparison_report": "report",
    "versions": "versions",
    "rubric_review": "rubric_review",
}
"""Last part of an asset's key, and the entry of ``schedules:`` that materialises it again and again."""

SLACK = 1.1
"""An asset is overdue when the interval and a tenth of it have passed: the run itself takes time."""


def freshness(study: Study, key: dg.AssetKey) -> dg.FreshnessPolicy | None:
    """The policy of an asset; None where the study file asks for no schedule, so that nobody is reminded of what was never promised."""
    entry = REFRESHED_BY.get(key.path[-1])
    if entry is None or entry not in study.schedules.model_fields_set:
        return None
    cron = getattr(study.schedules, entry)
    return None if cron is None else dg.FreshnessPolicy.time_window(fail_window=SLACK * longest_interval(cron))


@cache
def longest_interval(cron: str) -> timedelta:
    """The longest time between two ticks of a cron expression, in UTC, among its first hundred from 2024 on."""
    ticks = schedule_execution_time_iterator(datetime(2024, 1, 1, tzinfo=UTC).timestamp(), cron, "UTC")
    return max(later - earlier for earlier, later in pairwise(islice(ticks, 100)))

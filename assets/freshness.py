"""How old a scorecard, a history or a report may get: as old as the schedule that the study file asks for lets it."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import pairwise, takewhile

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

START = datetime(2024, 1, 1, tzinfo=UTC)

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
    """The longest time between two ticks of a cron expression, in UTC: from the last tick of a day to the first of the next that has any, or within a day.

    Days are looked at for a year at least, and until there are a hundred; from 2024 on.
    """
    minute, hour, *days = cron.split()
    times = list(takewhile(lambda tick: tick < START + timedelta(days=1), _ticks(minute, hour, "*", "*", "*")))
    dates = (tick for _, tick in takewhile(lambda seen: seen[0] < 100 or seen[1] < START + timedelta(days=366), enumerate(_ticks("0", "0", *days))))
    return max(_longest(dates) - (times[-1] - times[0]), _longest(times))


def _ticks(*fields: str) -> Iterator[datetime]:
    return schedule_execution_time_iterator(START.timestamp(), " ".join(fields), "UTC")


def _longest(ticks: Iterable[datetime]) -> timedelta:
    return max((later - earlier for earlier, later in pairwise(ticks)), default=timedelta())

"""Kills and full disks, case by case: nothing that was finished is lost, and the next run ends like an undisturbed one."""

from __future__ import annotations

from typing import Any

import pytest
from fault_cases import Case
from fault_study import Undisturbed
from fault_suite import assert_nothing_is_lost, cases
from fault_table import PROPERTY
from loopback_hub import Hub

pytestmark = pytest.mark.faults


@pytest.mark.slow
@cases("kill", "fill")
def test_a_run_is_killed_or_has_no_room_and_nothing_is_lost(case: Case, undisturbed: Undisturbed, troubled_hub: Hub, record_property: Any) -> None:
    record_property(PROPERTY, assert_nothing_is_lost(case, undisturbed, troubled_hub))

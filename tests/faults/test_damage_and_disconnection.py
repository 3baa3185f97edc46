"""Damage, denied rights and lost connections, case by case: nothing that was finished is lost, and the next run ends like an undisturbed one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fault_cases import Case
from fault_study import Undisturbed
from fault_suite import CASES, assert_nothing_is_lost, cases
from fault_table import HEADINGS, PROPERTY, lines_of
from loopback_hub import Hub

pytestmark = pytest.mark.faults

PAGE = Path(__file__).resolve().parents[2] / "docs/faults.md"


@pytest.mark.slow
@cases("corrupt", "deny", "disconnect")
def test_something_is_damaged_or_denied_or_gone_and_nothing_is_lost(
    case: Case, undisturbed: Undisturbed, troubled_hub: Hub, record_property: Any
) -> None:
    record_property(PROPERTY, assert_nothing_is_lost(case, undisturbed, troubled_hub))


def test_the_page_lists_every_case_and_no_other() -> None:
    listed = {name: kind for kind, lines in lines_of(PAGE.read_text()).items() for name in lines}
    assert listed == {case.name: case.kind for case in CASES}


def test_at_least_thirty_cases_are_of_every_kind() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 30
    assert {case.kind for case in CASES} == set(HEADINGS)

"""One case, from the disturbance to the row of the table: what must hold of every case is asserted here."""

from __future__ import annotations

import random
import re
import shutil
from typing import Any

import fault_corruptions
import fault_denials
import fault_disconnections
import fault_fills
import fault_kills
import pytest
from fault_cases import CannotHappenHere, Case
from fault_runs import Seen
from fault_study import Place, Undisturbed, contents, copy_of, files, lasting, unnamed, whole
from fault_table import Row
from loopback_hub import Hub

SEED = 7
CASES = [case for kind in (fault_kills, fault_fills, fault_corruptions, fault_denials, fault_disconnections) for case in kind.CASES]
NOT_A_SENTENCE = re.compile(r"Traceback|\[Errno|^\w*(?:Error|Exception)\b", re.MULTILINE)


def cases(*kinds: str) -> Any:
    """Parametrises a test with the cases of some kinds."""
    chosen = [case for case in CASES if case.kind in kinds]
    return pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in chosen])


def assert_nothing_is_lost(case: Case, undisturbed: Undisturbed, hub: Hub) -> str:
    """Disturb a run, then run again: what was finished is where it was, and everything is as if nothing had happened. The row of the table."""
    lacking = copy_of(undisturbed.kept, undisturbed.root, case.redo)
    place = Place(undisturbed.study, undisturbed.root, hub, random.Random(f"{SEED} {case.name}"), lacking)
    try:
        return _happened(case, undisturbed, place)
    finally:
        shutil.rmtree(undisturbed.root, ignore_errors=True)  # a process that was killed may still be going away


def _happened(case: Case, undisturbed: Undisturbed, place: Place) -> str:
    try:
        with case.disturb(place) as disturbances:
            before = whole(place.root)
            seen = place.run(*disturbances)
    except CannotHappenHere as reason:
        pytest.skip(str(reason))
    before |= whole(place.root)
    assert seen.code == case.code, seen
    assert case.told in seen.sentences, seen
    last = seen
    if seen.code:
        if case.remedy is not None:
            case.remedy(place)
        last = place.run()
    assert last.code == 0, last
    again = place.run()
    assert (again.code, again.answer["launched"], again.sentences) == (0, 0, ""), again
    assert not [found for one in (seen, last) for found in NOT_A_SENTENCE.findall(one.error)], (seen, last)

    after = whole(place.root)
    lost = sorted(" ".join(artifact) for artifact, written in before.items() if after.get(artifact) != written)
    assert not lost
    computed, there, expected, expected_files = contents(place.root), files(place.root), undisturbed.computed, undisturbed.files
    if case.remeasured:
        computed, there, expected, expected_files = lasting(computed), unnamed(there), lasting(expected), unnamed(expected_files)
    assert not (differing := [name for name in sorted(computed | expected) if computed.get(name) != expected.get(name)]), differing
    assert not (differing := sorted(there ^ expected_files)), differing
    return Row(case.kind, case.name, lost, last.answer["computed"], _told(seen, place)).as_property()


def _told(seen: Seen, place: Place) -> str:
    """What the user saw of a disturbed run, paths and the hub's address shortened."""
    if seen.code < 0:
        return "the process was gone"
    said = seen.sentences.strip() or "that it ended well"
    return said.replace(str(place.root), "SAE_HOME").replace(f"{place.study.parent}/", "").replace(place.hub.endpoint, "http://HUB")

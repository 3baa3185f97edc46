"""Arms that take their steps at once: the number of threads changes no bit, and a failure leaves nothing running."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import pytest
import torch
from kernel_choices import INSTALLED, use
from runs_compared import assert_same_bits

from sae_pipeline.saes.architectures import ARCHITECTURES
from sae_pipeline.saes.kernels import Workspace, choice
from sae_pipeline.saes.kernels.team import current_team, processors, teams, working_together
from sae_pipeline.saes.lanes import Lanes, alone


@pytest.fixture(scope="module")
def wide(toy):
    """Activations of the least width that is preselected."""
    return toy(6_000, choice.NARROWEST, 200, 6)[0]


@pytest.mark.parametrize("preselecting", [*INSTALLED, None])
def test_the_number_of_threads_changes_no_bit_alone_or_in_company(preselecting, make_arm, train, wide, monkeypatch):
    """Batches of several chunks, and dead latents for AuxK; without preselection encoders are float32 products."""
    if preselecting:
        use(preselecting, monkeypatch)
    else:
        monkeypatch.setattr("sae_pipeline.saes.kernels.encoding.preselects", lambda rows: False)
    arms = {name: make_arm(name, 6, batch_size=1_100, tokens=1_100 * 6, dead_window_share=0.2) for name in ARCHITECTURES}
    arms["accumulated"] = replace(arms["topk"], batch_size=1_200, tokens=1_200 * 6, accumulate=3)
    trained = {}
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        trained[threads] = train(arms, wide, d_sae=700)[1]
        for name in ("topk", "matryoshka", "gated"):
            _, apart = train({name: arms[name]}, wide, d_sae=700)
            assert_same_bits(trained[1][name], apart[name])
    choice.compiled_rows.cache_clear()
    for name in arms:
        assert_same_bits(trained[1][name], trained[2][name])
        assert_same_bits(trained[1][name], trained[3][name])


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_come_in_the_order_of_the_items_with_memory_of_their_own(threads):
    torch.set_num_threads(2)
    busy: dict[int, int] = {}
    lock = threading.Lock()

    def work(item: int, workspace: Workspace) -> tuple[int, int, int]:
        with lock:
            assert id(workspace) not in busy
            busy[id(workspace)] = item
        time.sleep(0.002 * (item % 3))
        with lock:
            del busy[id(workspace)]
        return item, torch.get_num_threads(), current_team().size

    found = Lanes(threads).each(work, range(9))
    assert [item for item, _, _ in found] == list(range(9))
    assert {torch_threads for _, torch_threads, _ in found} == {1}
    assert torch.get_num_threads() == 2
    assert current_team().size == 1


def test_threads_that_are_left_over_help_with_an_item():
    assert Lanes(6).each(lambda item, workspace: current_team().size, [0, 1]) == [3, 3]
    assert Lanes(1).each(lambda item, workspace: current_team().size, [0, 1]) == [1, 1]
    assert Lanes(3).each(lambda item, workspace: item, []) == []


def test_after_a_failure_no_item_is_begun_and_none_is_left_running():
    begun, ended = [], []

    def work(item: int, workspace: Workspace) -> None:
        begun.append(item)
        if item == 1:
            raise ValueError("item 1")
        time.sleep(0.05)
        ended.append(item)

    with pytest.raises(ValueError, match="item 1"):
        Lanes(2).each(work, range(20))
    assert set(begun) - {1} == set(ended)
    assert len(begun) < 20


def test_teams_have_no_thread_in_common_and_are_bound_where_there_is_a_processor_for_each():
    found = teams(3, 8)
    assert [(team.first, team.size) for team in found] == [(0, 2), (2, 2), (4, 2)]
    assert teams(2, len(processors()))[0].bound is bool(processors())
    assert not teams(1, len(processors()) + 1)[0].bound


def test_outside_a_team_nothing_is_shared_and_torch_keeps_its_threads():
    torch.set_num_threads(3)
    assert alone(torch.get_num_threads) == 1
    with pytest.raises(RuntimeError, match="inside"), working_together(teams(1, 2)[0]):
        raise RuntimeError("inside")
    assert (torch.get_num_threads(), current_team().size) == (3, 1)

"""Learning rates against formulas written down here, and who takes a trunk's steps for whom."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs_compared import record

from sae_pipeline.saes.schedule import Schedule, branch_step, steps_with_trunks, trunk_leaders


def rates(arm, d_sae=24) -> list[float]:
    schedule = Schedule.of(arm, d_sae)
    return [schedule.learning_rate(step) for step in range(schedule.steps)]


def test_linear_decay_rises_stays_and_falls(make_arm):
    arm = make_arm("topk", tokens=64 * 100, learning_rate=1e-3, warmup_share=0.1, decay_share=0.2)
    wanted = [1e-3 * n / 10 for n in range(1, 11)] + [1e-3] * 70 + [1e-3 * n / 20 for n in range(20, 0, -1)]
    assert rates(arm) == pytest.approx(wanted)


def test_cosine_decay_is_half_a_cosine_wave(make_arm):
    arm = make_arm("topk", tokens=64 * 50, learning_rate=2e-3, warmup_share=0.0, decay_share=0.4, decay="cosine")
    wanted = [2e-3] * 30 + [1e-3 * (1 + math.cos(math.pi * n / 20)) for n in range(20)]
    assert rates(arm) == pytest.approx(wanted)


@given(
    tokens=st.integers(1, 5_000),
    warmup=st.floats(0, 0.99),
    fall=st.floats(0, 0.99),
    decay=st.sampled_from(["linear", "cosine"]),
)
def test_no_step_has_a_rate_of_zero_or_above_the_base(tokens, warmup, fall, decay, make_arm):
    found = rates(make_arm("topk", tokens=tokens, batch_size=8, warmup_share=warmup, decay_share=fall, decay=decay, learning_rate=1.0))
    assert all(0 < rate <= 1 for rate in found)


def test_the_rate_follows_the_width_only_where_it_should(make_arm):
    constant = {"warmup_share": 0.0, "decay_share": 0.0}
    assert rates(make_arm("topk", learning_rate=None, **constant), 64)[0] == pytest.approx(2e-4 / (64 / 2**14) ** 0.5)
    assert rates(make_arm("topk", learning_rate=1e-3, **constant), 64)[0] == 1e-3
    scaled = make_arm("topk", learning_rate=1e-3, learning_rate_scaling="inverse_sqrt_width", **constant)
    assert rates(scaled, 2**14)[0] == pytest.approx(1e-3)
    assert rates(scaled, 2**12)[0] == pytest.approx(2e-3)


def test_training_uses_the_schedule(make_arm, train, stream):
    arm = make_arm("topk", tokens=64 * 30, decay="cosine")
    _, folders = train({"a": arm}, stream)
    assert [row["learning_rate"] for row in record(folders["a"])] == rates(arm)


def test_budgets_of_a_trunk_have_equal_rates_until_they_branch(make_arm):
    trunk = make_arm("topk", trunk_tokens=64 * 40, warmup_share=0.25, decay_share=0.5, learning_rate=1.0)
    short, long = (replace(trunk, tokens=64 * steps) for steps in (40, 100))
    assert (branch_step(short), branch_step(long)) == (20, 50)
    assert rates(short)[:20] == rates(long)[:20] == [n / 10 for n in range(1, 11)] + [1.0] * 10
    assert rates(short)[20:] == pytest.approx([n / 20 for n in range(20, 0, -1)])
    assert rates(long)[20:] == pytest.approx([1.0] * 30 + [n / 50 for n in range(50, 0, -1)])


def test_a_trunk_takes_each_step_once(make_arm):
    trunk = make_arm("topk", trunk_tokens=64 * 10, decay_share=0.2)
    budgets = [replace(trunk, tokens=64 * steps) for steps in (10, 20, 50)]
    # The whole of the longest, and of the others the falls of 2 and 4 steps.
    assert steps_with_trunks(budgets) == (50 + 2 + 4, 80)
    other_seed = [replace(arm, init_seed=1) for arm in budgets]
    assert steps_with_trunks(budgets + other_seed) == (112, 160)
    assert steps_with_trunks([replace(arm, trunk_tokens=None) for arm in budgets]) == (80, 80)


def test_only_an_arm_that_is_still_on_the_trunk_leads(make_arm):
    trunk = make_arm("topk", trunk_tokens=64 * 10, decay_share=0.2)
    arms = {str(steps): replace(trunk, tokens=64 * steps) for steps in (10, 20, 50)}  # branches at 8, 16 and 40
    nothing = dict.fromkeys(arms, 0)
    assert trunk_leaders(arms, nothing) == {"10": "50", "20": "50"}
    assert trunk_leaders(arms, nothing | {"50": 12}) == {"20": "50"}
    assert trunk_leaders(arms, nothing | {"50": 30}) == {"10": "20"}
    assert trunk_leaders(arms, nothing | {"50": 45, "20": 16}) == {}
    assert trunk_leaders({"10": arms["10"], "20": arms["20"]}, nothing) == {"10": "20"}

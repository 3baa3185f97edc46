"""Proposed arms: which settings get one, what changes, what is not possible, and that the proposed study holds old and new."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pandas as pd
import pytest

from sae_pipeline.analysis.improving.proposals import Plan, Proposal, comments, frame, propose, with_kept
from sae_pipeline.analysis.improving.root_cause_rules import Remedy, RootCauses, root_causes
from sae_pipeline.study import Study, cells
from sae_pipeline.study.cells import declared
from sae_pipeline.study.fragments import as_written

D_MODEL = 32
TOPK = {"architecture": "topk", "k": 16, "seeds": [0, 1]}


def causes(rule: str, values: dict[str, float], evaluation_set: str = "prose") -> pd.DataFrame:
    """Rows as diagnosed: the value of the rule's metric by SAE."""
    return pd.DataFrame([{"sae_id": sae_id, "evaluation_set": evaluation_set, "cause": rule, "value": value} for sae_id, value in values.items()])


def with_remedies(rule: str, *remedies: dict[str, Any]) -> RootCauses:
    """The rules with these remedies for one of them and none of the others."""
    rules = root_causes()
    chosen = next(one for one in rules.rules if one.id == rule)
    given = tuple(Remedy.model_validate({"says": "said", "source": "made up"} | remedy) for remedy in remedies)
    return rules.model_copy(update={"rules": (chosen.model_copy(update={"remedies": given}),)})


def arms(make_study: Callable[..., Study], *groups: dict[str, Any], expansions: tuple[float, ...] = (4, 8), **changes: Any) -> Study:
    """A study with these groups of arms."""
    return make_study(saes={"expansions": expansions, "defaults": {"batch_size": 512}, "arms": list(groups)}, **changes)


def only(plan: Plan) -> Proposal:
    [proposal] = plan.proposals
    return proposal


def arm_of(study: Study, sae_id: str) -> Any:
    return next(arm for here in cells(study) for label, arm in here.arms.items() if here.sae_id(label) == sae_id)


def test_a_proposed_arm_has_the_seeds_of_the_one_it_answers_to_and_differs_in_the_change_alone(make_study: Callable[..., Study]) -> None:
    study = arms(make_study, TOPK)
    old = [f"PRE.L01.x04.topk-k16-t200k-s{seed}" for seed in (0, 1)]
    found = only(
        propose(
            study,
            causes("always_on", {old[0]: 0.01}),
            D_MODEL,
            with_remedies("always_on", {"name": "diversity", "change": {"diversity_coefficient": {"set": 0.01}}}),
        )
    )
    assert found.answers == {sae_id: f"{sae_id}-diversity_for_topk_k16_t200k" for sae_id in old}
    assert (found.change, found.status) == ("diversity_coefficient 0 → 0.01", "to_train")


def test_the_proposed_study_has_every_old_arm_under_its_own_name_and_the_new_arms_in_one_cell(make_study: Callable[..., Study]) -> None:
    study = arms(make_study, TOPK, {"architecture": "jumprelu", "target_l0": 16})
    plan = propose(study, causes("undertrained", {"PRE.L01.x04.jumprelu-l16-t200k-s0": 0.2}), D_MODEL)
    before, after = ({here.sae_id(label): arm for here in cells(one) for label, arm in here.arms.items()} for one in (study, plan.study))
    assert {sae_id: after[sae_id] for sae_id in before} == before
    assert list(set(after) - set(before)) == ["PRE.L01.x04.jumprelu-l16-t400k-s0-longer_for_jumprelu_l16_t200k"]
    unchanged = ("subject", "sources", "mixes", "held_out", "activations", "corpus", "evaluation")
    assert all(getattr(plan.study, name) == getattr(study, name) for name in unchanged)
    assert plan.study.name == "planted_proposed"
    assert comments(plan)[1].startswith(
        "PRE.L01.x04.jumprelu-l16-t400k-s0-longer_for_jumprelu_l16_t200k answers to PRE.L01.x04.jumprelu-l16-t200k-s0: undertrained;"
    )


CHANGES: dict[str, tuple[dict[str, Any], dict[str, Any], str, dict[str, Any]]] = {
    "k": (TOPK, {"sparsity": {"times": 0.5}}, "k 16 → 8", {"k": 8, "target_l0": None}),
    "target L0": ({"architecture": "relu", "target_l0": 15}, {"sparsity": {"times": 0.5}}, "target_l0 15 → 7.5", {"k": None, "target_l0": 7.5}),
    "rate that is given": (
        TOPK | {"learning_rate": 3e-4},
        {"learning_rate": {"times": 0.5}},
        "learning_rate 0.0003 → 0.00015",
        {"learning_rate": 1.5e-4},
    ),
    "rate by width": (
        TOPK,
        {"learning_rate": {"times": 0.5}},
        "learning_rate 0.0002 → 0.0001",
        {"learning_rate": 1e-4, "learning_rate_scaling": "inverse_sqrt_width"},
    ),
    "tokens": (TOPK, {"tokens": {"times": 2}}, "tokens 200000 → 400000", {"tokens": 400_000}),
    "tokens of a trunk": (
        TOPK | {"tokens": [100_000, 200_000], "budgets": "trunk"},
        {"tokens": {"times": 2}},
        "tokens 200000 → 400000",
        {"tokens": 400_000, "trunk_tokens": 100_000},
    ),
    "two settings": (TOPK, {"tokens": {"times": 2}, "tilt": {"set": 0.5}}, "tokens 200000 → 400000, tilt 0 → 0.5", {"tokens": 400_000, "tilt": 0.5}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_is_made_to_the_setting_it_names(make_study: Callable[..., Study], name: str) -> None:
    group, change, words, fields = CHANGES[name]
    study = arms(make_study, group)
    old = next(here.sae_id(label) for here in cells(study) for label, arm in here.arms.items() if arm.tokens == 200_000)
    plan = propose(study, causes("undertrained", {old: 0.1}), D_MODEL, with_remedies("undertrained", {"name": "new", "change": change}))
    assert only(plan).change == words
    new, before = arm_of(plan.study, only(plan).answers[old]), arm_of(study, old)
    assert {field: getattr(new, field) for field in fields} == fields
    assert {field for field in vars(new) if getattr(new, field) != getattr(before, field)} <= set(fields)


IMPOSSIBLE: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "more tokens than there are activations": (TOPK, {"tokens": {"times": 4}}, "needs 800,000 tokens of activations, and activations.tokens is 400,000"),
    "more active latents than latents": (TOPK, {"sparsity": {"times": 16}}, "asks for 256 active latents of 128"),
    "a width of another regime": (TOPK, {"expansion": {"times": 0.125}}, "expansion 0.5 is undercomplete"),
    "what the architecture does not read": ({"architecture": "relu", "target_l0": 16}, {"auxk_coefficient": {"set": 0.1}}, "relu does not read auxk_coefficient"),
    "what is so already": (TOPK | {"l1_coefficient": 1e-4}, {"l1_coefficient": {"set": 1e-4}}, "l1_coefficient is 0.0001 already"),
}  # fmt: skip


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_what_cannot_be_trained_is_told_and_not_proposed(make_study: Callable[..., Study], name: str) -> None:
    group, change, note = IMPOSSIBLE[name]
    study = arms(make_study, group)
    old = next(here.sae_id(label) for here in cells(study) for label in here.arms)
    plan = propose(study, causes("undertrained", {old: 0.1}), D_MODEL, with_remedies("undertrained", {"name": "new", "change": change}))
    assert (only(plan).status, only(plan).answers) == ("not_possible", {})
    assert note in only(plan).note
    assert len(plan.study.saes.arms) == 1
    assert frame(plan)["proposed"].isna().all()


def test_an_arm_that_the_study_has_already_answers_without_training(make_study: Callable[..., Study]) -> None:
    study = arms(make_study, TOPK | {"k": [16, 32]})
    old = "PRE.L01.x04.topk-k16-t200k-s0"
    plan = propose(study, causes("too_sparse", {old: 0.1}), D_MODEL)
    assert only(plan).status == "in_study"
    assert only(plan).answers[old] == "PRE.L01.x04.topk-k32-t200k-s0"
    assert len(plan.study.saes.arms) == 1


def test_another_width_keeps_the_old_arms_to_theirs(make_study: Callable[..., Study]) -> None:
    study = arms(make_study, TOPK, expansions=(4,))
    old = "PRE.L01.x04.topk-k16-t200k-s0"
    plan = propose(
        study, causes("always_on", {old: 0.1}), D_MODEL, with_remedies("always_on", {"name": "narrower", "change": {"expansion": {"times": 0.5}}})
    )
    assert only(plan).answers[old] == "PRE.L01.x02.topk-k16-t200k-s0-narrower_for_topk_k16_t200k"
    ids = [here.sae_id(label) for here in cells(plan.study) for label in here.arms]
    assert len(ids) == sum(len(here.arms) for here in cells(study)) + 2
    assert sum(".x02." in sae_id for sae_id in ids) == 2


def test_text_of_the_set_is_a_new_mix_of_its_shares_or_the_one_that_is_like_it(make_study: Callable[..., Study]) -> None:
    study = arms(make_study, TOPK)
    old = "PRE.L01.x04.topk-k16-t200k-s0"
    plan = propose(study, causes("other_text", {old: 0.1}, "chat"), D_MODEL)
    assert only(plan).answers[old] == "LIKE_chat.L01.x04.topk-k16-t200k-s0-domain_for_topk_k16_t200k"
    assert plan.study.mixes["LIKE_chat"] == {"chat": 1.0}
    assert {here.mix for here in cells(plan.study) if any("domain_for" not in label for label in here.arms)} == set(study.mixes)
    known = arms(make_study, TOPK, mixes={"PRE": {"prose": 0.7, "chat": 0.3}, "PURE": {"chat": 1.0}})
    assert only(propose(known, causes("other_text", {old: 0.1}, "chat"), D_MODEL)).answers[old] == "PURE.L01.x04.topk-k16-t200k-s0"


def test_a_remedy_goes_to_the_settings_with_the_largest_problem(make_study: Callable[..., Study]) -> None:
    """Three settings at most; the lowest explained variance and the largest dead share come first."""
    study = arms(make_study, TOPK)
    ids = [f"{mix}.L01.{width}.topk-k16-t200k-s0" for mix in study.mixes for width in ("x04", "x08")]
    values = dict(zip(ids, (0.5, 0.1, 0.6, 0.3, 0.2, 0.4), strict=True))
    low = propose(study, causes("undertrained", values), D_MODEL, with_remedies("undertrained", {"name": "new", "change": {"tokens": {"times": 2}}}))
    assert [proposal.old[0] for proposal in low.proposals] == [ids[1], ids[4], ids[3]]
    high = propose(
        study,
        causes("dead_for_lack_of_text", values),
        D_MODEL,
        with_remedies("dead_for_lack_of_text", {"name": "new", "change": {"tokens": {"times": 2}}}),
    )
    assert [proposal.old[0] for proposal in high.proposals] == [ids[2], ids[0], ids[5]]


def test_two_causes_with_the_same_remedy_share_an_arm(make_study: Callable[..., Study]) -> None:
    old = "PRE.L01.x04.topk-k16-t200k-s0"
    study = arms(make_study, TOPK)
    both = pd.concat([causes("redundant", {old: 0.4}), causes("undertrained", {old: 0.1}), causes("always_on", {old: 0.02})])
    plan = propose(study, both, D_MODEL)
    answers = {proposal.rule.id: proposal.answers[old] for proposal in plan.proposals if "diversity" in proposal.change}
    assert answers["redundant"] == answers["always_on"]
    assert len(plan.study.saes.arms) == 1 + 3  # diversity, narrower, longer


def test_the_kept_arms_alone_join_the_study(make_study: Callable[..., Study]) -> None:
    study = arms(make_study, TOPK, expansions=(4,))
    old = "PRE.L01.x04.topk-k16-t200k-s0"
    plan = propose(study, causes("always_on", {old: 0.02}), D_MODEL)
    named = {proposal.remedy.name: proposal.answers[old] for proposal in plan.proposals}
    assert set(named) == {"diversity", "narrower"}
    kept = with_kept(study, plan, {named["diversity"]})
    assert (kept.name, kept.saes.expansions) == (study.name, (4.0,))
    assert [group.name for group in kept.saes.arms] == [None, "diversity_for_topk_k16_t200k"]
    wider = with_kept(study, plan, {named["narrower"]})
    assert wider.saes.expansions == (4.0, 2.0)
    assert {here.expansion for here in cells(wider) if "topk-k16-t200k-s0" in here.arms} == {4.0}


def test_a_name_of_a_group_ends_the_labels_of_its_arms(make_study: Callable[..., Study]) -> None:
    study = arms(
        make_study, TOPK | {"seeds": [0]}, TOPK | {"seeds": [0], "tilt": 0.5, "name": "tilted"}, TOPK | {"seeds": [0], "tilt": 1.0, "name": "tilted"}
    )
    found = declared(study, "PRE", study.hook_points[0], 4)
    assert list(found) == ["topk-k16-t200k-s0", "topk-k16-t200k-s0-tilted", "topk-k16-t200k-s0-tilted-2"]
    assert [group.tilt for _, group in found.values()] == [None, 0.5, 1.0]
    assert as_written(study)["saes"]["arms"][1]["name"] == "tilted"

"""Causes: what the rules say of figures made up by hand, with the evidence they give; and what the rules' schema refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pandas as pd
import pytest
from pydantic import ValidationError

from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.generalisation import gaps
from sae_pipeline.analysis.health.marks import with_judged_quantities
from sae_pipeline.analysis.improving.root_cause_rules import DERIVED, RootCauses, Rule, root_causes
from sae_pipeline.analysis.improving.root_causes import MARK, diagnose, holds
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.metrics.registry import METRICS
from sae_pipeline.saes.arm import Arm
from sae_pipeline.study.schema import Study

RULES = {rule.id: rule for rule in root_causes().rules}

HEALTHY = {
    "always_on_latents": 0, "diversity_coefficient": 0.0, "auxk_coefficient": 1 / 32, "architecture": "topk", "sparsity": 32.0, "l0": 32.0,
    "l0_over_asked": 1.0, "explained_variance": 0.8, "dead_share": 0.01, "tokens": 100_000_000, "depth": 0.5, "shared_text": 1.0,
    "generalisation": "as_expected", "decoder_top100_pair_cos": 0.2,
}  # fmt: skip

MARKS = {MARK + name: "good" for name in ("explained_variance", "dead_share", "decoder_top100_pair_cos", "l0")}

FOUND: dict[str, tuple[dict[str, Any], list[str]]] = {
    "always_on": ({"always_on_latents": 2}, ["latents firing on more than 80 % of tokens 2 (above 0)", "diversity_coefficient 0"]),
    "always_on_in_spite_of_diversity": (
        {"always_on_latents": 1, "diversity_coefficient": 0.01},
        ["latents firing on more than 80 % of tokens 1 (above 0)", "diversity_coefficient 0.01 (above 0)"],
    ),
    "too_dense": ({"sparsity": 256.0, "l0": 250.5}, ["active latents asked for 256 (above 200)", "active latents per token 250.5 (above 200)"]),
    "denser_than_asked": ({"l0_over_asked": 26.76}, ["active latents over those asked for 26.76 (above 1.25)"]),
    "too_sparse": (
        {"sparsity": 4.0, "l0": 4.0, MARK + "l0": "poor"},
        ["active latents asked for 4 (below 20)", "active latents per token 4, marked poor"],
    ),
    "dead_not_revived": (
        {"dead_share": 0.7826, MARK + "dead_share": "poor", "auxk_coefficient": 0.0},
        ["share of dead latents 0.7826, marked poor", "architecture topk", "auxk_coefficient 0 (below 0.03125)"],
    ),
    "dead_for_lack_of_text": ({"dead_share": 0.2825, MARK + "dead_share": "warning"}, ["share of dead latents 0.2825, marked warning"]),
    "late_layer": (
        {"explained_variance": 0.0487, MARK + "explained_variance": "poor", "depth": 29 / 32},
        ["explained variance 0.0487, marked poor", "place of the layer among the subject's 0.9062 (above 0.6667)"],
    ),
    "undertrained": (
        {"explained_variance": 0.2882, MARK + "explained_variance": "poor", "tokens": 1_000_000},
        ["explained variance 0.2882, marked poor", "training tokens 1,000,000 (below 50,000,000)"],
    ),
    "redundant": (
        {"decoder_top100_pair_cos": 0.312, MARK + "decoder_top100_pair_cos": "warning"},
        ["cosine of the most similar decoder pairs 0.312, marked warning", "diversity_coefficient 0"],
    ),
    "other_text": (
        {"generalisation": "more_than_expected", "shared_text": 0.25},
        ["drop of explained variance more than expected", "share of the set's text that the training mix has too 0.25 (below 0.5)"],
    ),
    "fits_its_training_text": (
        {"generalisation": "more_than_expected", "shared_text": 0.5},
        ["drop of explained variance more than expected", "share of the set's text that the training mix has too 0.5 (at least 0.5)"],
    ),
}


def test_no_rule_finds_a_cause_in_a_healthy_sae() -> None:
    assert [name for name, rule in RULES.items() if holds(rule, HEALTHY | MARKS) is not None] == []


@pytest.mark.parametrize("name", RULES)
def test_a_rule_names_its_cause_with_the_numbers_it_rests_on(name: str) -> None:
    changes, evidence = FOUND[name]
    assert holds(RULES[name], HEALTHY | MARKS | changes) == evidence


@pytest.mark.parametrize("missing", [{"dead_share": None}, {"dead_share": float("nan")}])
def test_a_fact_that_is_missing_meets_no_condition(missing: dict[str, Any]) -> None:
    assert holds(RULES["dead_for_lack_of_text"], HEALTHY | {MARK + "dead_share": "poor"} | missing) is None


def test_every_fact_and_metric_of_the_rules_exists() -> None:
    known = {*METRICS, *DERIVED, *Arm.__dataclass_fields__, "sparsity"}
    assert {condition.fact for rule in RULES.values() for condition in rule.when} <= known
    assert {rule.improve.metric for rule in RULES.values()} <= set(METRICS)


def test_a_rule_takes_over_the_guard_of_all_but_for_what_its_own_says() -> None:
    guards = {name: (rule.guard.sets, rule.guard.tolerance) for name, rule in RULES.items()}
    assert guards["always_on"] == ("in_sample", 0.005)
    assert guards["too_dense"] == ("in_sample", 0.05)
    assert guards["other_text"] == ("triggering", 0.005)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"when": [{"fact": "l0", "says": "L0"}]}, "found none"),
        ({"when": [{"fact": "l0", "says": "L0", "above": 1, "below": 2}]}, "found above, below"),
        ({"remedies": [{"name": "a", "says": "b", "source": "c", "change": {"seeds": {"set": 1}}}]}, "cannot change seeds"),
        ({"remedies": [{"name": "a", "says": "b", "source": "c"}]}, "either 'change' or 'mix'"),
        ({"remedies": [{"name": "a", "says": "b", "source": "c", "change": {"tokens": {"set": 1, "times": 2}}}]}, "either 'set' or 'times'"),
        ({"remedies": []}, "at least 1 item"),
    ],
)
def test_a_rule_that_means_nothing_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Rule.model_validate(RULES["too_dense"].model_dump() | change)


def test_text_is_shared_source_by_source(make_study: Callable[..., Study]) -> None:
    mixed = {"shares": {"prose": 0.5, "chat": 0.5}, "kind": "in_sample"}
    study = make_study(held_out={"prose": {"shares": {"prose": 1.0}, "kind": "in_sample"}, "mixed": mixed})
    assert study.shared_text("PRE", "prose") == pytest.approx(0.7)
    assert study.shared_text("PRE", "mixed") == pytest.approx(0.5 + 0.3)


def test_a_set_of_the_kind_in_sample_is_none_for_saes_that_never_saw_its_text(
    make_study: Callable[..., Study], make_tables: Callable[..., StudyTables]
) -> None:
    """Two pure mixes, both sets declared in_sample: on the other's text an SAE was trained on other text, and not too little."""
    pure = {name: {"shares": {name: 1.0}, "kind": "in_sample"} for name in ("prose", "chat")}
    study = make_study({"PROSE": {"prose": 1.0}, "CHAT": {"chat": 1.0}}, held_out=pure)
    tables = make_tables(study, lambda sae, name: 0.8 if sae["mix"].lower() == name else 0.3, seeds=(0,))
    shared = [study.shared_text(sae_id.split(".")[0], name) for sae_id, name in tables.sae_metrics[["sae_id", "evaluation_set"]].to_numpy()]
    tables = replace(tables, sae_metrics=tables.sae_metrics.assign(shared_text=shared, l0=16.0))
    found = gaps(Evidence.of(tables, study))
    assert found.groupby("sae_id")["in_sample_sets"].agg(list).to_dict() == {
        sae_id: [sae_id.split(".")[0].lower()] for sae_id in tables.saes["sae_id"]
    }
    assert set(found["verdict"]) == {"more_than_expected"}
    assert found["relative_drop"].tolist() == pytest.approx([(0.8 - 0.3) / 0.8] * len(found), abs=0.03)
    health = pd.DataFrame(
        [(row.sae_id, row.evaluation_set, "a.v1", "explained_variance", "poor") for row in found.itertuples()],
        columns=["sae_id", "evaluation_set", "rubric", "metric", "mark"],
    )
    assert set(diagnose(tables, study, health, found, rubric="a.v1", n_layers=4)["cause"]) == {"other_text"}
    judged = with_judged_quantities(tables.sae_metrics, tables.saes.assign(final_loss=0.2)).set_index(["sae_id", "evaluation_set"])["train_gap"]
    assert {sae_id.split(".")[0].lower() == name for (sae_id, name), gap in judged.items() if gap == gap} == {True}


def test_only_the_marks_of_the_named_rubric_count(make_study: Callable[..., Study], make_tables: Callable[..., StudyTables]) -> None:
    """Rules look at in-sample sets or at the others, as they say; ``prose`` is in-sample."""
    study = make_study()
    tables = make_tables(study, lambda *_: 0.3, seeds=(0,))
    metrics = tables.sae_metrics.assign(l0=16.0)
    tables = StudyTables(tables.saes, metrics, tables.document_sums, tables.baseline_sums, tables.feature_stats)
    ids = [sae_id for sae_id in tables.saes["sae_id"] if sae_id.startswith("PRE.L03")]
    health = pd.DataFrame(
        [
            (sae_id, name, rubric, "explained_variance", mark)
            for sae_id in ids
            for name in ("prose", "chat")
            for rubric, mark in (("a.v1", "poor"), ("b.v1", "good"))
        ],
        columns=["sae_id", "evaluation_set", "rubric", "metric", "mark"],
    )
    gaps = pd.DataFrame([(ids[0], "chat", "more_than_expected")], columns=["sae_id", "evaluation_set", "verdict"])
    found = diagnose(tables, study, health, gaps, rubric="a.v1", n_layers=4)
    by_cause = found.groupby("cause")["sae_id"].agg(list).to_dict()
    assert by_cause == {"late_layer": ids, "undertrained": ids, "other_text": [ids[0]]}
    assert set(found.loc[found["cause"] != "other_text", "evaluation_set"]) == {"prose"}
    assert found["value"].tolist() == pytest.approx([0.3] * len(found), abs=0.02)
    other = diagnose(tables, study, health, gaps.iloc[:0], rubric="b.v1", n_layers=4)
    assert other.empty
    assert "object" not in other.dtypes.astype(str).tolist()


def test_the_rules_have_a_version() -> None:
    data = root_causes().model_dump()
    with pytest.raises(ValidationError, match="name"):
        RootCauses.model_validate(data | {"name": "root_causes"})

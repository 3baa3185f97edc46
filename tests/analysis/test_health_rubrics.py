"""Marks follow the bands to the edge, and a rubric file that cannot be used says why in one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.analysis.health.bands import JudgedMetric
from sae_pipeline.analysis.health.marks import COLUMNS, bottom_lines, judge, with_judged_quantities
from sae_pipeline.analysis.health.rubric_files import rubric_path
from sae_pipeline.analysis.health.rubrics import Rubric, load_rubric, load_rubrics
from sae_pipeline.errors import StudyError

HOUSE = load_rubric("house.v1")


def marked(metric: str, value: float | None, *, k: float = 16, d_sae: int = 1000, parameters: int | None = 10**8) -> pd.Series:
    metrics = pd.DataFrame([{"sae_id": "a", "evaluation_set": "prose", metric: value}])
    health = judge([HOUSE], metrics, pd.DataFrame([{"sae_id": "a", "d_sae": d_sae, "sparsity": k}]), parameters)
    assert health.columns.tolist() == COLUMNS
    return health[health["metric"] == metric].iloc[0]


@pytest.mark.parametrize(
    ("metric", "value", "mark"),
    [
        ("explained_variance", 0.60, "good"),
        ("explained_variance", 0.5999, "acceptable"),
        ("explained_variance", 0.40, "acceptable"),
        ("explained_variance", 0.3999, "warning"),
        ("explained_variance", -3.0, "poor"),
        ("l0", 4.99, "poor"),
        ("l0", 5, "warning"),
        ("l0", 10, "good"),
        ("l0", 50, "good"),
        ("l0", 50.01, "acceptable"),
        ("l0", 500, "warning"),
        ("l0", 856.27, "poor"),
        ("dead_share", 0.0, "good"),
        ("dead_share", 0.05, "good"),
        ("dead_share", 0.25, "acceptable"),
        ("dead_share", 0.2501, "warning"),
        ("dead_share", 0.7826, "poor"),
        ("dense_share@0.8", 0.0, "good"),
        ("dense_share@0.8", 0.001, "acceptable"),
        ("dense_share@0.8", 0.002, "warning"),
        ("dense_share@0.8", 0.003, "poor"),
        ("decoder_top100_pair_cos", 0.25, "good"),
        ("decoder_top100_pair_cos", 0.35, "warning"),
        ("decoder_top100_pair_cos", 0.400, "poor"),
        ("train_gap", 0.05, "good"),
        ("train_gap", 0.2001, "poor"),
        ("ce_loss_recovered_zero", 0.95, "good"),
        ("ce_loss_recovered_zero", 0.9499, "acceptable"),
    ],
)
def test_house_bands_hold_their_edges(metric: str, value: float, mark: str) -> None:
    assert marked(metric, value)["mark"] == mark


@pytest.mark.parametrize(
    ("parameters", "mark"), [(999_999_999, "good"), (10**9, "acceptable"), (10**10, "acceptable"), (10**10 + 1, "warning"), (None, "acceptable")]
)
def test_the_size_of_the_subject_decides_what_explained_variance_is_expected(parameters: int | None, mark: str) -> None:
    assert marked("explained_variance", 0.65, parameters=parameters)["mark"] == mark


@pytest.mark.parametrize(("k", "mark"), [(50, "acceptable"), (50.5, "good"), (150, "good"), (151, "acceptable")])
def test_the_sparsity_asked_for_decides_what_l0_is_expected(k: float, mark: str) -> None:
    assert marked("l0", 75, k=k)["mark"] == mark


def test_a_mark_is_worded() -> None:
    row = marked("dead_share", 0.03)
    assert row["band"] == "expected 0–5 %, found 3 %"
    assert row["note"].startswith("good: 0–5 % (S1")
    assert marked("dense_share@0.8", 0.002)["band"] == "expected 0 latents, found 2 latents"
    assert marked("explained_variance", 0.28)["band"] == "expected 60 % or more, found 28 %"
    assert marked("explained_variance", 0.28)["note"].startswith("poor: below 32 %")


def test_a_metric_without_a_value_is_not_judged_and_says_why() -> None:
    missing = marked("ce_loss_recovered_zero", None)
    assert missing["mark"] == "not_judged"
    assert "no value" in missing["note"]
    other = judge([HOUSE], pd.DataFrame([{"sae_id": "a", "evaluation_set": "p"}]), pd.DataFrame([{"sae_id": "a", "d_sae": 8, "sparsity": 4}]))
    assert set(other["mark"]) == {"not_judged"}
    assert "no column l0" in other.set_index("metric").loc["l0", "note"]


RUBRICS = load_rubrics(["house.v1", "seed1.v1", "seed4.tiers", "seed4.alerts"])
LIMITS = {
    "explained_variance": (-10, 1), "ce_loss_recovered_zero": (-10, 1), "decoder_top100_pair_cos": (-1, 1), "l0": (0, 1e5), "l0_over_target": (0, 100),
    "train_gap": (-1, 10), "feature_diversity_10": (0, 10), "dense_share@0.8": (0, 1e4), "dead_share": (0, 1), "dead_share_5e4": (0, 1),
}  # fmt: skip
"""Values that a judged metric can have, in the unit of the bands."""


@given(
    st.floats(0, 1),
    st.sampled_from([(rubric, judged) for rubric in RUBRICS for judged in rubric.metrics]),
    st.sampled_from([None, "small", "medium", "large"]),
    st.sampled_from(["interpretability", "balanced", "reconstruction"]),
)
def test_every_possible_value_lies_in_a_band_or_in_a_declared_gap(
    share: float, judged: tuple[Rubric, JudgedMetric], size: str | None, use: str
) -> None:
    low, high = LIMITS[judged[1].metric]
    reading = judged[1].read(low + share * (high - low), size, use)
    assert reading.taken is not None
    assert (reading.mark == "not_judged") == (reading.taken in [gap for profile in judged[1].profiles for gap in profile.gaps if gap.mark is None])


def test_the_house_rubric_leaves_nothing_open() -> None:
    profiles = [profile for judged in HOUSE.metrics for profile in judged.profiles]
    assert not any(profile.gaps for profile in profiles)
    assert not any(judged.two_marks for judged in HOUSE.metrics)


@pytest.mark.parametrize(
    ("take", "mark", "rivals"),
    [("the stricter", "poor", "good: 0–1 (s)"), ("the milder", "good", "poor: 1–2 (t)"), ("second", "poor", "good: 0–1 (s)")],
)
def test_where_a_source_gives_two_marks_the_declared_one_is_taken_and_the_other_named(take: str, mark: str, rivals: str) -> None:
    profiles = [
        {"statement": "first", "when": {}, "bands": [{"mark": "good", "range": "[0, 1]", "source": "s"}]},
        {"statement": "second", "when": {}, "bands": [{"mark": "poor", "range": "[1, 2]", "source": "t"}]},
    ]
    judged = JudgedMetric.model_validate(small_rubric(profiles=profiles, two_marks={"take": take, "reason": "it is said so"})["metrics"][0])
    rubric = Rubric.model_validate(small_rubric() | {"metrics": [judged.model_dump()]})
    health = judge(
        [rubric], pd.DataFrame([{"sae_id": "a", "evaluation_set": "p", "l0": 1.0}]), pd.DataFrame([{"sae_id": "a", "d_sae": 8, "sparsity": 4}])
    )
    assert health["mark"].tolist() == [mark]
    assert health["note"].iloc[0].endswith(f"the source also gives {rivals}, and it is said so")
    assert [judged.read(value, None, None).mark for value in (0.5, 1.5, 3.0)] == ["good", "poor", "not_judged"]


def test_a_topk_sae_below_k_misses_nothing_and_the_gap_to_training_is_judged_in_sample_only() -> None:
    saes = pd.DataFrame({"sae_id": ["a", "b"], "architecture": ["topk", "jumprelu"], "sparsity": 10.0, "final_loss": 0.3})
    rows = pd.DataFrame(
        {"sae_id": ["a", "b", "b"], "evaluation_set": ["p", "p", "q"], "kind": ["in_sample", "in_sample", "task_shift"], "l0": [8.0, 8.0, 12.0],
         "explained_variance": [0.65, 0.5, 0.1]}
    )  # fmt: skip
    judged = with_judged_quantities(rows, saes)
    assert judged["l0_over_target"].tolist() == pytest.approx([1.0, 0.8, 1.2])
    assert judged["train_gap"].tolist()[:2] == pytest.approx([0.05, 0.2])
    assert judged["train_gap"].isna().tolist() == [False, False, True]


def test_the_bottom_line_is_the_worst_mark_with_its_reason() -> None:
    metrics = pd.DataFrame(
        [
            {"sae_id": "a", "evaluation_set": "prose", "explained_variance": 0.7, "l0": 16, "dead_share": 0.6},
            {"sae_id": "b", "evaluation_set": "prose", "explained_variance": 0.7, "l0": 16, "dead_share": 0.01},
            {"sae_id": "b", "evaluation_set": "code", "explained_variance": 0.2, "l0": 16, "dead_share": 0.01},
        ]
    )
    health = judge([HOUSE], metrics, pd.DataFrame({"sae_id": ["a", "b"], "d_sae": 32, "sparsity": 16.0}), 10**8)
    lines = bottom_lines(health, HOUSE, ["prose"]).set_index("sae_id")
    assert lines["mark"].to_dict() == {"a": "poor", "b": "good"}
    assert "dead latents on prose: expected 0–5 %, found 60 %" in lines.loc["a", "sentence"]
    assert lines.loc["a", "sentence"].startswith("Not to be relied on (dead latents on prose: ")
    assert ". Fine: explained variance, active latents per token, active latents against the target. " in lines.loc["a", "sentence"]
    assert "Not judged: always-on latents" in lines.loc["b", "sentence"]
    assert bottom_lines(health, HOUSE).set_index("sae_id").loc["b", "mark"] == "poor"


def small_rubric(**changes: Any) -> dict[str, Any]:
    bands = [{"mark": "good", "range": "[0, 1]", "source": "s"}, {"mark": "poor", "range": "(1, inf)", "source": "s"}]
    metric = {"metric": "l0", "label": "l0", "unit": "number", "direction": "lower_is_better", "profiles": [{"when": {}, "bands": bands}]}
    return {"name": "own.v1", "description": "", "metrics": [metric | changes]}


def with_ranges(*ranges: tuple[str, str], **profile: Any) -> dict[str, Any]:
    return small_rubric(profiles=[{"when": {}, "bands": [{"mark": mark, "range": text, "source": "s"} for mark, text in ranges], **profile}])


@pytest.mark.parametrize(
    ("rubric", "message"),
    [
        (with_ranges(("good", "[0, 1]"), ("poor", "[1, 2]")), r"overlap at 1 \(good and poor\).*two_marks"),
        (with_ranges(("good", "[0, 5]"), ("poor", "[1, 2]"), ("poor", "(5, 6]")), "overlap from 1 to 2"),
        (with_ranges(("good", "[0, 1)"), ("poor", "(1, 2]")), "no band holds the values at 1"),
        (with_ranges(("good", "[0, 1)"), ("poor", "[2, 3]")), "no band holds the values from 1 to 2"),
        (with_ranges(("good", "[0, 1]"), gaps=[{"range": "[0.5, 2]", "reason": "r"}]), "a gap is declared where a band lies, from 0.5 to 1"),
        (small_rubric(two_marks={"take": "the second", "reason": "r"}), r"two_marks\.take must be 'the stricter', 'the milder' or a statement"),
        (small_rubric(check="L0 is fine"), "check"),
        (
            small_rubric() | {"across_sets": {"metric": "mse", "holds_up": ["good"], "source": "s"}},
            "across_sets: names mse, which the rubric does not judge",
        ),
        (small_rubric() | {"best_layer": {"source": "s", "order": [{"prefer": "lowest"}]}}, "'metric' goes with lowest and highest"),
        (
            small_rubric() | {"printed": [{"of": "X", "metric": "l0", "value": 0.5, "sign": "cross"}]},
            "contradicts the bands, which say good: say why in 'suspect'",
        ),
        (
            small_rubric() | {"printed": [{"of": "X", "metric": "l0", "value": 0.5, "sign": "tick", "suspect": "odd"}]},
            "meets its bands, so it is not suspect",
        ),
        (small_rubric() | {"metrics": small_rubric()["metrics"] * 2}, "l0 is judged twice"),
        (small_rubric() | {"tiers": ["superb"]}, "no band is called superb"),
        (
            small_rubric() | {"metrics": [small_rubric(check="fine")["metrics"][0], small_rubric(check="fine", metric="mse")["metrics"][0]]},
            "the check fine is named twice",
        ),
        (with_ranges(("good", "0 to 1")), r"expected an interval such as '\[0.4, 0.6\)'"),
        (with_ranges(("good", "[2, 1]")), "expected an interval"),
        (with_ranges(("fine", "[0, 1]")), "good"),
        (with_ranges(("poor", "[0, 1]"), ("good", "(1, 2]")), "lower_is_better"),
        (with_ranges(("good", "[0, 1]"), surprise=1), "surprise"),
        (
            small_rubric(profiles=[{"when": {"use_case": "x"}, "bands": [{"mark": "good", "range": "[0, 1]", "source": "s"}]}]),
            "names x, which is not declared",
        ),
        (small_rubric() | {"name": "unversioned"}, "name"),
        ([], "Rubric"),
    ],
)
def test_a_rubric_that_contradicts_itself_is_refused(tmp_path: Path, rubric: Any, message: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(rubric))
    with pytest.raises(StudyError, match=message) as caught:
        load_rubric(str(path))
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_declared_gap_gives_no_mark_and_its_reason() -> None:
    rubric = Rubric.model_validate(
        with_ranges(("good", "[0, 1)"), ("poor", "[2, 3]"), gaps=[{"range": "[1, 2)", "reason": "the source says nothing"}])
    )
    health = judge(
        [rubric], pd.DataFrame([{"sae_id": "a", "evaluation_set": "p", "l0": 1.5}]), pd.DataFrame([{"sae_id": "a", "d_sae": 8, "sparsity": 4}])
    )
    assert health[["mark", "note"]].to_numpy().tolist() == [["not_judged", "not judged: 1–below 2 is left open (the source says nothing)"]]


def test_an_unknown_rubric_names_those_there_are() -> None:
    with pytest.raises(StudyError, match=r"house\.v1.*found 'mine'"):
        load_rubric("mine")
    with pytest.raises(StudyError, match=r"/nowhere/own\.yaml"):
        rubric_path("/nowhere/own.yaml")


def test_a_file_that_is_not_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("name: own.v1\nmetrics: [\n")
    with pytest.raises(StudyError, match=r"own\.yaml:\d+: expected YAML"):
        load_rubric(str(path))


def test_a_rubric_is_checked_once_and_again_when_its_file_has_changed(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    written = rubric_path("house.v1").read_text()
    path.write_text(written)
    assert load_rubric(str(path)) is load_rubric(str(path))
    path.write_text(written.replace("name: house.v1", "name: own.v2", 1))
    assert load_rubric(str(path)).name == "own.v2"


def test_the_manual_page_names_every_rubric_and_its_example_is_one() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs/rubrics.md").read_text()
    assert all(f"`{rubric.name}`" in page for rubric in RUBRICS)
    example = next(block for block in page.split("```yaml\n")[1:] if block.startswith("name:")).split("```")[0]
    assert Rubric.model_validate(yaml.safe_load(example)).name == "lab.v1"

"""A health check fails by the rubric's marks and as badly as the rubric says."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from sae_pipeline.analysis.health.checks import HealthCheck, health_checks
from sae_pipeline.analysis.health.marks import judge
from sae_pipeline.analysis.health.rubrics import Rubric, load_rubric

BANDS = [
    {"mark": "good", "range": "[0, 1]", "source": "s"},
    {"mark": "warning", "range": "(1, 2]", "source": "s"},
    {"mark": "poor", "range": "(2, inf)", "source": "s"},
]


def checks(values: dict[str, float | None], **changes: Any) -> HealthCheck:
    """The check on the metric ``l0`` of SAEs with those values on one in-sample set, and 9 on another set."""
    judged = {
        "metric": "l0",
        "label": "L0",
        "unit": "number",
        "direction": "lower_is_better",
        "check": "few_fire",
        "profiles": [{"when": {}, "bands": BANDS}],
    }
    unchecked = judged | {"metric": "mse", "check": None}
    rubric = Rubric.model_validate({"name": "own.v1", "description": "", "metrics": [judged, unchecked]} | changes)
    rows = [{"sae_id": name, "evaluation_set": on, "l0": value if on == "home" else 9.0} for name, value in values.items() for on in ("home", "away")]
    health = judge([rubric], pd.DataFrame(rows), pd.DataFrame({"sae_id": list(values), "d_sae": 8, "sparsity": 4.0}))
    (found,) = health_checks(health, rubric, ["home"])
    return found


@pytest.mark.parametrize(
    ("values", "passed", "severity"),
    [
        ({"a": 1.0, "b": 0.0}, True, "warn"),
        ({"a": 1.5, "b": 0.0}, False, "warn"),
        ({"a": 1.5, "b": 2.5}, False, "error"),
        ({"a": None, "b": 1.0}, True, "warn"),
    ],
)
def test_a_check_fails_as_badly_as_its_worst_mark(values: dict[str, float | None], passed: bool, severity: str) -> None:
    found = checks(values)
    assert (found.name, found.passed, found.severity) == ("few_fire", passed, severity)


def test_a_failed_check_names_the_worst_sae_and_what_was_expected() -> None:
    found = checks({"a": 1.5, "b": 2.5, "c": None})
    figures = found.figures
    assert (figures["saes"], figures["saes_judged"], figures["saes_marked_warning"], figures["saes_marked_poor"]) == (3, 2, 1, 1)
    assert (figures["worst_sae"], figures["worst"]) == ("b", "poor on home: expected 0–1, found 2.5")
    assert found.sentence == "2 of 2 SAEs marked down for L0; the worst is b, poor on home: expected 0–1, found 2.5"
    assert checks({"a": 1.0}).sentence == "of 1 SAEs judged none is marked down for L0"


def test_the_rubric_decides_which_marks_fail_a_check_and_how_badly() -> None:
    assert checks({"a": 1.5}, check_severity={"poor": "warn"}).passed
    found = checks({"a": 2.5}, check_severity={"poor": "warn"})
    assert (found.passed, found.severity) == (False, "warn")
    assert "saes_marked_warning" not in found.figures
    assert checks({"a": 1.5}, check_severity={"warning": "error"}).severity == "error"


def test_what_has_no_mark_fails_no_check_and_says_why() -> None:
    found = checks({"a": None})
    assert found.passed
    assert found.sentence == "not applicable: L0 has no value for this SAE and set"


def test_the_house_rubric_checks_the_five_things_a_user_looks_at_first() -> None:
    house = load_rubric("house.v1")
    assert {judged.metric: judged.check for judged in house.metrics if judged.check} == {
        "explained_variance": "variance_is_explained",
        "l0_over_target": "l0_meets_its_target",
        "dead_share": "latents_are_alive",
        "dense_share@0.8": "no_latent_is_always_on",
        "train_gap": "held_out_text_is_explained_as_well",
    }
    assert house.check_severity == {"warning": "warn", "poor": "error"}

"""What the review of rubrics counts and remarks on."""

from __future__ import annotations

import pandas as pd

from sae_pipeline.analysis.health.review import COLUMNS, review
from sae_pipeline.reports.rubric_review import rubric_review_report


def marks(rubric: str, metric: str, *given: tuple[str, float]) -> pd.DataFrame:
    """Rows of the table ``health``; a mark per SAE."""
    return pd.DataFrame(
        [
            {"sae_id": f"S{n}", "rubric": rubric, "metric": metric, "mark": mark, "value": value, "note": "the source leaves this open"}
            for n, (mark, value) in enumerate(given)
        ]
    )


NONE = pd.DataFrame({"metric": [], "rubric": [], "other_rubric": []})


def test_marks_values_and_disagreements_are_counted() -> None:
    health = pd.concat([marks("a.v1", "l0", ("good", 20.0), ("poor", 400.0), ("good", 30.0)), marks("b.v1", "l0", ("good", 20.0), ("good", 400.0))])
    differing = pd.DataFrame({"metric": ["l0", "overall"], "rubric": ["a.v1", "a.v1"], "other_rubric": ["b.v1", "b.v1"]})
    first, second = review(health, differing).to_dict("records")
    assert (first["rubric"], first["good"], first["poor"], first["not_judged"]) == ("a.v1", 2, 1, 0)
    assert (first["lowest"], first["highest"], first["disagreements"], first["remark"]) == (20.0, 400.0, 1, "")
    assert second["disagreements"] == 1


def test_bands_that_tell_nothing_apart_are_remarked_on() -> None:
    (row,) = review(marks("a.v1", "l0", ("good", 1.0), ("good", 2.0)), NONE).to_dict("records")
    assert "every mark is 'good'" in row["remark"]


def test_one_sae_is_not_called_a_rule_that_tells_nothing_apart() -> None:
    assert review(marks("a.v1", "l0", ("good", 1.0)), NONE)["remark"].tolist() == [""]


def test_a_rule_that_judges_nothing_is_remarked_on_with_its_reason() -> None:
    (row,) = review(marks("a.v1", "l0", ("not_judged", 1.0), ("not_judged", 2.0)), NONE).to_dict("records")
    assert row["remark"] == "nothing is judged: the source leaves this open"
    assert row["lowest"] != row["lowest"]


def test_a_rule_that_is_partly_silent_says_how_often() -> None:
    (row,) = review(marks("a.v1", "l0", ("not_judged", 1.0), ("good", 2.0), ("poor", 3.0)), NONE).to_dict("records")
    assert row["remark"] == "1 of 3 are not judged"


def test_no_marks_give_an_empty_table_and_a_page_all_the_same() -> None:
    empty = review(marks("a.v1", "l0").reindex(columns=["rubric", "metric", "mark", "value", "note"]), NONE)
    assert list(empty.columns) == list(COLUMNS)
    assert rubric_review_report("toy", empty).sections == ()


def test_the_page_has_a_table_per_rubric() -> None:
    health = pd.concat([marks("a.v1", "l0", ("good", 1.0), ("poor", 9.0)), marks("b.v1", "l0", ("good", 1.0))])
    report = rubric_review_report("toy", review(health, NONE))
    assert [section.title for section in report.sections] == ["a.v1", "b.v1"]
    assert report.headline_sentence == "0 rules of 2 ask for a look."

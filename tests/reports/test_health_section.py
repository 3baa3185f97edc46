"""The health section shows every rubric's marks, the rules it follows, and what cannot be said."""

from __future__ import annotations

import pandas as pd
import synthetic_study

from sae_pipeline.analysis.health.marks import judge
from sae_pipeline.analysis.health.rubrics import Rubric, load_rubrics
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.reports.blocks import Section, Table
from sae_pipeline.reports.health import health_section

RUBRICS = load_rubrics(["house.v1", "seed1.v1", "seed4.tiers", "seed4.alerts"])
SETS = {"prose": "in_sample", "code": "domain_shift"}
FIGURES = {
    "a.L01": {"explained_variance": (0.9, 0.2), "dead_share": 0.0, "l0": 30.0, "always_on": []},
    "a.L03": {"explained_variance": (0.9, 0.65), "dead_share": 0.6, "l0": 30.0, "always_on": [7, 3, 9]},
}
"""Two SAEs that differ in the layer only: explained variance on either set, and the rest on both."""


def tables() -> StudyTables:
    saes = pd.DataFrame(
        {
            "sae_id": list(FIGURES), "mix": "PRE", "site": "resid_post", "layer": [1, 3], "expansion": 4.0, "d_sae": 1000, "architecture": "topk", "sparsity": 30.0,
            "tokens": 1, "init_seed": 0, "data_seed": 0, "batch_size": 1, "learning_rate": 1.0, "arm": "topk-k30", "final_loss": 0.08,
        }
    )  # fmt: skip
    metrics = pd.DataFrame(
        [
            {"sae_id": name, "evaluation_set": on, "kind": kind, "explained_variance": found["explained_variance"][n], "dead_share": found["dead_share"],
             "l0": found["l0"], "dense_share@0.8": len(found["always_on"]) / 1000}
            for name, found in FIGURES.items() for n, (on, kind) in enumerate(SETS.items())
        ]
    )  # fmt: skip
    densities = [
        {"sae_id": name, "evaluation_set": "prose", "latent": latent, "density": 0.9}
        for name, found in FIGURES.items()
        for latent in found["always_on"]
    ]
    quiet = [{"sae_id": name, "evaluation_set": "prose", "latent": 1, "density": 0.1} for name in FIGURES]
    empty = synthetic_study.frames().tables
    return StudyTables(saes, metrics, empty.document_sums, empty.baseline_sums, pd.DataFrame(densities + quiet))


def section(*rubrics: Rubric) -> Section:
    found = tables()
    chosen = rubrics or RUBRICS
    return health_section(judge(chosen, found.sae_metrics, found.saes, 10**8), chosen, found, ["prose"])


def table(page: Section, caption: str) -> Table:
    return next(found for found in page.tables if caption in found.caption)


def words(page: Section, caption: str) -> list[dict[str, str]]:
    found = table(page, caption)
    return [dict(zip(found.columns, (cell.text for cell in row), strict=True)) for row in found.rows]


def test_a_result_has_figure_and_mark_per_metric_and_a_bottom_line() -> None:
    good, bad = words(section(), "figure with the worst mark per metric")
    assert (good["explained variance"], good["dead latents"], good["always-on latents"]) == ("90 %, good", "0 %, good", "0 latents, good")
    assert (bad["dead latents"], bad["always-on latents"]) == ("60 %, poor", "3 latents, poor")
    assert bad["bottom line"].startswith("Not to be relied on (dead latents on prose: expected 0–5 %, found 60 %; always-on latents on prose:")
    assert good["redundancy"] == "not judged"


def test_layers_are_told_apart_with_the_ids_of_always_on_latents_and_the_best_one() -> None:
    page = section()
    first, third = words(page, "Layer by layer")
    assert (first["always-on latents"], first["best layer"]) == ("0 latents", "best")
    assert (third["always-on latents"], third["best layer"]) == ("3 latents (3, 7 and 9)", "")
    assert third["status"] == "poor: dead latents, always-on latents"
    said = (
        "the best is layer 1 in 1: lowest always-on latents, then fewest metrics marked warning or poor, then highest explained variance (house.v1)."
    )
    assert any(sentence.endswith(said) for sentence in page.sentences)


def test_the_verdict_across_sets_counts_those_that_hold_up() -> None:
    page = section()
    assert [row["generalisation"] for row in words(page, "on every evaluation set")] == ["variable (1 of 2 sets)", "good (2 of 2 sets)"]
    assert any("of 2 SAEs 1 good and 1 variable" in sentence for sentence in page.sentences)


def test_every_rubric_s_verdict_stands_beside_the_others_with_the_tier() -> None:
    first, third = words(section(), "Worst mark by every rubric")
    assert [first[rubric.name] for rubric in RUBRICS] == ["good"] * 4
    assert third["seed1.v1"] == "poor"
    assert first["success criteria of seed4.tiers"].startswith("excellent; not known: feature diversity")
    assert third["success criteria of seed4.tiers"].startswith("poor: always-on latents")


def test_disagreements_are_counted_with_both_bands() -> None:
    page = section()
    rows = table(page, "Where two rubrics disagree").rows
    # 65 % on code: above every range of the house and the framework, below the guide's tiers, between its alert and its ideal.
    assert {tuple(row[n].text for n in (0, 1, 2, 3, 5, 6)) for row in rows} == {
        ("explained variance", "1", "house.v1", "good", "seed4.tiers", "poor"),
        ("explained variance", "1", "house.v1", "good", "seed4.alerts", "warning"),
        ("explained variance", "1", "seed1.v1", "good", "seed4.tiers", "poor"),
        ("explained variance", "1", "seed1.v1", "good", "seed4.alerts", "warning"),
        ("explained variance", "1", "seed4.tiers", "poor", "seed4.alerts", "warning"),
    }
    assert rows[0][4].text.startswith("good: 60 % or more (S1")
    assert any(
        sentence.startswith("Two rubrics disagree about a figure 5 times and about the worst mark of an SAE on a set 0 times;")
        for sentence in page.sentences
    )


def test_one_rubric_without_rules_leaves_their_tables_out() -> None:
    data = {
        "name": "own.v1",
        "description": "only this",
        "metrics": [next(m for m in RUBRICS[0].metrics if m.metric == "l0")],
        "use_cases": RUBRICS[0].use_cases,
    }
    page = section(Rubric.model_validate(data))
    assert [found.caption.split(":")[0].split(" over")[0] for found in page.tables] == [
        "2 SAEs",
        "Worst mark by every rubric",
        "Latents that fire most, 3 of 3 above 10 %; a number leads to the latent's page",
        "The rubrics",
        "Bands the marks come from",
    ]
    assert words(page, "The rubrics") == [{"rubric": "own.v1", "what it is": "only this"}]


def test_printed_marks_that_contradict_their_bands_are_listed() -> None:
    assert len(words(section(), "against their own bands")) == 5

"""The concept study through the pipeline: its assets, its tables, its section, and what a change makes stale."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from commands import answer, assert_documented
from small_study import SmallStudy

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
TABLES = ("concept_studies", "concept_features", "concept_fits", "tail_recall", "directions", "direction_fits", "direction_latents")
SECTION = {
    "token_concepts": 60,
    "min_occurrences": 3,
    "keywords": {"baking": ["flour", "golden butter", "Sugar"], "animals": ["dog"], "absent": ["zebra"]},
    "directions": {
        "recipes_from_stories": {"positive_set": "recipes", "negative_set": "stories"},
        "asking": {
            "positive": [f"please {what}" for what in ("write again", "visit soon", "write soon", "visit again", "write", "visit")],
            "negative": ["the dog ran home", "rain fell on trees", "the dog ran", "rain fell", "the rain fell", "the dog ran again"],
            "position": "mean",
        },
    },
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> tuple[SmallStudy, Path]:
    folder = tmp_path_factory.mktemp("concepts")
    study = SmallStudy(folder / "toy.yaml", small_study_data | {"concepts": SECTION})
    assert answer(folder / "home", "run", study.write(), "--json")["failed"] == 0
    return study, folder


@pytest.fixture
def warehouse(finished: tuple[SmallStudy, Path]) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(str(finished[1] / "home/studies/toy/warehouse.duckdb"), read_only=True)


def test_every_table_and_column_is_in_the_manual(warehouse: duckdb.DuckDBPyConnection) -> None:
    assert_documented(warehouse, TABLES)


def test_the_first_arm_of_every_cell_is_looked_at(warehouse: duckdb.DuckDBPyConnection) -> None:
    ids = {row[0] for row in warehouse.execute("SELECT DISTINCT sae_id FROM concept_features").fetchall()}
    assert ids == {f"{mix}.L0{layer}.x0{e}.topk-k4-t6144-s0" for mix in ("MORE", "LESS") for layer in (0, 1) for e in (2, 4)}


def test_frequencies_are_those_of_the_saes_own_training_mix(warehouse: duckdb.DuckDBPyConnection) -> None:
    different, equal = warehouse.execute(
        """SELECT count(*) FILTER (abs(f.frequency - 1e6 * t.total / n.all_tokens) > 1e-6), count(*)
        FROM concept_features f JOIN saes USING (sae_id) JOIN token_frequencies t ON t.corpus = mix AND t.token = f.token
        JOIN (SELECT corpus, sum(total) AS all_tokens FROM token_frequencies GROUP BY corpus) n ON n.corpus = mix"""
    ).fetchall()[0]
    assert different == 0
    assert equal > 100


def test_keywords_are_counted_as_words_and_those_too_rare_to_judge_are_left_out(warehouse: duckdb.DuckDBPyConnection) -> None:
    rows = warehouse.execute("SELECT DISTINCT concept, occurrences FROM concept_features WHERE kind = 'keyword'").fetchall()
    assert {name for name, _ in rows} == {"baking", "animals"}
    by_mix = warehouse.execute(
        "SELECT mix, any_value(frequency) FROM concept_features JOIN saes USING (sae_id) WHERE concept = 'animals' GROUP BY mix"
    ).fetchall()
    frequency = dict(by_mix)
    assert 2 < frequency["MORE"] / frequency["LESS"] < 4.5  # three quarters of stories against one


def test_a_feature_is_judged_on_the_documents_it_was_not_chosen_on(warehouse: duckdb.DuckDBPyConnection) -> None:
    wrong = warehouse.execute(
        "SELECT count(*) FROM concept_features WHERE has_feature <> (f1 >= 0.5) OR judged_occurrences >= occurrences OR judged_occurrences < 3"
    ).fetchone()
    assert wrong == (0,)
    kinds = warehouse.execute("SELECT DISTINCT kind FROM concept_fits").fetchall()
    assert {kind for (kind,) in kinds} == {"token", "keyword"}


def test_directions_are_written_with_more_and_more_latents(warehouse: duckdb.DuckDBPyConnection) -> None:
    assert dict(warehouse.execute("SELECT direction, any_value(source) FROM directions GROUP BY direction").fetchall()) == {
        "recipes_from_stories": "documents of recipes and stories",
        "asking": "prompts",
    }
    rows = warehouse.execute(
        "SELECT sae_id, direction, method, list(cosine ORDER BY latents), list(latents ORDER BY latents) FROM direction_fits WHERE method <> 'sae' GROUP BY ALL"
    ).fetchall()
    assert len(rows) == 8 * 2 * 2
    for *_, cosines, latents in rows:
        assert latents == [1, 2, 4, 8, 16]
        assert all(0 <= cosine <= 1 for cosine in cosines)
        assert cosines[0] < cosines[-1]
    held_against = warehouse.execute("SELECT DISTINCT sae_id[:4], against[:4] FROM direction_fits ORDER BY ALL").fetchall()
    assert held_against == [("LESS", "MORE"), ("MORE", None)]


def test_the_report_has_the_section_with_its_figures(finished: tuple[SmallStudy, Path]) -> None:
    report = finished[1] / "home/studies/toy/report"
    assert 'id="concepts"' in (report / "index.html").read_text()
    for name in ("concepts-frequency", "concepts-tail", "concepts-directions"):
        assert (report / f"figures/{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (report / f"figures/{name}.csv").stat().st_size > 100


def test_nothing_is_computed_twice_and_another_cut_costs_the_concepts_alone(finished: tuple[SmallStudy, Path]) -> None:
    study, folder = finished
    assert answer(folder / "home", "plan", study.write(), "--json")["stale"] == []
    assert answer(folder / "home", "gc", study.write(), "--json")
    assert answer(folder / "home", "run", study.write(), "--json")["computed"] == 0

    def stricter(data: dict[str, Any]) -> None:
        data["concepts"]["f1_cut"] = 0.6

    stale = {entry["asset"] for entry in answer(folder / "home", "plan", study.write(stricter), "--json")["stale"]}
    assert stale == {f"toy/{name}" for name in ("concepts", "concept_tables", "metric_tables", "findings", "comparison_report")}
    study.write()

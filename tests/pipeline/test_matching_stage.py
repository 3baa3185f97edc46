"""Matching through the pipeline: its assets, its tables, what makes it stale, and the pairs it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from commands import answer, assert_documented
from small_study import SmallStudy

from sae_pipeline.stages.matching import ACROSS_LAYERS, MEASURED

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
ASSETS = ("feature_matches", "layer_matches", "match_tables")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> SmallStudy:
    data = small_study_data | {
        "matching": {"threshold": 0.5, "pairs_per_factor": 3, "correlation_tokens": 500},
        "saes": {
            "expansions": [2, 4],
            "defaults": {"tokens": 4_096, "batch_size": 256},
            "arms": [
                {"architecture": "topk", "k": 4, "seeds": [0, 1]},
                {"architecture": "batchtopk", "k": 4, "only": {"mixes": ["MORE"], "expansions": [2]}},
            ],
        },
    }
    return SmallStudy(tmp_path_factory.mktemp("matching") / "toy.yaml", data)


@pytest.fixture(scope="module")
def home(study: SmallStudy) -> Path:
    """The home of a finished run."""
    folder = study.path.parent / "home"
    assert answer(folder, "run", study.write(), "--json")["failed"] == 0
    return folder


@pytest.fixture
def warehouse(home: Path) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(str(home / "studies/toy/warehouse.duckdb"), read_only=True)


def test_every_table_and_column_is_in_the_manual(warehouse: duckdb.DuckDBPyConnection) -> None:
    assert_documented(warehouse, (*MEASURED, *ACROSS_LAYERS))


def test_a_pair_differs_in_the_factor_that_its_row_names_and_in_nothing_else(warehouse: duckdb.DuckDBPyConnection) -> None:
    columns = {"mix": "mix", "expansion": "expansion", "seed": "init_seed", "architecture": "architecture"}
    saes = warehouse.execute(f"SELECT sae_id, layer, {', '.join(columns.values())} FROM saes").fetchall()
    by_id = {sae_id: dict(zip(("layer", *columns), rest, strict=True)) for sae_id, *rest in saes}
    pairs = warehouse.execute("SELECT DISTINCT sae_id, other_sae_id, factor FROM matches").fetchall()
    assert len(pairs) == 2 * 2 * (3 + 3 + 3 + 1)  # layers, directions, pairs of mix, expansion, seed and architecture
    for sae_id, other, factor in pairs:
        assert [name for name in by_id[sae_id] if by_id[sae_id][name] != by_id[other][name]] == [factor]


def test_what_was_left_out_is_counted(warehouse: duckdb.DuckDBPyConnection) -> None:
    """Per layer 8 TopK SAEs on a cube of mix, expansion and seed with 4 edges of each kind, and one BatchTopK SAE."""
    rows = warehouse.execute(
        "SELECT factor, possible, matched, left_out FROM match_pairs WHERE layer = 1 AND possible > 0 ORDER BY factor"
    ).fetchall()
    assert rows == [("architecture", 1, 1, 0), ("expansion", 4, 3, 1), ("mix", 4, 3, 1), ("seed", 4, 3, 1)]


def test_alive_latents_are_those_that_fired_on_the_in_sample_set(warehouse: duckdb.DuckDBPyConnection) -> None:
    wrong = warehouse.execute(
        """SELECT count(*) FROM matches m
        JOIN (SELECT sae_id, count(*) FILTER (fired > 0) AS alive FROM feature_stats WHERE evaluation_set = 'stories' GROUP BY ALL) s USING (sae_id)
        WHERE m.unit = 'feature' AND m.population = 'alive' AND m.n <> s.alive"""
    ).fetchone()
    assert wrong == (0,)
    listed = warehouse.execute(
        "SELECT count(*) FROM feature_neighbours n JOIN feature_stats s USING (sae_id, latent) WHERE s.evaluation_set = 'stories' AND s.fired = 0"
    ).fetchone()
    assert listed == (0,)


def test_widths_are_contained_both_ways_and_split_from_the_narrower(warehouse: duckdb.DuckDBPyConnection) -> None:
    ways = warehouse.execute(
        "SELECT DISTINCT level, other_level FROM matches WHERE factor = 'expansion' AND unit = 'feature' AND side = 'decoder' ORDER BY ALL"
    ).fetchall()
    assert ways == [("2", "4"), ("4", "2")]
    assert warehouse.execute("SELECT count(*) FROM splits WHERE sae_id NOT LIKE '%.x02.%'").fetchone() == (0,)
    total, alive = warehouse.execute(
        """SELECT any_value(s.total), any_value(o.n) FROM (SELECT sae_id, other_sae_id, sum(parents) AS total FROM splits GROUP BY ALL) s
        JOIN one_to_one o USING (sae_id, other_sae_id) WHERE o.population = 'alive' GROUP BY sae_id, other_sae_id LIMIT 1"""
    ).fetchone() or (0, 1)
    assert total == alive


def test_one_to_one_never_exceeds_greedy_and_correlations_are_of_alive_latents(warehouse: duckdb.DuckDBPyConnection) -> None:
    rows = warehouse.execute(
        "SELECT population, shared_feature_ratio, greedy_shared_feature_ratio, correlation_mean, exact FROM one_to_one"
    ).fetchall()
    assert all(shared <= greedy and exact for _, shared, greedy, _, exact in rows)
    assert all((correlation is None) == (population == "all") for population, _, _, correlation, _ in rows)
    assert {population for population, *_ in rows} == {"all", "alive"}


def test_layers_are_matched_both_ways_for_the_first_arm_of_each_architecture(warehouse: duckdb.DuckDBPyConnection) -> None:
    rows = warehouse.execute("SELECT setting, layer, other_layer FROM layer_matches ORDER BY ALL").fetchall()
    settings = ("MORE x02 batchtopk-k4-t4096-s0", "MORE x02 topk-k4-t4096-s0")
    assert rows == [(setting, *layers) for setting in settings for layers in ((0, 1), (1, 0))]
    assert warehouse.execute("SELECT count(*) FROM directions_map").fetchone() == (0,)


def test_two_seeds_cover_each_other_as_far_as_their_alive_latents_match(warehouse: duckdb.DuckDBPyConnection) -> None:
    rows = warehouse.execute("SELECT layer, setting, seeds, saes, share FROM coverage").fetchall()
    assert {(seeds, saes) for _, _, seeds, saes, _ in rows} == {(1, 2)}
    for layer, setting, _, _, share in rows:
        mix, expansion, label = setting.split()
        name = f"{mix}.L0{layer}.{expansion}.{label}-s"
        ratios = warehouse.execute(
            "SELECT match_ratio FROM matches WHERE factor = 'seed' AND unit = 'feature' AND side = 'decoder' AND population = 'alive' AND sae_id LIKE ?",
            [name + "%"],
        ).fetchall()
        if ratios:  # three of four settings of a layer are among the pairs
            assert share == pytest.approx(sum(ratio for (ratio,) in ratios) / 2)


def test_orphans_and_matched_latents_are_all_alive_ones(warehouse: duckdb.DuckDBPyConnection) -> None:
    rows = warehouse.execute(
        """SELECT sum(latents), any_value(alive) FROM orphans
        JOIN (SELECT sae_id, count(*) FILTER (fired > 0) AS alive FROM feature_stats WHERE evaluation_set = 'stories' GROUP BY ALL) USING (sae_id)
        GROUP BY sae_id, factor"""
    ).fetchall()
    assert rows
    assert all(total == alive for total, alive in rows)
    listed, counted = (
        warehouse.execute(query).fetchone()
        for query in ("SELECT count(*) FROM orphan_features", "SELECT sum(latents) FROM orphans WHERE status = 'orphan'")
    )
    assert listed == counted


def test_nothing_is_computed_twice_and_what_is_needed_survives_cleaning_up(study: SmallStudy, home: Path) -> None:
    path = study.write()
    assert answer(home, "plan", path, "--json")["stale"] == []
    assert answer(home, "gc", path, "--json")
    assert answer(home, "run", path, "--json")["computed"] == 0


def test_another_threshold_computes_the_matching_again_and_trains_nothing(study: SmallStudy, home: Path) -> None:
    path = study.write(lambda data: data["matching"].update(threshold=0.6))
    stale = {entry["asset"].removeprefix("toy/") for entry in answer(home, "plan", path, "--json")["stale"]}
    assert stale >= set(ASSETS)
    assert not {asset for asset in stale if asset.split("/")[-1] in ("corpus", "activations", "baseline", "saes", "metrics", "scorecard")}
    assert answer(home, "run", path, "--json")["failed"] == 0
    with duckdb.connect(str(home / "studies/toy/warehouse.duckdb"), read_only=True) as warehouse:
        assert warehouse.execute("SELECT DISTINCT threshold FROM matches").fetchall() == [(0.6,)]


def test_a_study_that_does_not_ask_has_no_such_tables(study: SmallStudy, home: Path) -> None:
    path = study.write(lambda data: data.pop("matching"))
    stale = {entry["asset"].removeprefix("toy/") for entry in answer(home, "plan", path, "--json")["stale"]}
    assert not stale & set(ASSETS)
    assert answer(home, "run", path, "--json")["failed"] == 0
    with duckdb.connect(str(home / "studies/toy/warehouse.duckdb"), read_only=True) as warehouse:
        there = {name for (name,) in warehouse.execute("SELECT table_name FROM information_schema.tables").fetchall()}
    assert not there & {*MEASURED, *ACROSS_LAYERS}

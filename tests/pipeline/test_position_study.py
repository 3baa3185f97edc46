"""The position study through the pipeline: its assets, its tables, its section, and what it says of other models."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import duckdb
import pytest
from commands import answer, assert_documented
from small_study import SmallStudy

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
TABLES = ("position_studies", "position_curves", "position_effects", "position_features", "position_tokens")


@pytest.fixture(scope="module")
def learned(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A two-layer GPT-2 with random weights and the tokenizer of the Llama."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path_factory.mktemp("learned") / "gpt2"
    shutil.copytree(tiny_llama, folder, ignore=shutil.ignore_patterns("config.json", "generation_config.json", "*.safetensors"))
    vocabulary = json.loads((tiny_llama / "config.json").read_text())["vocab_size"]
    config = GPT2Config(vocab_size=vocabulary, n_positions=32, n_embd=32, n_layer=2, n_head=2, initializer_range=0.3, bos_token_id=0, eos_token_id=1)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)
    return folder


def run(folder: Path, data: dict[str, Any], model: Path, **positions: Any) -> tuple[str, Path]:
    """Run the small study on a model: (study file, home)."""
    study = SmallStudy(folder / "toy.yaml", data)

    def edit(data: dict[str, Any]) -> None:
        data["subject"]["model"] = str(model)
        data["positions"] = {"tokens": 1_000} | positions
        data["saes"] = {
            "expansions": [2],
            "defaults": {"tokens": 4_096, "batch_size": 256},
            "arms": [{"architecture": "topk", "k": 4, "seeds": [0, 1]}, {"architecture": "relu", "target_l0": 4, "only": {"layers": [1]}}],
        }

    path = study.write(edit)
    assert answer(folder / "home", "run", path, "--json")["failed"] == 0
    return path, folder / "home"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any], learned: Path) -> tuple[str, Path]:
    return run(tmp_path_factory.mktemp("positions"), small_study_data, learned)


@pytest.fixture
def warehouse(finished: tuple[str, Path]) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(str(finished[1] / "studies/toy/warehouse.duckdb"), read_only=True)


def test_every_table_and_column_is_in_the_manual(warehouse: duckdb.DuckDBPyConnection) -> None:
    assert_documented(warehouse, TABLES)


def test_of_each_architecture_the_first_arm_is_read_at_every_layer(warehouse: duckdb.DuckDBPyConnection) -> None:
    ids = {row[0] for row in warehouse.execute("SELECT DISTINCT sae_id FROM position_effects WHERE sae_id IS NOT NULL").fetchall()}
    assert {name.rsplit("-", 1)[-1] for name in ids} == {"s0"}
    assert sorted(name.split(".")[1] + name.split(".")[3].split("-")[0] for name in ids) == ["L00topk", "L01relu", "L01topk"]
    assert {name.split(".")[0] for name in ids} == {"MORE"}
    assert warehouse.execute("SELECT count(DISTINCT sae_id) FROM position_features").fetchone() == (3,)


def test_every_condition_is_measured_at_every_layer_with_its_interval(warehouse: duckdb.DuckDBPyConnection) -> None:
    rows = warehouse.execute(
        "SELECT layer, condition, estimate, low, high FROM position_effects WHERE quantity = 'activations' AND figure = 'position_share'"
    ).fetchall()
    assert sorted((layer, condition) for layer, condition, *_ in rows) == [(n, c) for n in (0, 1) for c in ("intact", "shuffle", "zero")]
    assert all(low <= high for *_, low, high in rows)
    at_block_0 = {condition: estimate for layer, condition, estimate, *_ in rows if layer == 0}
    assert at_block_0["intact"] > 3 * max(at_block_0["zero"], at_block_0["shuffle"])


def test_the_losses_of_the_model_are_the_same_at_every_layer(warehouse: duckdb.DuckDBPyConnection) -> None:
    found = warehouse.execute(
        "SELECT condition, max(estimate) - min(estimate) FROM position_effects WHERE quantity = 'cross_entropy' AND sae_id IS NULL GROUP BY ALL"
    ).fetchall()
    assert {condition for condition, _ in found} == {"intact", "zero", "shuffle"}
    assert all(spread < 1e-6 for _, spread in found)


def test_the_report_has_the_section_with_its_figures(finished: tuple[str, Path]) -> None:
    report = finished[1] / "studies/toy/report"
    assert 'id="positions"' in (report / "index.html").read_text()
    for name in ("", "-conditions", "-tokens", "-features", "-density", "-deciles", "-loss", "-error"):
        assert (report / f"figures/positions{name}.png").read_bytes()[:4] == b"\x89PNG"
        assert (report / f"figures/positions{name}.csv").stat().st_size > 100


def test_nothing_is_computed_twice_and_what_is_needed_survives_cleaning_up(finished: tuple[str, Path]) -> None:
    path, home = finished
    assert answer(home, "plan", path, "--json")["stale"] == []
    assert answer(home, "gc", path, "--json")
    again = answer(home, "run", path, "--json")
    assert again["computed"] == 0


def test_a_rotary_model_is_read_as_it_is_and_told_why_no_more(tmp_path: Path, small_study_data: dict[str, Any], tiny_llama: Path) -> None:
    data = small_study_data | {"activations": small_study_data["activations"] | {"layers": [1]}}
    _, home = run(tmp_path, data, tiny_llama, evaluation_set="recipes", mix="LESS")
    with duckdb.connect(str(home / "studies/toy/warehouse.duckdb"), read_only=True) as warehouse:
        ((reason, evaluation_set, mix),) = warehouse.execute("SELECT not_applicable, evaluation_set, mix FROM position_studies").fetchall()
        conditions = {row[0] for row in warehouse.execute("SELECT DISTINCT condition FROM position_effects").fetchall()}
    assert (evaluation_set, mix) == ("recipes", "LESS")
    assert reason.endswith("(its positions are rotary)")
    assert conditions == {"intact", "reconstructed"}
    page = (home / "studies/toy/report/report.md").read_text()
    assert "Zeroing and shuffling the position embeddings is not applicable: the subject has no learned absolute position embeddings" in page

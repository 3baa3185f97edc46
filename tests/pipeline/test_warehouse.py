"""What a finished study leaves for its user: a documented warehouse, an inventory, an export, a plan and a status."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pytest
import yaml
from commands import invoke
from small_study import WORDS, SmallStudy
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.errors import BadInput, ExportError
from sae_pipeline.metrics.registry import METRICS

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> tuple[str, Path]:
    """A study with every architecture, run once: (study file, home)."""
    folder = tmp_path_factory.mktemp("warehouse")
    study = SmallStudy(folder / "toy.yaml", small_study_data)

    def every_architecture(data: dict[str, Any]) -> None:
        data["activations"]["layers"] = [1]
        data["saes"]["expansions"] = [4]
        data["saes"]["arms"] = [
            {"architecture": "topk", "k": 4, "seeds": [0, 1]},
            {"architecture": "batchtopk", "k": 4},
            {"architecture": "jumprelu", "target_l0": 4, "only": {"mixes": ["MORE"]}},
            {"architecture": "relu", "target_l0": 4, "only": {"mixes": ["MORE"]}},
        ]

    path = study.write(every_architecture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_HOME", str(folder / "home"))
        answer = invoke("run", path, "--json")
    assert answer["failed"] == 0
    return path, folder / "home"


@pytest.fixture(autouse=True)
def _home(finished: tuple[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(finished[1]))


@pytest.fixture
def warehouse(finished: tuple[str, Path]) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(str(finished[1] / "studies/toy/warehouse.duckdb"), read_only=True)


def test_the_manual_page_names_every_table_and_column(warehouse: duckdb.DuckDBPyConnection) -> None:
    page = (REPOSITORY / "docs/warehouse.md").read_text()
    for (table,) in warehouse.execute("SHOW TABLES").fetchall():
        assert f"## `{table}`" in page
        for name, kind, *_ in warehouse.execute(f'DESCRIBE "{table}"').fetchall():
            assert name.startswith(("share_", "count_")) or f"`{name}`" in page, f"{table}.{name}"
            assert kind != '"NULL"', f"{table}.{name} has no type"


def test_there_is_one_row_per_sae_and_evaluation_set_with_every_metric(warehouse: duckdb.DuckDBPyConnection) -> None:
    assert warehouse.execute("SELECT count(*), count(DISTINCT sae_id) FROM sae_metrics").fetchone() == ((5 + 3) * 2, 5 + 3)
    assert set(METRICS) <= {row[0] for row in warehouse.execute("DESCRIBE sae_metrics").fetchall()}


def test_explained_variance_can_be_formed_again_from_the_document_sums(warehouse: duckdb.DuckDBPyConnection) -> None:
    metrics = warehouse.execute("SELECT sae_id, evaluation_set, explained_variance, mse FROM sae_metrics").fetchall()
    for sae_id, held_out, explained, mse in metrics:
        sums = warehouse.execute("SELECT document, n, sse FROM document_sums WHERE sae_id = ? AND evaluation_set = ?", [sae_id, held_out]).fetchdf()
        base = warehouse.execute("SELECT document, n, sum_sq, sum_x FROM baseline_sums WHERE evaluation_set = ?", [held_out]).fetchdf()
        assert list(sums["document"]) == list(base["document"])
        n, total = base["n"].sum(), np.sum(np.stack(base["sum_x"].to_numpy()), axis=0)
        variance = base["sum_sq"].sum() - total @ total / n
        assert explained == pytest.approx(1 - sums["sse"].sum() / variance, abs=1e-12)
        assert mse == pytest.approx(sums["sse"].sum() / n, rel=1e-12)


def test_explained_variance_by_position_can_be_formed_again_from_the_position_sums(warehouse: duckdb.DuckDBPyConnection) -> None:
    sums = warehouse.execute(
        "SELECT p.*, b.sum_sq, b.sum_x, b.n AS tokens FROM position_sums p JOIN saes USING (sae_id) "
        "JOIN baseline_position_sums b USING (evaluation_set, layer, site, position)"
    ).fetchdf()
    assert len(sums) == warehouse.execute("SELECT count(*) FROM position_sums").fetchone()[0]  # type: ignore[index]
    assert sums["position"].min() == 1  # BOS opens every context
    for row in sums.itertuples():
        assert row.n == row.tokens
        assert row.explained_variance == pytest.approx(1 - row.sse / (row.sum_sq - row.sum_x @ row.sum_x / row.n), abs=1e-9)
    by_position = sums.groupby(["sae_id", "evaluation_set"])[["n", "sse", "ce_n", "ce_sae", "kl"]].sum()
    by_document = warehouse.execute("SELECT sae_id, evaluation_set, n, sse, ce_n, ce_sae, kl FROM document_sums").fetchdf()
    expected = by_document.groupby(["sae_id", "evaluation_set"])[["n", "sse", "ce_n", "ce_sae", "kl"]].sum()
    np.testing.assert_allclose(by_position, expected.loc[by_position.index], rtol=1e-9, atol=1e-9)


def test_the_strongest_activations_lead_to_the_text_they_were_on(warehouse: duckdb.DuckDBPyConnection) -> None:
    found = warehouse.execute(
        "SELECT t.*, before, text, after, f.max, f.fired FROM top_contexts t JOIN context_text USING (evaluation_set, context, position) "
        "JOIN feature_stats f USING (sae_id, evaluation_set, latent)"
    ).fetchdf()
    assert len(found) == warehouse.execute("SELECT count(*) FROM top_contexts").fetchone()[0] > 0  # type: ignore[index]
    assert set(found["evaluation_set"]) == {"stories"}  # the first in-sample set
    strongest = found[found["place"] == 0]
    np.testing.assert_array_equal(strongest["activation"], strongest["max"])
    counts = found.groupby(["sae_id", "latent"]).agg(kept=("place", "size"), fired=("fired", "first"))
    np.testing.assert_array_equal(counts["kept"], counts["fired"].clip(upper=5))
    assert found["before"].str.startswith("<s>").any()
    assert found["text"].str.strip().isin(WORDS["stories"]).any()


def test_the_ids_of_dense_latents_lie_beside_the_warehouse(warehouse: duckdb.DuckDBPyConnection, finished: tuple[str, Path]) -> None:
    entries = json.loads((finished[1] / "studies/toy/dense_latents.json").read_text())
    assert len(entries) == warehouse.execute("SELECT count(*) FROM sae_metrics").fetchone()[0]  # type: ignore[index]
    for entry in entries:
        dense = warehouse.execute(
            "SELECT latent FROM feature_stats WHERE sae_id = ? AND evaluation_set = ? AND density > 0.1 ORDER BY latent",
            [entry["sae_id"], entry["evaluation_set"]],
        ).fetchall()
        assert entry["cuts"]["0.1"] == [latent for (latent,) in dense]
        assert entry["layer"] == 1


def test_why_first_letters_are_not_measured_stands_in_the_warehouse(warehouse: duckdb.DuckDBPyConnection) -> None:
    """The toy vocabulary holds no whole words of twenty letters; the metric is null, and the reason a sentence."""
    reasons = warehouse.execute("SELECT DISTINCT not_applicable FROM first_letters").fetchall()
    assert len(reasons) == 1
    assert reasons[0][0]
    assert warehouse.execute("SELECT count(first_letter_absorption), count(fake_feature_ratio) FROM sae_metrics").fetchone() == (0, 16)


def test_every_sae_can_be_followed_back_to_its_text(warehouse: duckdb.DuckDBPyConnection, finished: tuple[str, Path]) -> None:
    lineage = {row[0]: row for row in warehouse.execute("SELECT fingerprint, artifact_stage, what, inputs, content FROM lineage").fetchall()}
    by_content = {row[4]: row for row in lineage.values()}
    for fingerprint, mix in warehouse.execute("SELECT fingerprint, mix FROM saes").fetchall():
        activations = lineage[json.loads(lineage[fingerprint][3])["activations"]]
        assert activations[2] == f"{mix}/activations L01"
        inputs = json.loads(activations[3])
        corpus = by_content[inputs["corpus"]]
        assert corpus[2] == f"{mix}/corpus"
        assert by_content[inputs["subject"]][2] == "subject_model"
        assert set(json.loads(corpus[3])["sources"]) == {"stories", "recipes"}
        documents = finished[1] / "store" / "corpus" / corpus[0] / "documents.parquet"
        assert duckdb.execute(f"SELECT count(*) FROM '{documents}' WHERE length(text) > 0").fetchone()[0] > 10  # type: ignore[index]


def test_topk_never_uses_more_than_k_latents_and_the_others_meet_their_target(warehouse: duckdb.DuckDBPyConnection) -> None:
    rows = warehouse.execute("SELECT architecture, final_l0, l0 FROM sae_metrics JOIN saes USING (sae_id)").fetchall()
    assert all(l0 <= 4 for architecture, _, l0 in rows if architecture == "topk")
    # Thresholds are set on one half of a reserve of a few hundred tokens, and L0 is measured on the other.
    assert all(abs(final / 4 - 1) < 0.2 for architecture, final, _ in rows if architecture != "topk")


def test_the_inventory_lists_configuration_and_metrics(finished: tuple[str, Path]) -> None:
    rows = invoke("saes", finished[0], "--json")["saes"]
    assert len(rows) == 16
    assert {"sae_id", "d_sae", "k", "learning_rate", "explained_variance", "dead_share_5e4"} <= set(rows[0])
    assert rows[0]["dead_share_5e4"] is None  # 2,000 tokens cannot tell a rate of 0.05 % from silence


@pytest.mark.parametrize("form", ["saelens", "dictionary_learning", "sparsify"])
@pytest.mark.parametrize("label", ["topk-k4-t6144-s0", "batchtopk-k4-t6144-s0", "jumprelu-l4-t6144-s0", "relu-l4-t6144-s0"])
def test_an_export_opens_as_the_same_sae_in_every_format_that_can_express_it(
    finished: tuple[str, Path], tmp_path: Path, label: str, form: str
) -> None:
    from sae_pipeline.saes.formats import recognised
    from sae_pipeline.saes.inference import InferenceSAE

    target, sae_id = tmp_path / "an export – ü", f"MORE.L01.x04.{label}"
    result = CliRunner().invoke(app, ["export", sae_id, "--to", str(target), "--study", finished[0], "--format", form])
    if form == "sparsify" and not label.startswith("topk"):
        assert isinstance(result.exception, BadInput)
        assert "expected one that can express" in str(result.exception)
        assert list(tmp_path.iterdir()) == []
        return
    assert result.exit_code == 0, result.output
    assert recognised(target).name == form
    loaded = InferenceSAE.load(target)
    assert (loaded.d_model, loaded.d_sae) == (32, 128)
    assert loaded.metadata["hook_name"] == "blocks.1.hook_resid_post"
    assert "/" not in loaded.metadata["model_name"]


def test_a_model_card_says_what_the_sae_is_and_how_good(finished: tuple[str, Path], tmp_path: Path) -> None:
    sae_id = "MORE.L01.x04.batchtopk-k4-t6144-s0"
    invoke("export", sae_id, "--to", str(tmp_path / "sae"), "--study", finished[0], "--licence", "apache-2.0", "--json")
    card = (tmp_path / "sae/README.md").read_text()
    _, header, text = card.split("---\n", 2)
    front = yaml.safe_load(header)
    assert front["license"] == "apache-2.0"
    assert front["library_name"] == "saelens"
    assert "sparse-autoencoder" in front["tags"]
    assert "base_model" not in front  # the toy model is no model of the hub
    row = next(row for row in invoke("saes", finished[0], "--json")["saes"] if row["sae_id"] == sae_id)
    figures = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith(f"| {row['evaluation_set']} |")]
    explained = next(figure for figure in figures if figure[2] == "explained\\_variance")
    assert explained[4] == f"{row['explained_variance']:.4g}"
    low, high = map(float, explained[5].split(" to "))
    assert low <= row["explained_variance"] <= high
    for name in ("cfg.json", "sae_weights.safetensors"):
        assert hashlib.sha256((tmp_path / "sae" / name).read_bytes()).hexdigest() in text
    for words in ("## Intended use", "## Training data", "stories", "SAE.load_from_disk", "load_sae"):
        assert words in text
    assert str(tmp_path) not in card
    assert (tmp_path / "sae/cfg.json").stat().st_mode == (tmp_path / "sae/sae_weights.safetensors").stat().st_mode


def test_a_card_can_be_left_out_and_a_failed_check_leaves_nothing(
    finished: tuple[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["export", "MORE.L01.x04.topk-k4-t6144-s0", "--study", finished[0], "--format", "dictionary_learning", "--to"]
    assert CliRunner().invoke(app, [*command, str(tmp_path / "plain"), "--no-card"]).exit_code == 0
    assert sorted(path.name for path in (tmp_path / "plain").iterdir()) == ["ae.pt", "config.json"]
    monkeypatch.setattr("sae_pipeline.saes.formats.golden.TOLERANCE", -1.0)
    failed = CliRunner().invoke(app, [*command, str(tmp_path / "failed")])
    assert isinstance(failed.exception, ExportError)
    assert [path.name for path in tmp_path.iterdir()] == ["plain"]


def test_a_plan_says_what_would_run_and_why_and_starts_nothing(finished: tuple[str, Path], tmp_path: Path) -> None:
    assert invoke("plan", finished[0], "--json")["stale"] == []
    edited = tmp_path / "toy.yaml"
    edited.write_text(Path(finished[0]).read_text().replace("stories: 0.75", "stories: 0.5").replace("recipes: 0.25", "recipes: 0.5", 1))
    plan = invoke("plan", str(edited), "--json")
    reasons = {(s["asset"], s["partition"]): s["reason"] for s in plan["stale"]}
    assert "study file changed" in reasons["toy/MORE/corpus", None]
    assert reasons["toy/MORE/saes", "L01|x04"].startswith("follows toy/MORE/activations")
    assert not any("/LESS/" in asset or "/held_out/" in asset for asset, _ in reasons)
    assert (plan["cells"], plan["arms"], plan["tokens"]) == (2, 8, 2 * 8192 + 2 * 2000)
    assert plan["bytes"] > 0
    assert plan["seconds"] > 0
    assert invoke("plan", str(edited), "--json") == plan


def test_status_lists_every_partition_as_fresh(finished: tuple[str, Path]) -> None:
    states = invoke("status", finished[0], "--json")["assets"]
    assert {s["state"] for s in states} == {"fresh"}
    assert {"asset": "toy/MORE/saes", "partition": "L01|x04", "state": "fresh"} in states


def test_the_report_has_every_section_and_its_data(finished: tuple[str, Path]) -> None:
    folder = finished[1] / "studies/toy/report"
    page = (folder / "index.html").read_text()
    for section in ("summary", "matrix", "expansion", "budget", "tradeoff", "finding", "health", "lineage", "limitations"):
        assert f'id="{section}"' in page
    findings = json.loads((folder / "findings.json").read_text())["findings"]
    assert {"id", "claim", "estimate", "low", "high", "verdict", "cells", "documents", "seeds", "note"} <= set(findings[0])
    assert {path.stem for path in folder.glob("figures/*.png")} == {path.stem for path in folder.glob("figures/*.csv")}

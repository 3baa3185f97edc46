"""What a study may ask of its text and activations, end to end: sites, windows, no cache, derived sources, a control, cleaning up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from commands import invoke
from small_study import SmallStudy
from typer.testing import CliRunner

from sae_pipeline.cli import app

ONE_CELL = {"layers": [1], "context_length": 32, "tokens": 8_192, "shard_tokens": 2_048}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One home for all tests of this file: what one has computed, the next finds."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def _home(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(home))


@pytest.fixture
def one_cell(small_study: SmallStudy) -> SmallStudy:
    """The small study with one layer and one expansion."""
    small_study.data = small_study.data | {"activations": ONE_CELL, "saes": small_study.data["saes"] | {"expansions": [2]}}
    return small_study


def run(study: SmallStudy, edit: Any = None) -> dict[str, int]:
    """What a run computed, by asset without the study's prefix; the run must succeed."""
    answer = invoke("run", study.write(edit), "--json")
    assert answer["failed"] == 0, answer["failures"]
    return {name.partition("/")[2]: n for name, n in answer["computed_by_asset"].items()}


def rows(home: Path, query: str, study: str = "toy") -> list[tuple[Any, ...]]:
    with duckdb.connect(str(home / f"studies/{study}/warehouse.duckdb"), read_only=True) as connection:
        return connection.execute(query).fetchall()


@pytest.mark.slow
def test_without_a_cache_the_same_saes_are_trained(one_cell: SmallStudy, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_cache(data: dict[str, Any]) -> None:
        data["activations"] = ONE_CELL | {"cache": False}

    run(one_cell)
    cached = weights(home)
    assert not any("saes" in asset for asset in run(one_cell, without_cache)), "switching the cache off retrained"
    monkeypatch.setenv("SAE_HOME", str(tmp_path / "other"))
    run(one_cell, without_cache)
    assert weights(tmp_path / "other") == cached
    stored = {path.parent.parent.name for path in (tmp_path / "other/store").glob("*/*/shard-*.safetensors")}
    lanes = {json.loads(path.read_text())["inputs"]["corpus"] for path in (tmp_path / "other/store/activations").glob("*/manifest.json")}
    assert stored == {"activations"}
    assert len(lanes) == 2, "only the two evaluation sets are cached"


def weights(home: Path) -> dict[str, bytes]:
    """Bytes of every SAE's weights by its id."""
    return {sae: (Path(path) / "sae_weights.safetensors").read_bytes() for sae, path in rows(home, "SELECT sae_id, path FROM saes")}


@pytest.mark.slow
def test_two_sites_are_harvested_together_and_never_compared(one_cell: SmallStudy, home: Path) -> None:
    def two_sites(data: dict[str, Any]) -> None:
        data["activations"] = ONE_CELL | {"site": ["resid_post", "mlp_out"]}

    run(one_cell)
    computed = run(one_cell, two_sites)
    assert computed["MORE/activations"] == 1, "the site that was there is not harvested again"
    ids = {sae for (sae,) in rows(home, "SELECT sae_id FROM saes")}
    assert ids >= {"MORE.L01.x02.topk-k4-t6144-s0", "MORE.L01-mlp_out.x02.topk-k4-t6144-s0"}
    by_site = dict(rows(home, "SELECT site, max(cells) FROM findings WHERE id = 'S0-13' AND scope = 'all layers' GROUP BY site"))
    assert by_site == {"resid_post": 2, "mlp_out": 2}
    page = (home / "studies/toy/report/index.html").read_text()
    assert 'id="matrix"' in page
    assert 'id="matrix-mlp_out"' in page


@pytest.mark.slow
def test_another_window_evaluates_the_same_saes_on_other_documents(one_cell: SmallStudy, home: Path) -> None:
    seen = []
    for window in (0, 1):

        def windows(data: dict[str, Any], window: int = window) -> None:
            data["corpus"] = {"held_out_windows": 2, "held_out_share": 0.3}
            data["evaluation"]["window"] = window

        computed = run(one_cell, windows)
        assert (window == 0) or not any("saes" in asset for asset in computed), "a new window retrained"
        seen.append({document for (document,) in rows(home, "SELECT document_hash FROM baseline_sums")})
    assert seen[0]
    assert seen[1]
    assert not seen[0] & seen[1]


@pytest.mark.slow
def test_the_randomised_control_shares_the_text_and_nothing_else(one_cell: SmallStudy) -> None:
    run(one_cell)
    computed = run(one_cell, lambda data: data["subject"].update(weights="randomised", seed=3))
    assert not any(asset.endswith("corpus") for asset in computed)
    assert computed["MORE/activations"] == 1
    assert computed["MORE/saes"] == 2


@pytest.mark.slow
def test_an_encoder_goes_through_a_whole_study_without_next_token_figures(one_cell: SmallStudy, home: Path, tiny_bert: Path) -> None:
    def encoder(data: dict[str, Any]) -> None:
        data["name"] = "encoder"
        data["subject"] = {"model": str(tiny_bert)}

    run(one_cell, encoder)
    figures = rows(home, "SELECT count(*), count(explained_variance), count(ce_clean), count(kl_divergence) FROM sae_metrics", "encoder")
    assert figures == [(8, 8, 0, 0)]


@pytest.mark.slow
def test_derived_sources_are_made_once_and_mixed_like_any_other(one_cell: SmallStudy, home: Path) -> None:
    def derived(data: dict[str, Any]) -> None:
        data["name"] = "derived"
        data["sources"]["own"] = {"kind": "self_generated", "tokens": 12_000}
        data["sources"]["sweet"] = {"kind": "retrieved", "source": "recipes", "keywords": ["sugar", "golden"], "top": 400}
        data["sources"]["near"] = {"kind": "retrieved", "source": "recipes", "keywords": ["sugar"], "method": "dense", "top": 400}
        data["mixes"] = {"OWN": {"own": 1.0}, "FOUND": {"sweet": 0.5, "near": 0.5}}

    study = one_cell.write(derived)
    first = invoke("run", study, "--json")
    assert first["failed"] == 0, first["failures"]
    assert {name for name in first["computed_by_asset"] if "/sources/" in name} == {f"derived/sources/{n}" for n in ("own", "sweet", "near")}
    second = invoke("run", study, "--json")
    assert (second["launched"], second["computed"]) == (0, 0)
    shares = rows(home, "SELECT DISTINCT mix, share_own, share_sweet, share_near FROM saes ORDER BY mix", "derived")
    assert shares == [("FOUND", 0.0, 0.5, 0.5), ("OWN", 1.0, 0.0, 0.0)]
    sources = dict(rows(home, "SELECT scope, documents FROM corpus_statistics WHERE corpus = 'FOUND'", "derived"))
    assert sources["sweet"] > 0
    assert sources["near"] > 0


@pytest.mark.slow
def test_cleaning_up_keeps_what_the_named_study_needs_and_nothing_more(one_cell: SmallStudy, home: Path) -> None:
    run(one_cell)
    original = one_cell.write()
    small = str(one_cell.path.with_name("only_more.yaml"))
    data = json.loads(json.dumps(one_cell.data))
    data["mixes"].pop("LESS")
    SmallStudy(Path(small), data).write()
    invoke("run", small, "--json")
    before = {path.parent for path in (home / "store").glob("*/*/manifest.json")}
    promised = invoke("gc", small, "--dry-run", "--json")
    assert {path.parent for path in (home / "store").glob("*/*/manifest.json")} == before, "a dry run removed something"
    done = invoke("gc", small, "--json")
    assert done["removed"] == promised["removed"]
    assert done["bytes"] > 0
    assert {item["stage"] for item in done["removed"]} >= {"activations", "saes", "corpus"}
    again = invoke("run", small, "--json")
    assert (again["launched"], again["computed"]) == (0, 0), "something that was needed is gone"
    back = invoke("run", original, "--json")["computed_by_asset"]
    assert back["toy/LESS/corpus"] == 1
    assert "toy/MORE/saes" not in back


@pytest.mark.slow
def test_a_cell_whose_check_failed_stays_stale_when_another_cell_passes(small_study: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    import assets.metrics

    genuine, calls = assets.metrics.check, []

    def fails_once(key: Any, name: str, passed: bool, **rest: Any) -> Any:
        if name == "values_are_possible":
            calls.append(name)
            passed = passed and len(calls) != 1
        return genuine(key, name, passed, **rest)

    monkeypatch.setattr(assets.metrics, "check", fails_once)
    small_study.data = small_study.data | {"name": "checked", "activations": ONE_CELL, "mixes": {"MORE": small_study.data["mixes"]["MORE"]}}
    study = small_study.write()
    first = invoke("run", study, "--json", code=1)
    assert [failure["where"] for failure in first["failures"]] == ["checked/MORE/metrics L01|x02"]
    states = {(s["asset"], s["partition"]): s["state"] for s in invoke("status", study, "--json")["assets"]}
    assert states["checked/MORE/metrics", "L01|x02"] == "a blocking check failed"
    assert states["checked/MORE/metrics", "L01|x04"] == "fresh"
    assert (first["report"], first["report_outdated"]) == (None, True)
    mended = invoke("run", study, "--json")
    assert (mended["failed"], mended["report_outdated"]) == (0, False), "the check passes now, and what hung on it runs"

    calls.clear()
    small_study.data["saes"] = small_study.data["saes"] | {"arms": [{"architecture": "topk", "k": 5}]}
    again = CliRunner().invoke(app, ["run", small_study.write()])
    assert again.exit_code == 1
    assert f"{mended['report']} (of an earlier run: this one could not finish it)" in again.stdout

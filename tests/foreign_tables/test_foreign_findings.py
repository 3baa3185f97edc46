"""A published sweep's table gives the effects planted in it, with their size inside the interval, and says what it cannot give."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from made_up_results import BUDGET, BUDGETS, DECLARED, IN_DOMAIN, LAYERS, PER_DOUBLED_WIDTH, PER_LAYER, SHARE, results, written

from sae_pipeline.analysis import claims
from sae_pipeline.analysis.recommendations import recommend
from sae_pipeline.errors import BadInput
from sae_pipeline.foreign_tables.analyses import analyses
from sae_pipeline.foreign_tables.declared import declared_study, in_domain
from sae_pipeline.foreign_tables.report import drawn, evidence, study_tables, write
from sae_pipeline.foreign_tables.results import Results, read_results
from sae_pipeline.reports.folder import MARK, PAGE, report_folder
from sae_pipeline.study.schema import Analysis

SETTINGS = Analysis(bootstrap_samples=400)


def findings(table: Results, declared: tuple[str, ...] = DECLARED) -> pd.DataFrame:
    """The headline of every claim, by id."""
    study = declared_study(table, in_domain(table, declared), "made_up", SETTINGS)
    found = claims.find(evidence(study_tables(table), SETTINGS), study)
    return found[found["scope"] == "all layers"].drop_duplicates("id").set_index("id")


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Results:
    return read_results(written(tmp_path_factory.mktemp("table")))


@pytest.fixture(scope="module")
def found(table: Results) -> pd.DataFrame:
    return findings(table)


def few(**kept: Sequence[object]) -> pd.DataFrame:
    """The rows of a few levels, which take less time."""
    frame = results()
    for column, levels in kept.items():
        frame = frame[frame[column].isin(levels)]
    return frame.reset_index(drop=True)


ENDS = ("C4=c4-sample", "lmsys=GAIR/lima")
PURE = {"sae_train_dataset": ("C4", "lmsys")}


def saturating(millions: float) -> float:
    return BUDGET * (1 - BUDGETS[0] / millions)


def per_doubling(low: float, high: float) -> float:
    return (saturating(high) - saturating(low)) / float(np.log2(high / low))


PLANTED = {
    # Between the pure mixes, the share of matching text differs by one on either set.
    "S0-13": 2 * IN_DOMAIN,
    "S0-14": 2 * PER_DOUBLED_WIDTH,
    "S0-15": saturating(BUDGETS[-1]),
    "S0-16": per_doubling(*BUDGETS[:2]) - per_doubling(*BUDGETS[-2:]),
    "S0-17": PER_LAYER * (LAYERS[1] - LAYERS[0]),
    "S0-21": IN_DOMAIN - (saturating(BUDGETS[-1]) - saturating(BUDGETS[-2])),
}


def test_planted_effects_are_found_with_their_size(found: pd.DataFrame) -> None:
    for claim, size in PLANTED.items():
        assert found.loc[claim, "verdict"] == "supported", claim
        assert found.loc[claim, "estimate"] == pytest.approx(size, abs=0.003), claim
        assert found.loc[claim, "low"] - 0.001 <= size <= found.loc[claim, "high"] + 0.001, claim
        assert "resamples paired cells" in found.loc[claim, "note"]
    assert (found["documents"] == 0).all()


def test_budgets_are_told_in_millions_and_a_sparsity_that_is_not_told_is_no_zero(found: pd.DataFrame) -> None:
    assert found.loc["S0-15", "note"].startswith("explained variance at 419M minus at 50M, on ")
    assert found.loc["S0-19", "note"] == "needs SAEs that differ in nothing but sparsity, found none whose sparsity is known"


def test_a_table_without_effects_supports_nothing(tmp_path: Path) -> None:
    frame = few(**PURE)
    frame["explained_variance"] = 0.6 + np.random.default_rng(3).normal(0, 0.01, len(frame))
    found = findings(read_results(written(tmp_path, frame)), ENDS)
    assert not set(found.loc[list(PLANTED), "verdict"]) & {"supported", "contradicted"}


def test_reversed_effects_are_contradicted(tmp_path: Path) -> None:
    frame = few(**PURE).assign(explained_variance=lambda table: 1.2 - table["explained_variance"])
    found = findings(read_results(written(tmp_path, frame)), ENDS)
    assert set(found.loc[["S0-13", "S0-14", "S0-15", "S0-17"], "verdict"]) == {"contradicted"}


def test_seeds_of_one_cell_leave_their_yardstick_without_a_verdict(tmp_path: Path) -> None:
    frame = few(**PURE, layer=(6,), sae_expansion_factor=(2,), sae_token_size_mil=(50,)).assign(seed=0)
    again = frame[frame["sae_train_dataset"] == "C4"].assign(seed=1, explained_variance=0.6)
    row = findings(read_results(written(tmp_path, pd.concat([frame, again]))), ENDS).loc["SEED"]
    assert (row["verdict"], np.isnan(row["p_value"])) == ("inconclusive", True)
    assert "without an interval there" in row["note"]


def test_a_sparsity_that_some_saes_lack_is_no_level_of_it(tmp_path: Path) -> None:
    frame = few(**PURE, sae_token_size_mil=(50,))
    told = pd.concat([
        frame.assign(architecture="topk", k=k, explained_variance=frame["explained_variance"] + gain, activation_sparsity_l0=k / frame["d_sae"])
        for k, gain in ((32, 0.0), (64, 0.05))
    ])  # fmt: skip
    row = findings(read_results(written(tmp_path, pd.concat([told, frame.assign(architecture="relu")]))), ENDS).loc["S0-19"]
    assert row["estimate"] == pytest.approx(0.05, abs=0.003)


def test_recommendations_rest_on_claims_of_one_site(tmp_path: Path) -> None:
    """At one site more tokens help and deeper layers do, at the other neither: no site has all that a recommendation rests on but the first."""
    frame = pd.concat([few(**PURE, sae_token_size_mil=(50,)).assign(seed=seed) for seed in (0, 1)], ignore_index=True)
    frame["explained_variance"] += np.random.default_rng(0).normal(0, 1e-4, len(frame))
    other = frame.assign(site="mlp_out", explained_variance=1.2 - frame["explained_variance"])
    table = read_results(written(tmp_path, pd.concat([frame.assign(site="resid_post"), other])))
    study = declared_study(table, in_domain(table, ENDS), "made_up", SETTINGS)
    drawn_alone = {
        site: recommend(claims.find(evidence(study_tables(table).at_site(site), SETTINGS), study))["id"].tolist()
        for site in ("resid_post", "mlp_out")
    }
    together = drawn(table, study, in_domain(table, ENDS)).recommendations
    assert together is not None
    assert drawn_alone["resid_post"]
    assert together.groupby("site")["id"].agg(list).to_dict() == {site: ids for site, ids in drawn_alone.items() if ids}


def test_the_in_domain_advantage_is_not_guessed_from_names(tmp_path: Path) -> None:
    table = read_results(written(tmp_path, few(**PURE, sae_token_size_mil=(50,))))
    assert findings(table, ())["verdict"]["S0-13"] == "not_testable"
    lacks = {analysis.name: analysis.lacks for analysis in analyses(table, in_domain(table, ()))}
    assert "--in-domain MIX=SET" in lacks["in-domain advantage (S0-13)"]
    # A whole mix may be declared without a share.
    assert findings(table, ENDS)["estimate"]["S0-13"] == pytest.approx(2 * IN_DOMAIN, abs=0.003)


DECLARED_WRONG = {
    "Pile=c4-sample": "a mix of the table (C4, PRE, EQ, INS, lmsys)",
    "C4=pile": "an evaluation set of the table (c4-sample, GAIR/lima), found 'pile'",
    "C4=c4-sample:2": "a share above 0 and at most 1, found '2'",
    "C4=c4-sample:most": "a share above 0 and at most 1, found 'most'",
}


@pytest.mark.parametrize("declared", DECLARED_WRONG)
def test_a_wrong_declaration_is_refused(table: Results, declared: str) -> None:
    with pytest.raises(BadInput) as refusal:
        in_domain(table, [declared])
    assert DECLARED_WRONG[declared] in str(refusal.value)


def test_shares_above_one_and_declarations_twice_are_refused(table: Results) -> None:
    with pytest.raises(BadInput, match="at most 1, found 1"):
        in_domain(table, ["PRE=c4-sample:0.7", "PRE=GAIR/lima:0.7"])
    with pytest.raises(BadInput, match="together once"):
        in_domain(table, ["PRE=c4-sample:0.7", "PRE=c4-sample:0.3"])


def without(*columns: str) -> Any:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        kept = frame.drop(columns=list(dict.fromkeys(columns)))
        keys = [name for name in ("sae_train_dataset", "eval_dataset", "layer", "sae_expansion_factor", "sae_token_size_mil") if name in kept.columns]
        return kept.drop_duplicates(keys)

    return change


LACKING = {
    "token budget (S0-15)": (without("sae_token_size_mil"), "the column tokens"),
    "layer (S0-17)": (lambda frame: frame[frame["layer"] == 6], "2 values of layer (found 1)"),
    "diminishing returns of the token budget (S0-16)": (lambda frame: frame[frame["sae_token_size_mil"] < 200], "3 values of tokens (found 2)"),
    "trade-off of explained variance and L0": (without("d_sae"), "the column d_sae, to make l0 of l0_fraction"),
    "training mix against evaluation set (matrix)": (without("eval_dataset"), "the column evaluation_set"),
}


@pytest.mark.parametrize("analysis", LACKING)
def test_an_analysis_that_lacks_something_says_what(tmp_path: Path, analysis: str) -> None:
    change, lacks = LACKING[analysis]
    table = read_results(written(tmp_path, change(results())))
    found = {entry.name: entry for entry in analyses(table, in_domain(table, ()))}
    assert found[analysis].lacks == lacks
    assert not found[analysis].possible


def test_seeds_and_architectures_are_analysed_where_the_table_tells_them(tmp_path: Path) -> None:
    parts = [results(seed=seed).assign(seed=seed, sae_architecture=name) for seed in (0, 1) for name in ("topk", "jumprelu")]
    parts = [part[part["sae_train_dataset"].isin(PURE["sae_train_dataset"]) & part["sae_token_size_mil"].isin([50, 125])] for part in parts]
    table = read_results(written(tmp_path, pd.concat(parts)))
    possible = {entry.name for entry in analyses(table, in_domain(table, ENDS)) if entry.possible}
    assert {"architecture", "spread between seeds (SEED)"} <= possible
    found = findings(table, ENDS)
    # Two seeds of noise 0.002, averaged over the two sets' variances.
    assert found["estimate"]["SEED"] == pytest.approx(0.002, rel=0.25)
    assert found["seeds"]["S0-13"] == 2


@pytest.mark.parametrize("dropped", ["layer", "sae_token_size_mil", "sae_expansion_factor", "eval_dataset", "sae_train_dataset", "d_sae"])
def test_a_table_without_a_column_still_gives_a_report(tmp_path: Path, dropped: str) -> None:
    frame = few(**PURE, sae_token_size_mil=(50, 125), sae_expansion_factor=(2, 4))
    table = read_results(written(tmp_path, without(dropped, "d_sae")(frame)))
    write(table, in_domain(table, ()), tmp_path / "report", settings=Analysis(bootstrap_samples=100))
    assert (tmp_path / "report" / "index.html").exists()


@pytest.fixture(scope="module")
def report(table: Results, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("foreign") / "report"
    write(table, in_domain(table, DECLARED), folder, settings=SETTINGS)
    return folder


def test_the_report_says_how_the_table_was_read(report: Path) -> None:
    page = (report / "report.md").read_text()
    assert "240 rows in results.csv: 240 used, 0 left out." in page
    assert "Intervals resample cells" in page
    assert re.search(r"\d+ of \d+ analyses are possible with this table", page)
    assert "taken to be equal in all rows: site, d\\_model, architecture" in page
    for section in ('id="table"', 'id="analyses"', 'id="matrix"', 'id="finding"', 'id="limitations"'):
        assert section in (report / "index.html").read_text()


def test_findings_json_lists_findings_and_shares_of_variance(report: Path) -> None:
    document = json.loads((report / "findings.json").read_text())
    keys = {"id", "claim", "estimate", "low", "high", "verdict", "cells", "documents", "seeds", "note"}
    assert all(keys <= set(row) for row in document["findings"])
    assert {"metric", "layer", "factor", "share", "low", "high"} <= set(document["variance_shares"][0])
    whole = [row["share"] for row in document["variance_shares"] if row["metric"] == "explained_variance" and row["layer"] is None]
    assert sum(whole) == pytest.approx(1)


KILLED = """
import os, signal, sys
from pathlib import Path
from sae_pipeline.reports.folder import report_folder

with report_folder(Path(sys.argv[1])) as fresh:
    (fresh / "index.html").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_nothing_that_the_next_does_not_remove(tmp_path: Path) -> None:
    assert subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "report")]).returncode == -signal.SIGKILL
    assert not (tmp_path / "report").exists()
    with report_folder(tmp_path / "report") as fresh:
        assert not any(fresh.iterdir())
        (fresh / PAGE).write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    assert (tmp_path / "report" / PAGE).read_text() == "whole"


def test_a_second_writer_of_the_same_folder_waits_and_leaves_the_first_alone(tmp_path: Path) -> None:
    second = threading.Thread(target=lambda: write_report(tmp_path / "report", "second"))
    with report_folder(tmp_path / "report") as fresh:
        write_page(fresh, "first")
        second.start()
        second.join(0.5)
        assert second.is_alive()
        assert (fresh / PAGE).read_text() == f"{MARK}first"
    second.join()
    assert (tmp_path / "report" / PAGE).read_text() == f"{MARK}second"
    assert [path.name for path in tmp_path.iterdir()] == ["report"]


def write_report(folder: Path, text: str) -> None:
    with report_folder(folder) as fresh:
        write_page(fresh, text)


def write_page(folder: Path, text: str) -> None:
    (folder / PAGE).write_text(f"{MARK}{text}")


def test_mixes_between_the_ends_are_ranked_by_their_declared_shares(table: Results, found: pd.DataFrame) -> None:
    study = declared_study(table, in_domain(table, DECLARED), "made_up", SETTINGS)
    assert {mix: shares.get("c4-sample", 0.0) for mix, shares in study.mixes.items()} == SHARE
    assert found["verdict"]["S0-22"] == "supported"

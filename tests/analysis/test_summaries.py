"""Matrix, curves and trade-off average matched SAEs only and carry intervals."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd
import pytest

from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.summaries import ALL_MIXES, budget_curve, expansion_curve, matrix, tradeoff
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.study.schema import Study


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    return make_study()


@pytest.fixture
def tables(make_tables: Callable[..., StudyTables], study: Study) -> StudyTables:
    def truth(sae: dict, name: str) -> float:
        return 0.5 + 0.1 * sae[f"share_{name}"] + 0.01 * sae["expansion"] + 1e-6 * sae["tokens"]

    return make_tables(study, truth, tokens=(100_000, 200_000))


def without(tables: StudyTables, condition: str) -> StudyTables:
    return StudyTables(tables.saes.query(condition), tables.sae_metrics, tables.document_sums, tables.baseline_sums, tables.feature_stats)


def test_matrix_entry_is_the_mean_over_the_matched_saes(tables: StudyTables, study: Study) -> None:
    entries = matrix(Evidence.of(tables, study), study)
    assert len(entries) == 2 * 3 * 2
    entry = entries.query("layer == 1 and mix == 'PRE' and evaluation_set == 'prose'").iloc[0]
    ids = tables.saes.query("layer == 1 and mix == 'PRE'")["sae_id"]
    mean = tables.sae_metrics.query("evaluation_set == 'prose'").set_index("sae_id").loc[ids, "explained_variance"].mean()
    assert entry["estimate"] == pytest.approx(mean, rel=1e-12)
    assert entry["low"] < entry["estimate"] < entry["high"]
    assert (entry["n"], entry["documents"], entry["seeds"]) == (8, 60, 2)


def test_matrix_leaves_out_an_arm_that_one_mix_lacks(tables: StudyTables, study: Study) -> None:
    entries = matrix(Evidence.of(without(tables, "not (mix == 'EQ' and tokens == 100000)"), study), study)
    assert set(entries["n"]) == {4}
    pre = entries.query("layer == 1 and mix == 'PRE' and evaluation_set == 'prose'")["estimate"].item()
    assert pre == pytest.approx(0.5 + 0.07 + 0.06 + 0.2, abs=0.005)


def test_matrix_without_matching_arms_has_empty_entries(tables: StudyTables, study: Study) -> None:
    entries = matrix(Evidence.of(without(tables, "(mix == 'EQ') == (tokens == 100000)"), study), study)
    assert set(entries["n"]) == {0}
    assert entries["estimate"].isna().all()


def test_matrix_compares_the_mixes_that_have_saes_at_a_layer(tables: StudyTables, study: Study) -> None:
    whole, entries = (matrix(Evidence.of(some, study), study) for some in (tables, without(tables, "not (mix == 'EQ' and layer == 3)")))
    assert entries.query("layer == 3 and mix == 'EQ'")["n"].tolist() == [0, 0]
    assert set(entries.query("not (layer == 3 and mix == 'EQ')")["n"]) == {8}
    pd.testing.assert_frame_equal(entries.query("layer == 1"), whole.query("layer == 1"))


def test_matrix_of_another_metric(tables: StudyTables, study: Study) -> None:
    assert matrix(Evidence.of(tables, study), study, "l0")["estimate"].tolist() == pytest.approx([16.0] * 12)


def test_curves_follow_the_planted_slope(tables: StudyTables, study: Study) -> None:
    widths = expansion_curve(Evidence.of(tables, study), study).query(
        "layer == 1 and evaluation_set == 'chat' and mix == @ALL_MIXES", local_dict={"ALL_MIXES": ALL_MIXES}
    )
    assert widths["expansion"].tolist() == [4, 8]
    assert widths["estimate"].diff().iloc[1] == pytest.approx(0.04, abs=0.003)
    budgets = budget_curve(Evidence.of(tables, study), study).query("layer == 1 and evaluation_set == 'chat' and mix == 'PRE'")
    assert budgets["tokens"].tolist() == [100_000, 200_000]
    assert budgets["estimate"].diff().iloc[1] == pytest.approx(0.1, abs=0.003)
    assert set(budgets["n"]) == {4}


def test_undercomplete_and_overcomplete_are_curves_of_their_own(make_study: Callable[..., Study], make_tables: Callable[..., StudyTables]) -> None:
    study = make_study(saes={"expansions": [0.25, 0.5, 4], "arms": [{"architecture": "topk", "k": 2}]})
    curve = expansion_curve(Evidence.of(make_tables(study, lambda sae, name: 0.5), study), study)
    assert curve.groupby("regime")["expansion"].unique().map(list).to_dict() == {"overcomplete": [4.0], "undercomplete": [0.25, 0.5]}


def test_trade_off_averages_seeds_and_keeps_settings_apart(tables: StudyTables, study: Study) -> None:
    points = tradeoff(Evidence.of(tables, study))
    assert len(points) == 3 * 2 * 2 * 2 * 2  # mixes, layers, expansions, budgets, sets
    assert set(points["n"]) == {2}
    assert points["l0"].tolist() == pytest.approx([16.0] * len(points))
    assert (points["low"] < points["estimate"]).all()


def test_lines_of_one_panel_are_averaged_over_the_same_settings() -> None:
    from sae_pipeline.analysis.summaries import _comparable

    def units(mix: str, settings: list[str]) -> pd.DataFrame:
        index = pd.MultiIndex.from_tuples([(mix, s) for s in settings], names=["mix", "architecture"])
        return pd.DataFrame({2.0: settings}, index=index)

    lines = {"A": units("A", ["topk", "relu"]), "B": units("B", ["topk"]), "C": units("C", [])}
    assert {mix: list(line[2.0]) for mix, line in _comparable(lines).items()} == {"A": ["topk"], "B": ["topk"], "C": []}
    apart = {"A": units("A", ["topk"]), "B": units("B", ["relu"])}
    assert {mix: list(line[2.0]) for mix, line in _comparable(apart).items()} == {"A": ["topk"], "B": ["relu"]}

"""Tables from elsewhere: long names and units are known, every row is accounted for, and what cannot be used is said in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_results import BUDGETS, D_MODEL, results, written

from sae_pipeline.errors import BadInput
from sae_pipeline.foreign_tables.columns import COLUMNS, MEASURED, NAMES, SETTINGS, resolve
from sae_pipeline.foreign_tables.results import NOT_GIVEN, read_results

Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.mark.parametrize("name", ["results.csv", "results.parquet"])
def test_long_names_and_their_units_are_known(tmp_path: Path, name: str) -> None:
    frame = results()
    found = read_results(written(tmp_path, frame, name))
    assert sorted(found.saes["tokens"].unique()) == [millions * 10**6 for millions in BUDGETS]
    assert sorted(found.saes["mix"].unique()) == sorted(frame["sae_train_dataset"].unique())
    assert found.sae_metrics["dead_share"].tolist() == pytest.approx((frame["dead_features_pct"] / 100).tolist())
    assert found.sae_metrics["l0"].tolist() == pytest.approx([64.0] * len(frame))  # the fraction times d_sae
    assert len(found.saes) * 2 == found.rows == len(frame)
    assert not found.unused
    assert not found.left_out


def test_a_table_reads_alike_as_csv_and_as_parquet(tmp_path: Path) -> None:
    one, other = (read_results(written(tmp_path, name=name)) for name in ("results.csv", "results.parquet"))
    pd.testing.assert_frame_equal(one.saes, other.saes)
    pd.testing.assert_frame_equal(one.sae_metrics, other.sae_metrics)


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_recognised(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "results.csv"
    results().to_csv(path, index=False, sep=separator)
    assert read_results(path).rows == len(results())


def test_a_map_names_columns_and_gives_units(tmp_path: Path) -> None:
    frame = results().rename(columns={"sae_token_size_mil": "budget", "eval_dataset": "held out"})
    frame["explained_variance"] *= 100
    found = read_results(written(tmp_path, frame), ["tokens=budget*1e6", "evaluation_set=held out", "explained_variance=explained_variance/100"])
    plain = read_results(written(tmp_path, name="plain.csv"))
    assert found.saes["tokens"].tolist() == plain.saes["tokens"].tolist()
    assert found.sae_metrics["explained_variance"].tolist() == pytest.approx(plain.sae_metrics["explained_variance"].tolist())


def test_a_column_can_be_left_unused(tmp_path: Path) -> None:
    found = read_results(written(tmp_path), ["dead_share="])
    assert "dead_share" not in found.sae_metrics
    assert found.unused == ("dead_features_pct",)


def test_widths_follow_from_each_other(tmp_path: Path) -> None:
    frame = results().drop(columns="sae_expansion_factor").assign(d_model=D_MODEL)
    assert sorted(read_results(written(tmp_path, frame)).saes["expansion"].unique()) == [2.0, 4.0, 8.0]
    apart = read_results(written(tmp_path, frame.drop(columns="d_model"), "apart.csv"))
    assert apart.saes["expansion"].nunique() == 1
    assert apart.saes["variant"].nunique() == 3  # never compared across widths


def test_saes_of_two_models_are_never_compared(tmp_path: Path) -> None:
    """The same factors on activations of another width, told by the widths of dictionaries and of activations, or of dictionaries alone."""
    frame = results()
    other = frame.assign(d_sae=frame["d_sae"] / 4, explained_variance=frame["explained_variance"] - 0.3)
    both = pd.concat([frame.assign(d_model=D_MODEL), other.assign(d_model=D_MODEL // 4)])
    for told in (both, both.drop(columns="d_model")):
        found = read_results(written(tmp_path, told))
        assert len(found.saes) == found.saes["sae_id"].nunique() == 2 * len(read_results(written(tmp_path)).saes)
        assert found.saes.groupby("variant")["d_sae"].max().tolist() == sorted((2048 * 8, 512 * 8), key=str)


def test_rounded_factors_do_not_make_two_models_of_one(tmp_path: Path) -> None:
    """16384 / 21 and 32768 / 43 are both of activations 768 wide."""
    rows = [(21, 16384), (43, 32768), (8, 16384)]
    frame = pd.DataFrame([{"sae_expansion_factor": factor, "d_sae": d_sae, "explained_variance": 0.5} for factor, d_sae in rows])
    saes = read_results(written(tmp_path, frame)).saes
    assert saes["variant"].tolist() == ["d_model about 771", "d_model about 771", "d_model about 2048"]
    alike = frame.iloc[:1]
    twice = read_results(written(tmp_path, pd.concat([alike, alike.assign(d_sae=16400, explained_variance=0.4)]))).saes
    assert twice["sae_id"].tolist() == ["d_sae 16384", "d_sae 16400"]


def test_names_tell_long_numbers_apart(tmp_path: Path) -> None:
    frame = pd.concat([results().assign(seed=seed, lr=rate) for seed, rate in ((20240101, 1e-3), (20240102, 1e-3), (20240101, 1.0000001e-3))])
    saes = read_results(written(tmp_path, frame)).saes
    assert saes["sae_id"].is_unique
    assert len(saes) == 3 * len(read_results(written(tmp_path)).saes)


def test_saes_without_a_sparsity_stay_beside_those_that_have_one(tmp_path: Path) -> None:
    frame = pd.concat([results().assign(architecture="topk", k=64), results().assign(architecture="relu", k=None)])
    found = read_results(written(tmp_path, frame))
    assert not found.left_out
    assert found.saes.groupby("architecture")["k"].agg(["count", "size"]).loc[["relu", "topk"]].to_numpy().tolist() == [[0, 120], [120, 120]]


def test_missing_text_of_any_type_is_missing(tmp_path: Path) -> None:
    frame = results().astype({"sae_train_dataset": "string"})
    frame.loc[3, "sae_train_dataset"] = pd.NA
    assert read_results(written(tmp_path, frame, "results.parquet")).left_out == (("no value of mix", 1),)


def test_explained_variance_follows_from_the_unexplained(tmp_path: Path) -> None:
    frame = results()
    found = read_results(written(tmp_path, frame.assign(fvu=1 - frame["explained_variance"]).drop(columns="explained_variance")))
    assert found.sae_metrics["explained_variance"].tolist() == pytest.approx(frame["explained_variance"].tolist())
    assert "explained_variance from fvu" in found.derived


def test_settings_that_are_not_told_are_named(tmp_path: Path) -> None:
    found = read_results(
        written(
            tmp_path,
            results().drop(columns="layer").drop_duplicates(["sae_train_dataset", "eval_dataset", "sae_expansion_factor", "sae_token_size_mil"]),
        )
    )
    assert {"layer", "architecture", "init_seed"} <= set(found.alike)
    assert set(found.saes["architecture"]) == {NOT_GIVEN}


def with_row(column: str, value: object) -> Change:
    """An edit of the fourth row."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        edited = frame.astype(object)
        edited.loc[3, column] = value
        return edited

    return change


LEFT_OUT: dict[str, tuple[Change, tuple[str, int]]] = {
    "a missing metric": (with_row("explained_variance", None), ("no value of explained_variance", 1)),
    "a missing setting": (with_row("sae_train_dataset", "n/a"), ("no value of mix", 1)),
    "a diverged SAE": (with_row("explained_variance", "-inf"), ("explained_variance is not finite", 1)),
    "a repeated row": (lambda frame: pd.concat([frame, frame.iloc[[0, 5]]]), ("the same as a row before", 2)),
}


@pytest.mark.parametrize("case", LEFT_OUT)
def test_rows_that_are_left_out_are_counted_with_their_reason(tmp_path: Path, case: str) -> None:
    change, expected = LEFT_OUT[case]
    found = read_results(written(tmp_path, change(results())))
    assert found.left_out == (expected,)
    assert len(found.sae_metrics) == found.rows - expected[1]


REFUSED: dict[str, tuple[Change, list[str], list[str]]] = {
    "text among numbers": (with_row("layer", "six"), [], ["row 5", "column layer", "expected a number", "'six'", "--map layer="]),
    "half a layer": (with_row("layer", 6.5), [], ["row 5", "whole number", "6.5"]),
    "explained variance in per cent": (with_row("explained_variance", 71.2), [], ["row 5", "-inf to 1", "71.2", "--map explained_variance=explained_variance/100"]),
    "more than all dead, of a column in per cent": (with_row("dead_features_pct", 120), [], ["expected 0 to 100, found 120; correct it"]),
    "no width": (with_row("sae_expansion_factor", 0), [], ["row 5", "above 0"]),
    "an unknown kind": (lambda frame: frame.assign(kind="far away"), [], ["in_sample, domain_shift", "'far away'"]),
    "no metric": (lambda frame: frame.drop(columns="explained_variance"), [], ["explained_variance (or fvu)", "--map explained_variance=COLUMN"]),
    "rows that contradict each other": (
        lambda frame: pd.concat([frame, frame.iloc[[0]].assign(explained_variance=0.1)]), [], ["rows 2 and 242", "one row per setting", "such as seed"],
    ),
    "a setting that nobody named": (
        lambda frame: pd.concat([frame.assign(decay="linear"), frame.assign(decay="cosine", explained_variance=0.1)]), [],
        ["they differ in decay", "--map variant=decay"],
    ),
    "a name for several SAEs": (lambda frame: frame.assign(sae_id="one"), [], ["one setting per SAE", "'one'"]),
    "a width that is not the factor's": (
        lambda frame: frame.assign(d_model=64), [], ["row 2", "expected d_sae to be expansion times d_model", "d_sae 4096, d_model 64", "--map d_model="],
    ),
    "a kind that depends on the mix": (
        lambda frame: frame.assign(kind=np.where(frame["sae_train_dataset"] == "C4", "in_sample", "domain_shift")), [],
        ["one kind per evaluation set, found domain_shift and in_sample for 'GAIR/lima'", "--map kind=", "--in-domain"],
    ),
    "a sparsity of nothing": (lambda frame: frame.assign(k=0), [], ["column k (sparsity)", "above 0", "leave it empty"]),
    "no rows": (lambda frame: frame.iloc[:0], [], ["columns only"]),
    "no usable rows": (lambda frame: frame.assign(explained_variance=""), [], ["none", "240 with no value of explained_variance"]),
    "an unknown id": (lambda frame: frame, ["corpus=layer"], ["'corpus'", "known are mix, layer"]),
    "a misspelt id": (lambda frame: frame, ["expansions=layer"], ["did you mean 'expansion'?"]),
    "a column that is not there": (lambda frame: frame, ["mix=sae_train_datasets"], ["none named 'sae_train_datasets'", "did you mean 'sae_train_dataset'?"]),
    "a map without a sign": (lambda frame: frame, ["mix"], ["OUR_ID=THEIR_COLUMN"]),
    "a map twice": (lambda frame: frame, ["mix=layer", "mix=sae_train_dataset"], ["each id once"]),
    "a factor of nothing": (lambda frame: frame, ["tokens=sae_token_size_mil*0"], ["factor other than 0"]),
    "two columns for one": (lambda frame: frame.assign(train_dataset="x"), [], ["one column for mix", "sae_train_dataset and train_dataset"]),
}  # fmt: skip


def test_no_unit_is_proposed_for_half_a_layer(tmp_path: Path) -> None:
    with pytest.raises(BadInput) as refusal:
        read_results(written(tmp_path, with_row("layer", 6.5)(results())))
    assert str(refusal.value).endswith("found 6.5; correct it")


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_used_is_refused_in_one_sentence(tmp_path: Path, case: str) -> None:
    change, asked, words = REFUSED[case]
    with pytest.raises(BadInput) as refusal:
        read_results(written(tmp_path, change(results())), asked)
    message = str(refusal.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


FILES: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("results.csv", b"", "an empty file"),
    "a row too short": ("results.csv", b"layer,explained_variance\n1,0.5\n2\n", "row 3: expected 2 values"),
    "a column twice": ("results.csv", b"layer,layer,explained_variance\n1,1,0.5\n", "'layer' 2 times"),
    "other bytes": ("results.csv", b"layer,explained_variance\n\xff\xfe,1\n", "UTF-8"),
    "no Parquet": ("results.parquet", b"layer,explained_variance\n", "expected a Parquet file"),
    "another kind of file": ("results.xlsx", b"", ".csv, .tsv or .parquet"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_are_no_table_are_refused(tmp_path: Path, case: str) -> None:
    name, content, words = FILES[case]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BadInput, match="expected") as refusal:
        read_results(tmp_path / name)
    assert words in str(refusal.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="found nothing; check the path"):
        read_results(tmp_path / "none.csv")


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([name for column in COLUMNS for name in (column, *(long for long, _ in COLUMNS[column].long_names))]), unique=True))
def test_every_column_is_taken_once_or_told_to_be_unused(names: list[str]) -> None:
    try:
        taken, unused = resolve(names, [], "a table")
    except BadInput:
        return
    assert sorted([column.name for column in taken] + unused) == sorted(names)
    assert len({column.id for column in taken}) == len(taken)


def test_l0_stays_missing_where_widths_are_not_told(tmp_path: Path) -> None:
    found = read_results(written(tmp_path, results().drop(columns="d_sae")))
    assert np.isnan(found.sae_metrics["l0"]).all()
    assert "l0_fraction" in found.sae_metrics


def test_the_manual_names_every_setting_and_every_other_name() -> None:
    page = (Path(__file__).parents[2] / "docs/foreign-tables.md").read_text()
    for column_id, column in (SETTINGS | NAMES).items():
        assert f"`{column_id}`" in page, column_id
        for name, _ in column.long_names:
            assert f"`{name}`" in page, name
    for column in MEASURED.values():
        for name, _ in column.long_names:
            assert f"`{name}`" in page, name

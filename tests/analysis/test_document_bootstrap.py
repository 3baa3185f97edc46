"""The bootstrap is paired, deterministic, equal to a plain loop, and covers a known truth as often as it says."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.analysis.bootstrap import (
    DocumentResamples,
    document_weights,
    percentile_interval,
    resample,
    with_seed_noise,
)
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.errors import BadInput
from sae_pipeline.study.schema import Study

HASHES = [f"h{i}" for i in range(12)]


def one_layer(sums: dict[str, pd.DataFrame], baseline: pd.DataFrame, hashes: list[str]) -> StudyTables:
    """Tables of SAEs that share every setting, from their sums over documents and those of the baseline, on the set ``any``."""
    shared = {"mix": "A", "layer": 1, "expansion": 4.0, "d_sae": 32, "architecture": "topk", "sparsity": 16.0, "tokens": 1, "init_seed": 0, "data_seed": 0,
              "batch_size": 8, "learning_rate": 1e-3}  # fmt: skip
    saes = pd.DataFrame([shared | {"sae_id": sae_id, "arm": sae_id} for sae_id in sums])
    columns = {"evaluation_set": "any", "document": range(len(hashes)), "document_hash": hashes}
    documents = pd.concat([pd.DataFrame({"n": baseline["n"]} | dict(frame.items())).assign(sae_id=name, **columns) for name, frame in sums.items()])
    empty = pd.DataFrame(columns=["sae_id", "evaluation_set", "latent", "density", "kind"])
    return StudyTables(saes, empty, documents, baseline.assign(layer=1, **columns), empty)


def test_weights_count_draws_with_replacement() -> None:
    weights = document_weights(0, "prose", HASHES, 2000)
    assert (weights.sum(1) == 12).all()
    assert weights.mean(0) == pytest.approx(np.ones(12), abs=0.1)
    assert weights.var() == pytest.approx(11 / 12, rel=0.05)  # of a multinomial with n = 12 and p = 1/12


def test_weights_depend_on_seed_and_set() -> None:
    first = document_weights(0, "prose", HASHES, 5)
    assert (document_weights(0, "prose", HASHES, 5) == first).all()
    assert (document_weights(1, "prose", HASHES, 5) != first).any()
    assert (document_weights(0, "chat", HASHES, 5) != first).any()


@given(st.permutations(range(12)))
def test_a_document_keeps_its_weights_wherever_it_stands_in_the_table(order: list[int]) -> None:
    shuffled = document_weights(0, "prose", [HASHES[i] for i in order], 5)
    assert (shuffled == document_weights(0, "prose", HASHES, 5)[:, order]).all()


def test_recombined_sums_equal_recomputing_from_repeated_tokens() -> None:
    generator = np.random.default_rng(3)
    documents = [generator.normal(size=(generator.integers(2, 9), 4)) + 2 for _ in range(7)]
    errors = [generator.normal(size=x.shape) * 0.3 for x in documents]
    hashes = [str(i) for i in range(7)]
    sums = pd.DataFrame({"sse": [(e**2).sum() for e in errors]})
    baseline = pd.DataFrame({"n": [len(x) for x in documents], "sum_sq": [(x**2).sum() for x in documents], "sum_x": [x.sum(0) for x in documents]})
    tables = one_layer({"sae": sums}, baseline, hashes)
    found = DocumentResamples(tables, 20, 0).values("explained_variance")[1][0, 1:]
    for weight, value in zip(document_weights(0, "any", hashes, 20), found, strict=True):
        x, e = (np.concatenate([part for part, w in zip(parts, weight, strict=True) for _ in range(int(w))]) for parts in (documents, errors))
        assert value == pytest.approx(1 - (e**2).sum() / ((x - x.mean(0)) ** 2).sum(), rel=1e-10)


def test_percentile_interval_ignores_resamples_without_a_value() -> None:
    assert percentile_interval(np.array([np.nan, *np.linspace(0, 1, 101)]), 0.9) == pytest.approx((0.05, 0.95))


def test_document_intervals_cover_a_known_truth() -> None:
    """The ratio Σ sse / Σ n of documents of unequal length has the true value 2; 90 % intervals should hold it about 90 % of the time."""
    generator = np.random.default_rng(0)
    hashes = [str(i) for i in range(60)]
    held = 0
    for trial in range(250):
        n = generator.integers(10, 200, 60)
        baseline = pd.DataFrame({"n": n, "sum_sq": 1.0, "sum_x": [np.zeros(1)] * 60})
        tables = one_layer({"sae": pd.DataFrame({"n": n, "sse": n * 2 * generator.gamma(4, 1 / 4, 60)})}, baseline, hashes)
        figure = Evidence(tables, DocumentResamples(tables, 300, trial), 0.9).estimate({("sae", "any"): 1.0}, "mse")
        held += figure.low <= 2 <= figure.high
    assert 0.84 <= held / 250 <= 0.94


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_seed_intervals_cover_a_known_truth(seeds: int) -> None:
    """Means of a few normal seeds, whose documents all err alike: Student's interval holds the truth at its stated rate."""
    trials = 600
    values = 10 + np.random.default_rng(seeds).normal(size=(trials, seeds))
    baseline = pd.DataFrame({"n": [1, 1], "sum_sq": 1.0, "sum_x": [np.zeros(1)] * 2})
    saes = {f"{trial}-{seed}": pd.DataFrame({"n": [1, 1], "sse": values[trial, seed]}) for trial in range(trials) for seed in range(seeds)}
    tables = one_layer(saes, baseline, ["a", "b"])
    tables.saes["init_seed"] = [int(sae_id.split("-")[1]) for sae_id in tables.saes["sae_id"]]
    tables.saes["mix"] = [sae_id.split("-")[0] for sae_id in tables.saes["sae_id"]]
    evidence = Evidence(tables, DocumentResamples(tables, 1, 0), 0.95)
    figures = [evidence.estimate({(f"{trial}-{seed}", "any"): 1 / seeds for seed in range(seeds)}, "mse") for trial in range(trials)]
    held = sum(figure.low <= 10 <= figure.high for figure in figures)
    assert 0.925 <= held / trials <= 0.975


def test_seed_noise_never_narrows_an_interval() -> None:
    assert with_seed_noise(1.0, (0.5, 1.2), 0.0, 1.0, 0.95) == (0.5, 1.2)
    low, high = with_seed_noise(1.0, (0.5, 1.2), 0.01, 4.0, 0.95)
    assert low < 0.5
    assert high > 1.2


@pytest.fixture
def study(make_study: Callable[..., Study]) -> Study:
    return make_study()


@pytest.fixture
def tables(make_tables: Callable[..., StudyTables], study: Study) -> StudyTables:
    return make_tables(study, lambda sae, name: 0.7 + 0.01 * sae["layer"])


def test_the_sample_itself_gives_the_tables_explained_variance(tables: StudyTables) -> None:
    rows, values = DocumentResamples(tables, 10, 0).values("explained_variance")
    for row in tables.sae_metrics.itertuples():
        assert values[rows[row.sae_id, row.evaluation_set], 0] == pytest.approx(row.explained_variance, rel=1e-12)


def test_resamples_do_not_depend_on_the_order_of_the_tables(tables: StudyTables) -> None:
    shuffled = StudyTables(
        *(frame.sample(frac=1, random_state=1) for frame in (tables.saes, tables.sae_metrics, tables.document_sums, tables.baseline_sums)),
        tables.feature_stats,
    )
    (rows, values), (again_rows, again) = (DocumentResamples(t, 20, 0).values("explained_variance") for t in (tables, shuffled))
    assert rows == again_rows
    assert (values == again).all()


def test_equal_saes_differ_by_nothing_in_any_resample(make_tables: Callable[..., StudyTables], study: Study, tables: StudyTables) -> None:
    """Paired: the same documents are drawn for both, so a difference of two equal SAEs has no width at all."""
    copies = tables.document_sums[tables.document_sums["sae_id"] == "PRE.L01.x04.topk-k16-t200000-s0"]
    sums = pd.concat(
        [
            tables.document_sums[tables.document_sums["sae_id"] != "INS.L01.x04.topk-k16-t200000-s0"],
            copies.assign(sae_id="INS.L01.x04.topk-k16-t200000-s0"),
        ]
    )
    paired = StudyTables(tables.saes, tables.sae_metrics, sums, tables.baseline_sums, tables.feature_stats)
    evidence = Evidence.of(paired, study)
    figure = evidence.estimate({("PRE.L01.x04.topk-k16-t200000-s0", "prose"): 1.0, ("INS.L01.x04.topk-k16-t200000-s0", "prose"): -1.0})
    assert (figure.estimate, figure.low, figure.high) == pytest.approx((0, 0, 0), abs=1e-12)


def test_resamples_of_the_same_tables_are_made_once(tables: StudyTables) -> None:
    assert resample(tables, 10, 0) is resample(tables, 10, 0)


def test_other_documents_than_the_baselines_are_refused(tables: StudyTables) -> None:
    short = StudyTables(tables.saes, tables.sae_metrics, tables.document_sums.iloc[1:], tables.baseline_sums, tables.feature_stats)
    with pytest.raises(BadInput, match="found other documents"):
        DocumentResamples(short, 10, 0)


def test_a_diverged_sae_is_left_out(tables: StudyTables) -> None:
    sums = tables.document_sums.copy()
    sums.loc[(sums["sae_id"] == tables.saes["sae_id"][0]) & (sums["document"] == 0), "sse"] = np.inf
    rows, values = DocumentResamples(StudyTables(tables.saes, tables.sae_metrics, sums, tables.baseline_sums, tables.feature_stats), 10, 0).values(
        "explained_variance"
    )
    assert (tables.saes["sae_id"][0], "prose") not in rows
    assert np.isfinite(values).all()


def test_a_metric_that_does_not_recombine_is_refused(tables: StudyTables) -> None:
    with pytest.raises(BadInput, match="dead_share"):
        DocumentResamples(tables, 10, 0).values("dead_share")


def test_a_table_without_a_needed_column_is_refused(tables: StudyTables) -> None:
    with pytest.raises(BadInput, match=r"table saes.*found none named mix"):
        StudyTables(tables.saes.drop(columns="mix"), tables.sae_metrics, tables.document_sums, tables.baseline_sums, tables.feature_stats)

"""Shares of variance are those of the classical decomposition where it applies, and sum to one everywhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from sae_pipeline.analysis.bootstrap import SingleValues
from sae_pipeline.analysis.cell_resamples import CellResamples
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.analysis.variance import decompose, variance_shares
from sae_pipeline.study.schema import Study

MakeStudy = Callable[..., Study]
MakeTables = Callable[..., StudyTables]


def in_domain(sae: Mapping[str, Any], name: str) -> float:
    return 0.5 + 0.1 * sae[f"share_{name}"] + 0.02 * np.log2(sae["expansion"])


def without(tables: StudyTables, condition: str) -> StudyTables:
    return StudyTables(tables.saes.query(condition), tables.sae_metrics, tables.document_sums, tables.baseline_sums, tables.feature_stats)


def stated(tables: StudyTables, values: pd.Series) -> Evidence:
    """Evidence of figures given SAE by SAE, on the one set ``prose``."""
    metrics = pd.DataFrame({"sae_id": values.index, "evaluation_set": "prose", "kind": "in_sample", "explained_variance": values.to_numpy()})
    tables = StudyTables(tables.saes, metrics, tables.document_sums, tables.baseline_sums, tables.feature_stats)
    return Evidence(tables, SingleValues(tables, {"prose": 0}), 0.95)


@pytest.fixture
def numbers(make_study: MakeStudy, make_tables: MakeTables) -> tuple[StudyTables, pd.Series]:
    tables = make_tables(make_study(activations={"layers": [1], "tokens": 400_000}), in_domain, documents=5)
    return tables, pd.Series(np.random.default_rng(4).normal(size=len(tables.saes)), index=tables.saes["sae_id"])


def test_a_balanced_design_gives_the_variances_of_the_classical_split_plot(numbers: tuple[StudyTables, pd.Series]) -> None:
    """Three mixes, two widths, two seeds: widths are judged by the mean square of seeds within widths, the rest by what is left.

    Each sum of squares less its degrees of freedom times its error; a seed's variance by the expected mean squares.
    """
    tables, values = numbers
    saes = tables.saes.set_index("sae_id").assign(y=values)
    y, mean = saes["y"], values.mean()
    mix, width = ((saes.groupby(name)["y"].transform("mean") - mean).pow(2).sum() for name in ("mix", "expansion"))
    within = (y - saes.groupby(["mix", "expansion"])["y"].transform("mean")).pow(2).sum()
    of_seeds = (saes.groupby(["expansion", "init_seed"])["y"].transform("mean") - saes.groupby("expansion")["y"].transform("mean")).pow(2).sum()
    whole_plot, sub_plot = of_seeds / 2, (within - of_seeds) / 4
    crossed = (y - mean).pow(2).sum() - mix - width - within
    expected = {
        "mix": mix - 2 * sub_plot,
        "expansion": width - whole_plot,
        "interactions": crossed - 2 * sub_plot,
        "seed": 12 * (sub_plot + (whole_plot - sub_plot) / 3),
    }
    total = sum(max(part, 0) for part in expected.values())
    found = decompose(stated(tables, values), "explained_variance", 1)
    assert found is not None
    assert {name: share[0] for name, share in found.by_factor.items()} == pytest.approx({name: part / total for name, part in expected.items()})


def test_in_an_unbalanced_design_both_orders_of_fitting_count_alike(numbers: tuple[StudyTables, pd.Series]) -> None:
    """Two factors: the share is the mean of what a factor adds alone and of what it adds to the other, each by least squares.

    One seed each, so that no noise is taken off.
    """
    tables, values = numbers
    fewer = without(tables, "init_seed == 0 and not (mix == 'PRE' and expansion == 8)")
    saes = fewer.saes.set_index("sae_id").assign(y=values)

    def explained(*names: str) -> float:
        dummies = pd.get_dummies(saes[list(names)].astype(str)).astype(float).assign(one=1.0).to_numpy()
        fit = dummies @ np.linalg.lstsq(dummies, saes["y"].to_numpy(), rcond=None)[0]
        return float(((fit - saes["y"].mean()) ** 2).sum() / ((saes["y"] - saes["y"].mean()) ** 2).sum())

    found = decompose(stated(fewer, values), "explained_variance", 1)
    assert found is not None
    both = explained("mix", "expansion")
    assert found.by_factor["mix"][0] == pytest.approx((explained("mix") + both - explained("expansion")) / 2)
    assert found.by_factor["expansion"][0] == pytest.approx((explained("expansion") + both - explained("mix")) / 2)


def test_an_in_domain_advantage_is_the_mix_by_set_and_no_effect_of_the_mix_alone(make_study: MakeStudy, make_tables: MakeTables) -> None:
    """Within a set the mixes' squares are .1² · 2 · .2² / 3 and the widths' .01²; what one mix gains on one set it loses on the other."""
    evidence = Evidence.of(make_tables(study := make_study(), in_domain), study)
    found = decompose(evidence, "explained_variance", 3)
    assert found is not None
    mix, width = 0.01 * 0.08 / 3, 0.0001
    assert found.by_factor["mix x evaluation_set"][0] == pytest.approx(mix / (mix + width), abs=0.02)
    assert found.by_factor["mix"][0] == pytest.approx(0, abs=0.01)
    assert found.by_factor["expansion"][0] == pytest.approx(width / (mix + width), abs=0.02)


def test_shares_sum_to_one_for_every_metric_and_layer(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    shares = variance_shares(Evidence.of(make_tables(study, in_domain, sparsities=(16, 32), seed_noise=0.01), study))
    assert list(shares.columns) == ["metric", "layer", "factor", "share", "low", "high"]
    groups = shares.groupby(["metric", "layer"], dropna=False)["share"].sum()
    assert len(groups) == 6  # two metrics; two layers, and both together
    assert groups.tolist() == pytest.approx([1.0] * 6)
    both = shares[shares["layer"].isna() & (shares["metric"] == "explained_variance")]
    assert "layer" in set(both["factor"])
    assert (both["low"] <= both["share"] + 0.05).all()


def test_active_latents_that_are_set_vary_with_the_sparsity_alone(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    shares = variance_shares(Evidence.of(make_tables(study, in_domain, sparsities=(16, 32)), study))
    assert shares.query("metric == 'l0' and layer == 1").set_index("factor")["share"]["sparsity"] == pytest.approx(1)


def test_with_one_seed_the_noise_of_training_is_among_the_interactions(make_study: MakeStudy, make_tables: MakeTables) -> None:
    study = make_study()
    found = decompose(Evidence.of(make_tables(study, in_domain, seeds=(0,), seed_noise=0.03), study), "explained_variance", 1)
    assert found is not None
    assert "seed" not in found.by_factor
    assert found.by_factor["interactions"][0] > 0.01


def test_saes_that_do_not_differ_have_nothing_to_share_out(numbers: tuple[StudyTables, pd.Series]) -> None:
    tables, values = numbers
    assert decompose(stated(tables, values * 0 + 0.5), "explained_variance", 1) is None


def test_widths_on_either_side_of_one_are_never_compared(make_study: MakeStudy, make_tables: MakeTables) -> None:
    """One width in either regime: what is left of it is no effect."""
    study = make_study(saes={"expansions": [0.5, 4], "arms": [{"architecture": "topk", "k": 2, "seeds": [0, 1]}]})
    found = decompose(Evidence.of(make_tables(study, in_domain), study), "explained_variance", 1)
    assert found is not None
    assert found.by_factor["expansion"][0] == pytest.approx(0, abs=1e-9)


def test_shares_of_two_cells_are_as_wide_as_student_with_one_degree_of_freedom(numbers: tuple[StudyTables, pd.Series]) -> None:
    """Of one width alone, the mix is all there is; that is the farthest draw, sqrt(2) times Student's over the normal quantile farther out."""
    tables, values = numbers
    one = without(tables, "init_seed == 0")
    found = decompose(replace(stated(one, values), resamples=CellResamples(stated(one, values).tables, 10, 0, 0.95)), "explained_variance", 1)
    assert found is not None
    share = found.by_factor["mix"]
    wider = 2**0.5 * stats.t.ppf(0.975, 1) / stats.norm.ppf(0.975)
    assert share[1:].max() == pytest.approx(share[0] + wider * (1 - share[0]))


@pytest.mark.slow
@pytest.mark.parametrize(("mix", "width", "seed"), [(0.005, 0.01, 0.01), (0.01, 0.01, 0.005), (0.0, 0.01, 0.01)])
def test_shares_are_right_on_average_and_their_intervals_hold_them(
    make_study: MakeStudy, make_tables: MakeTables, mix: float, width: float, seed: float
) -> None:
    """A hundred studies of five mixes, two widths and two seeds, with effects of known standard deviation and noise of its own in every SAE."""
    mixes = {name: {"prose": 1.0} for name in "ABCDE"}
    tables = make_tables(make_study(mixes, activations={"layers": [1], "tokens": 400_000}), in_domain, documents=2)
    saes = tables.saes.set_index("sae_id")
    truth = {name: part**2 / (mix**2 + width**2 + seed**2) for name, part in (("mix", mix), ("expansion", width), ("seed", seed))}
    held, found = dict.fromkeys(truth, 0), dict.fromkeys(truth, 0.0)
    for draw in range(100):
        generator = np.random.default_rng(draw)
        effect = generator.normal(size=5)
        effect = mix * (effect - effect.mean()) / effect.std()
        alone = saes["mix"].map(dict(zip("ABCDE", effect, strict=True))) + np.where(saes["expansion"] == 4, -width, width)
        evidence = stated(tables, 0.6 + alone + generator.normal(0, seed, len(saes)))
        rows = variance_shares(evidence).query("metric == 'explained_variance'").set_index("factor")
        signed = decompose(evidence, "explained_variance", 1)
        assert signed is not None
        for factor, share in truth.items():
            held[factor] += rows["low"][factor] <= share <= rows["high"][factor]
            found[factor] += signed.by_factor[factor][0] / 100
    assert min(held.values()) >= 88
    assert found == pytest.approx(truth, abs=0.07)


@pytest.mark.slow
def test_intervals_hold_the_planted_shares(make_study: MakeStudy, make_tables: MakeTables) -> None:
    """Sixty studies; squares of the mix .1² · 2 · .2² / 3, of the width .01², of the seed .005²."""
    study = make_study(samples=200, activations={"layers": [1], "tokens": 400_000})
    mix, width, seed = 0.01 * 0.08 / 3, 0.0001, 0.000025
    held = {"mix x evaluation_set": 0, "expansion": 0}
    for draw in range(60):
        tables = make_tables(study, in_domain, documents=40, seeds=(0, 1, 2), seed_noise=seed**0.5, draw=draw)
        rows = variance_shares(Evidence.of(tables, study)).query("metric == 'explained_variance'").set_index("factor")
        for factor, part in (("mix x evaluation_set", mix), ("expansion", width)):
            held[factor] += rows["low"][factor] <= part / (mix + width + seed) <= rows["high"][factor]
    assert min(held.values()) / 60 >= 0.88

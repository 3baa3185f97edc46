"""Intervals from cells: pairs are drawn as a whole, few of them widen the interval, and a mean alone has none."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom
from scipy.stats import t as student

from sae_pipeline.analysis.cell_resamples import CellResamples, compared
from sae_pipeline.analysis.contrasts import Evidence, averaged
from sae_pipeline.analysis.tables import REQUIRED, StudyTables

MIXES, SETS = ("prose", "chat"), ("prose", "chat")


def tables(value: Any, layers: int = 3, expansions: int = 4, tokens: tuple[int, ...] = (100,), seeds: int = 1) -> StudyTables:
    """Tables of every combination of settings with the explained variance that ``value(sae, evaluation_set)`` gives."""
    saes = pd.DataFrame([
        {
            "sae_id": f"{mix}.L{layer}.x{2**expansion}.t{budget}.s{seed}", "mix": mix, "layer": layer, "expansion": 2.0**expansion, "d_sae": 64 * 2**expansion,
            "architecture": "topk", "sparsity": 16.0, "tokens": budget, "init_seed": seed, "data_seed": 0, "batch_size": 1, "learning_rate": 0.1,
        } for mix, layer, expansion, budget, seed in product(MIXES, range(layers), range(1, expansions + 1), tokens, range(seeds))
    ])  # fmt: skip
    saes["arm"] = saes["sae_id"]
    metrics = pd.DataFrame([
        {"sae_id": sae["sae_id"], "evaluation_set": name, "kind": "in_sample", "explained_variance": value(sae, name)}
        for sae in saes.to_dict("records") for name in SETS
    ])  # fmt: skip
    empty = {name: pd.DataFrame(columns=list(REQUIRED[name])) for name in ("document_sums", "baseline_sums", "feature_stats")}
    return StudyTables(saes=saes, sae_metrics=metrics, **empty)


def evidence(found: StudyTables, samples: int = 2_000) -> Evidence:
    return Evidence(found, CellResamples(found, samples, seed=0, confidence=0.95), 0.95)


def mix_difference(found: Evidence, name: str = "prose") -> dict[tuple[str, str], float]:
    return averaged(found.matched("mix", MIXES, [name]), {("prose", name): 1.0, ("chat", name): -1.0})


def cell_effects(seed: int, spread: float = 1.0) -> Any:
    """A difference between mixes that varies from cell to cell around 0.5, on top of large differences between cells."""
    generator = np.random.default_rng(seed)
    effect, level = generator.normal(0.5, spread, (9, 9)), generator.normal(0, 50, (9, 9))

    def value(sae: Mapping[str, Any], name: str) -> float:
        place = sae["layer"], int(np.log2(sae["expansion"]))
        return float(level[place] + (effect[place] if sae["mix"] == "prose" else 0.0))

    return value


def test_what_cells_have_in_common_cancels_in_a_pair() -> None:
    found = evidence(tables(lambda sae, name: 100.0 * sae["layer"] + sae["expansion"] + (0.25 if sae["mix"] == "prose" else 0.0)))
    figure = found.estimate(mix_difference(found))
    assert figure.estimate == pytest.approx(0.25)
    assert (figure.low, figure.high) == (pytest.approx(0.25), pytest.approx(0.25))


def test_the_interval_is_students_interval_of_the_differences_between_cells() -> None:
    found = evidence(tables(cell_effects(3)), samples=20_000)
    values = found.tables.sae_metrics.query("evaluation_set == 'prose'").set_index("sae_id")["explained_variance"]
    pairs = found.matched("mix", MIXES, ["prose"])
    difference = values[pairs["prose"]].to_numpy() - values[pairs["chat"]].to_numpy()
    low, high = student.interval(0.95, len(difference) - 1, difference.mean(), difference.std(ddof=1) / len(difference) ** 0.5)
    figure = found.estimate(mix_difference(found))
    assert figure.estimate == pytest.approx(difference.mean())
    assert (figure.low, figure.high) == (pytest.approx(low, abs=0.1 * (high - low)), pytest.approx(high, abs=0.1 * (high - low)))


@pytest.mark.slow
@pytest.mark.parametrize(("layers", "expansions"), [(1, 6), (3, 4)])
def test_the_interval_holds_the_planted_effect_as_often_as_it_says(layers: int, expansions: int) -> None:
    held = 0
    for seed in range(200):
        found = evidence(tables(cell_effects(seed), layers, expansions), samples=400)
        figure = found.estimate(mix_difference(found))
        held += figure.low <= 0.5 <= figure.high
    # Binomial with 0.95: fewer than 180 of 200 has a chance below 0.002.
    assert held >= 180


@pytest.mark.slow
@pytest.mark.parametrize("expansions", [2, 3, 5])
def test_few_cells_without_an_effect_rarely_have_a_small_p_value(expansions: int) -> None:
    """Of 300 p-values three are below 0.01 by chance; more than eight are three binomial deviations off."""
    small = 0
    for seed in range(300):
        effects = cell_effects(seed)
        found = evidence(
            tables(lambda sae, name, effects=effects: effects(sae, name) - (0.5 if sae["mix"] == "prose" else 0.0), 1, expansions), samples=400
        )
        small += found.spread(mix_difference(found)).p_value < 0.01
    assert small <= 8


def width_difference(found: Evidence) -> dict[tuple[str, str], float]:
    return averaged(found.matched("expansion", [2.0, 4.0], ["prose"]), {(4.0, "prose"): 1.0, (2.0, "prose"): -1.0})


def common_noise(seed: int) -> Any:
    """Noise that SAEs of one layer, width and seed have in common whatever their mix, and a little of each alone."""
    generator = np.random.default_rng(seed)
    common, own = generator.normal(0, 0.005, (9, 9, 9)), generator.normal(0, 0.002, (9, 9, 9, 2))

    def value(sae: Mapping[str, Any], name: str) -> float:
        place = sae["layer"], int(np.log2(sae["expansion"])), sae["init_seed"]
        return float(common[place] + own[(*place, MIXES.index(sae["mix"]))])

    return value


@pytest.mark.parametrize("layers", [1, 3])
def test_noise_that_mixes_have_in_common_is_no_effect_of_the_width(layers: int) -> None:
    rounds, surprises = 150, 0
    for seed in range(rounds):
        found = evidence(tables(common_noise(seed), layers=layers, expansions=2, seeds=2), samples=200)
        surprises += found.spread(width_difference(found)).p_value < 0.05
    assert surprises <= binom.ppf(0.999, rounds, 0.05)


def test_only_what_cancels_within_layer_width_and_seed_is_held_by_the_cells() -> None:
    found = evidence(tables(cell_effects(0), seeds=2))
    assert found.resamples.holds_seeds(mix_difference(found))
    assert not found.resamples.holds_seeds(width_difference(found))


def test_arms_and_seeds_of_a_cell_are_drawn_together() -> None:
    def value(sae: Mapping[str, Any], name: str) -> float:
        return cell_effects(1)(sae, name)

    one = evidence(tables(value)).estimate(mix_difference(evidence(tables(value))))
    many = evidence(tables(value, tokens=(100, 200), seeds=2))
    repeated = many.estimate(mix_difference(many))
    # The same difference in every arm and seed of a cell tells nothing new of it.
    assert (repeated.low, repeated.high) == (pytest.approx(one.low), pytest.approx(one.high))
    assert repeated.seeds == 2


def test_a_mean_alone_has_no_interval() -> None:
    found = evidence(tables(cell_effects(0)))
    sae_ids = found.tables.saes["sae_id"]
    figure = found.estimate({(sae_id, "prose"): 1 / len(sae_ids) for sae_id in sae_ids})
    assert np.isfinite(figure.estimate)
    assert np.isnan([figure.low, figure.high]).all()


def test_one_pair_has_no_interval() -> None:
    found = evidence(tables(cell_effects(0), layers=1, expansions=1))
    figure = found.estimate(mix_difference(found))
    assert np.isnan([figure.low, figure.high]).all()


def test_few_cells_are_split_into_their_settings() -> None:
    def value(sae: Mapping[str, Any], name: str) -> float:
        return (sae["tokens"] / 1000) * (sae["mix"] == "prose")

    budgets = tuple(range(100, 700, 100))
    split = evidence(tables(value, layers=1, expansions=1, tokens=budgets))
    figure = split.estimate(mix_difference(split))
    assert figure.low < figure.estimate < figure.high


def test_the_order_of_rows_changes_nothing() -> None:
    found = tables(cell_effects(5))
    order = np.random.default_rng(0).permutation(len(found.saes))
    shuffled = StudyTables(
        found.saes.iloc[order].reset_index(drop=True), found.sae_metrics.sample(frac=1, random_state=1), found.document_sums, found.baseline_sums, found.feature_stats
    )  # fmt: skip
    one, other = evidence(found), evidence(shuffled)
    assert one.estimate(mix_difference(one)) == other.estimate(mix_difference(other))


def test_what_is_compared_is_read_off_the_coefficients() -> None:
    found = evidence(tables(cell_effects(0), tokens=(100, 200)))

    def terms(contrast: Mapping[tuple[str, str], float]) -> pd.DataFrame:
        frame = pd.DataFrame([(sae_id, name, c) for (sae_id, name), c in contrast.items()], columns=["sae_id", "evaluation_set", "coefficient"])
        return frame.join(found.design.drop(columns="sae_id"), on="sae_id")

    units = found.matched("mix", MIXES, SETS)
    four = averaged(units, {("prose", "prose"): 1, ("prose", "chat"): -1, ("chat", "prose"): -1, ("chat", "chat"): 1})
    assert compared(terms(four)) == ("mix",)
    budgets = found.matched("tokens", [100, 200], ["prose"])
    assert compared(terms(averaged(budgets, {(100, "prose"): 1.0, (200, "prose"): -0.9}))) == ("tokens",)
    both = {key: four.get(key, 0.0) + averaged(budgets, {(100, "prose"): 1.0, (200, "prose"): -1.0}).get(key, 0.0) for key in four}
    assert compared(terms(both)) == ("mix", "tokens")
    assert compared(terms(averaged(budgets, {(100, "prose"): 1.0}))) is None

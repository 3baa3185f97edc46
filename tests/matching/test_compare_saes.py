"""All figures of a pair: what they are invariant to, and that they find what was planted."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planted import planted_pair, random_sae, sae_of
from scipy.stats import binomtest, ortho_group
from torch import Tensor

from sae_pipeline.errors import BadInput
from sae_pipeline.matching.compare import DirectedMatch, PairMatch, compare
from sae_pipeline.matching.weights.directions import prepare
from sae_pipeline.saes.inference import InferenceSAE

QUICK = settings(max_examples=25, deadline=None)
"""The first pair of each shape simulates its chance floor."""


def of(rows: tuple[DirectedMatch, ...], side: str, unit: str, population: str = "all") -> DirectedMatch:
    """The row of one side, unit and population."""
    return next(row for row in rows if (row.side, row.unit, row.population) == (side, unit, population))


def cut(sae: InferenceSAE, kept: Tensor) -> InferenceSAE:
    """The SAE with these latents only, in this order."""
    return sae_of(sae.W_dec[kept], sae.W_enc[:, kept], None if sae.threshold is None else sae.threshold[kept])


def permuted(sae: InferenceSAE, seed: int) -> InferenceSAE:
    return cut(sae, torch.randperm(sae.d_sae, generator=torch.Generator().manual_seed(seed)))


def rescaled(sae: InferenceSAE, seed: int) -> InferenceSAE:
    """Latents of other units: the encoder and its threshold times a factor, the decoder divided by it."""
    factor = torch.rand(sae.d_sae, generator=torch.Generator().manual_seed(seed)) * 3 + 0.2
    return sae_of(sae.W_dec / factor[:, None], sae.W_enc * factor, None if sae.threshold is None else sae.threshold * factor)


FIGURES = ("n", "n_other", "match_ratio", "mmcs", "q10", "q50", "q90", "chance_match_ratio", "chance_mmcs")


def assert_same_features(first: PairMatch, second: PairMatch) -> None:
    """Every figure of features agrees; a latent that sits on the threshold by rounding does not occur in random weights."""
    for ours, theirs in ((first.forward, second.forward), (first.backward, second.backward)):
        for side in ("encoder", "decoder"):
            rows = of(ours, side, "feature"), of(theirs, side, "feature")
            assert [getattr(rows[0], name) for name in FIGURES] == pytest.approx([getattr(rows[1], name) for name in FIGURES], abs=2e-6)
    for ours, theirs in zip(first.one_to_one, second.one_to_one, strict=True):
        for name, value in vars(ours).items():
            assert getattr(theirs, name) == (value if isinstance(value, str | bool | None) else pytest.approx(value, abs=2e-6)), name


@QUICK
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 1000), st.sampled_from([permuted, rescaled]))
def test_order_and_unit_of_latents_change_no_figure(n: int, n_other: int, seed: int, changed: Callable[[InferenceSAE, int], InferenceSAE]) -> None:
    """Latents have no order, and a factor moved between encoder and decoder is not theirs."""
    a, b = random_sae(n, 5, seed, thresholds=True), random_sae(n_other, 5, seed + 1, thresholds=True)
    before = compare(prepare(a), prepare(b), threshold=0.5)
    assert_same_features(before, compare(prepare(changed(a, seed)), prepare(changed(b, seed + 1)), threshold=0.5))


@QUICK
@given(st.integers(2, 30), st.integers(2, 30), st.integers(0, 1000))
def test_a_rotation_of_the_space_changes_no_figure_of_features(n: int, n_other: int, seed: int) -> None:
    """Both SAEs in other coordinates: cosines of features stay."""
    rotation = torch.from_numpy(ortho_group.rvs(5, random_state=seed)).float()
    a, b = random_sae(n, 5, seed, thresholds=True), random_sae(n_other, 5, seed + 1, thresholds=True)
    turned = [sae_of(sae.W_dec @ rotation, rotation.T @ sae.W_enc, sae.threshold) for sae in (a, b)]
    assert_same_features(compare(prepare(a), prepare(b), threshold=0.5), compare(*(prepare(sae) for sae in turned), threshold=0.5))


@QUICK
@given(st.integers(2, 30), st.integers(0, 1000))
def test_an_sae_is_found_in_itself(n: int, seed: int) -> None:
    """Every figure of every matching is 1, whatever the order of latents; neurons keep theirs."""
    sae = random_sae(n, 6, seed)
    pair = compare(prepare(sae), prepare(sae), threshold=0.9)
    for row in (*pair.forward, *pair.backward):
        assert (row.match_ratio, row.mmcs) == pytest.approx((1, 1), abs=1e-5)
    assert pair.one_to_one[0].shared_both == 1
    assert pair.neighbours_forward.other_latent.tolist() == list(range(n))
    assert pair.neighbours_forward.matched_one_to_one.all()


@pytest.mark.parametrize(("n", "n_other", "share"), [(300, 300, 0.5), (200, 500, 0.3), (400, 400, 0.0), (150, 450, 0.8)])
def test_a_planted_share_is_recovered_within_its_interval(n: int, n_other: int, share: float) -> None:
    """The exact binomial interval (95 %) over latents holds the planted probability in at least 17 of 20 pairs, by all three rules.

    Noise of norm 0.4 gives common directions a cosine near 0.86 in 64 dimensions, where chance gives 0.5 at most.
    """
    covered = dict.fromkeys(("match_ratio", "shared_feature_ratio", "shared_both"), 0)
    for seed in range(20):
        a, b, common = planted_pair(n, n_other, 64, share, 0.4, seed)
        pair = compare(prepare(a), prepare(b), threshold=0.7)
        one_to_one = pair.one_to_one[0]
        found = {"match_ratio": of(pair.forward, "decoder", "feature").match_ratio, "shared_feature_ratio": one_to_one.shared_feature_ratio}
        for name, ratio in (found | {"shared_both": one_to_one.shared_both}).items():
            interval = binomtest(round(ratio * n), n).proportion_ci()
            covered[name] += interval.low <= share <= interval.high
        assert found["match_ratio"] == pytest.approx(common.double().mean().item(), abs=0.02)
    assert min(covered.values()) >= 17, covered


def test_containment_differs_by_direction_where_widths_do() -> None:
    """All of the narrow dictionary lies in the wide one, and half of the wide in the narrow."""
    wide = torch.eye(8)
    pair = compare(prepare(sae_of(wide[:4])), prepare(sae_of(wide)), threshold=0.7)
    assert of(pair.forward, "decoder", "feature").match_ratio == 1.0
    assert of(pair.backward, "decoder", "feature").match_ratio == 0.5
    assert pair.one_to_one[0].feature_count_difference == 0


def test_neurons_are_compared_where_their_rows_have_one_length() -> None:
    """Between different widths there is no cosine of neurons, so they have no row."""
    equal = compare(prepare(random_sae(6, 4, 0)), prepare(random_sae(6, 4, 1)), threshold=0.7)
    assert (of(equal.forward, "encoder", "neuron").n, of(equal.forward, "decoder", "neuron").n_other) == (4, 4)
    unequal = compare(prepare(random_sae(6, 4, 0)), prepare(random_sae(7, 4, 1)), threshold=0.7)
    assert {row.unit for row in unequal.forward} == {"feature"}
    assert {top.unit for top in unequal.top_forward} == {"feature"}


def test_dead_latents_count_in_all_and_not_in_alive() -> None:
    """Two of four latents are common and alive; a third, common too, is dead in both."""
    a, b = torch.eye(6)[:4], torch.eye(6)[[0, 1, 2, 5]]
    alive = torch.tensor([True, True, False, True])
    pair = compare(prepare(sae_of(a), alive), prepare(sae_of(b), alive), threshold=0.7)
    assert of(pair.forward, "decoder", "feature").match_ratio == 3 / 4
    found = of(pair.forward, "decoder", "feature", "alive")
    assert (found.n, found.n_other) == (3, 3)
    assert found.match_ratio == pytest.approx(2 / 3)
    everything, living = pair.one_to_one
    assert (everything.population, living.population) == ("all", "alive")
    assert (everything.shared_feature_ratio, living.shared_feature_ratio) == (3 / 4, pytest.approx(2 / 3))
    assert pair.neighbours_forward.latent.tolist() == [0, 1, 3]
    assert not {2} & set(pair.neighbours_backward.other_latent.tolist())
    assert not [row for row in pair.forward if row.unit == "neuron" and row.population == "alive"]


@QUICK
@given(st.integers(2, 25), st.integers(2, 25), st.integers(0, 1000))
def test_the_alive_population_is_that_of_saes_without_their_dead_latents(n: int, n_other: int, seed: int) -> None:
    """Cutting the dead latents out of both SAEs gives the same figures, and neighbours by their old numbers."""
    a, b = random_sae(n, 5, seed, thresholds=True), random_sae(n_other, 5, seed + 1, thresholds=True)
    generator = torch.Generator().manual_seed(seed)
    alive = [torch.rand(sae.d_sae, generator=generator) < 0.6 for sae in (a, b)]
    pair = compare(prepare(a, alive[0]), prepare(b, alive[1]), threshold=0.4)
    if not alive[0].any() or not alive[1].any():
        assert [row.population for row in pair.one_to_one] == ["all"]
        assert len(pair.neighbours_forward.latent) == len(pair.neighbours_backward.latent) == 0
        return
    expected = compare(prepare(cut(a, alive[0])), prepare(cut(b, alive[1])), threshold=0.4)
    for side in ("encoder", "decoder"):
        for rows, theirs in ((pair.forward, expected.forward), (pair.backward, expected.backward)):
            here, there = of(rows, side, "feature", "alive"), of(theirs, side, "feature")
            assert [getattr(here, name) for name in FIGURES] == pytest.approx([getattr(there, name) for name in FIGURES], abs=1e-6)
    for name, value in vars(expected.one_to_one[0]).items():
        if name != "population":
            assert getattr(pair.one_to_one[1], name) == (value if isinstance(value, bool | None) else pytest.approx(value, abs=1e-6)), name
    numbers = [kept.nonzero()[:, 0].numpy() for kept in alive]
    np.testing.assert_array_equal(pair.neighbours_forward.other_latent, numbers[1][expected.neighbours_forward.other_latent])
    np.testing.assert_array_equal(pair.neighbours_backward.latent, numbers[1])
    np.testing.assert_array_equal(pair.neighbours_backward.matched_one_to_one, expected.neighbours_backward.matched_one_to_one)


def test_top_cosines_are_counted_for_every_row_and_place() -> None:
    """Four places in both directions, and three where the other side has three rows."""
    pair = compare(prepare(random_sae(9, 3, 0)), prepare(random_sae(9, 3, 1)), threshold=0.7)
    shapes = {(top.side, top.unit): (top.counts.shape, set(top.counts.sum(1).tolist())) for top in pair.top_backward}
    assert shapes["encoder", "feature"] == ((4, 40), {9})
    assert shapes["decoder", "neuron"] == ((3, 40), {3})


def test_saes_of_different_activations_are_refused() -> None:
    """One sentence with both widths; and a threshold that is no cosine."""
    with pytest.raises(BadInput, match="widths of 4 and 5"):
        compare(prepare(random_sae(6, 4, 0)), prepare(random_sae(6, 5, 0)), threshold=0.7)
    with pytest.raises(BadInput, match="found 70"):
        compare(prepare(random_sae(6, 4, 0)), prepare(random_sae(6, 4, 0)), threshold=70)

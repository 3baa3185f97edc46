"""Figures of positions against hand computations, SciPy and simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from sae_pipeline.metrics.positions.profiles import (
    TWO_PEAKS,
    Places,
    bimodality_coefficient,
    dominant_frequency,
    explained_by_position,
    log_mean_bimodality,
    products,
)


def share(values: np.ndarray, document: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """Share of variance of vectors (n_contexts, n_positions, d) that position explains."""
    places = Places(document, int(document.max()) + 1)
    w = np.ones((1, places.n_documents)) if weights is None else weights
    return explained_by_position(places.sums(), w, products(values, places, w))


def one_document_per_context(contexts: int, positions: int) -> np.ndarray:
    return np.repeat(np.arange(contexts)[:, None], positions, axis=1)


def resamples(documents: int, samples: int) -> np.ndarray:
    return np.random.default_rng(0).multinomial(documents, np.full(documents, 1 / documents), size=samples).astype(float)


def test_sums_are_taken_per_document_and_position_and_leave_special_tokens_out() -> None:
    places = Places(np.array([[-1, 0, 0], [-1, 1, 0]]), 2)
    assert places.sums(np.array([[9.0, 1.0, 2.0], [9.0, 4.0, 8.0]])).tolist() == [[0, 1, 10], [0, 4, 0]]
    assert places.sums().tolist() == [[0, 1, 2], [0, 1, 0]]


def test_the_share_of_variance_by_hand() -> None:
    """Documents -3, 1 | -1, 3: mean of squared means 3, squared mean (-2 * 2) / 4 = -1, mean square 5, so (3 + 1) / (5 + 1)."""
    values = np.array([[-3.0, 1.0], [-1.0, 3.0]])[..., None]
    assert share(values, one_document_per_context(2, 2))[0] == pytest.approx(2 / 3)


def test_the_share_of_variance_of_a_vector_pools_its_entries() -> None:
    """The same beside an entry with squared means -1/4, squared mean 0 and mean square 1/4: (4 - 1/4) / (6 + 1/4)."""
    noise = np.array([[-0.5, 0.5], [0.5, -0.5]])
    values = np.stack([np.array([[-3.0, 1.0], [-1.0, 3.0]]), noise], axis=-1)
    assert share(values, one_document_per_context(2, 2))[0] == pytest.approx(0.6)


def test_products_are_those_of_every_two_documents() -> None:
    """Through either way of summing, also where a document stands at a position twice."""
    generator = np.random.default_rng(0)
    document = np.array([[-1, 0, 0], [1, 1, 0], [2, -1, 1], [2, 2, 2]])
    places, weights = Places(document, 3), resamples(3, 4)
    for width in (1, 40):
        x = generator.normal(size=(*document.shape, width))
        found = products(x, places, weights)
        token, document_of, position = x[document >= 0], document[document >= 0], np.nonzero(document >= 0)[1]
        inner = token @ token.T * (document_of[:, None] != document_of)
        w = weights[:, document_of]
        np.testing.assert_allclose(found.whole, np.einsum("si,ij,sj->s", w, inner, w))
        for n in range(3):
            np.testing.assert_allclose(found.position[:, n], np.einsum("si,ij,sj->s", w * (position == n), inner, w * (position == n)), atol=1e-12)
        np.testing.assert_allclose(found.lengths, w @ (token**2).sum(1))


@pytest.mark.parametrize("contexts", [4, 40])
def test_positions_that_do_not_differ_explain_nothing_however_few_the_tokens(contexts: int) -> None:
    """Uncorrected, 30 positions of 4 tokens would explain a quarter of pure noise; resamples with copies would add to it."""
    noise = np.random.default_rng(1).normal(size=(200, contexts, 30, 3))
    document, weights = one_document_per_context(contexts, 30), resamples(contexts, 20)
    found = np.array([share(x, document, weights) for x in noise])
    assert abs(np.nanmean(found)) < 4 * np.nanmean(found, axis=1).std() / np.sqrt(len(noise))


def test_what_the_tokens_of_a_document_have_in_common_is_no_effect_of_position() -> None:
    """Documents of two contexts, whose tokens share a level of variance 4 and at every other place a wave of their own."""
    generator = np.random.default_rng(6)
    document = one_document_per_context(20, 16) // 2
    level, wave = 2 * generator.normal(size=(300, 10, 1, 1)), generator.normal(size=(300, 10, 1, 1))
    texts = np.repeat(level + wave * np.cos(np.pi * np.arange(16))[:, None], 2, axis=1) + generator.normal(size=(300, 20, 16, 1))
    found = np.array([share(x, document, np.vstack([np.ones(10), resamples(10, 20)])) for x in texts])
    for values in (found[:, 0], np.nanmean(found[:, 1:], axis=1)):
        assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(texts))


def test_a_share_that_is_there_is_found_in_the_sample_and_its_resamples() -> None:
    """Positions drawn with variance 1, tokens around them with variance 3: a quarter."""
    generator = np.random.default_rng(2)
    values = generator.normal(size=(1, 400, 1)) + np.sqrt(3) * generator.normal(size=(30, 400, 1))
    found = share(values, one_document_per_context(30, 400), np.vstack([np.ones(30), resamples(30, 50)]))
    assert found[0] == pytest.approx(0.25, abs=0.03)
    assert found[1:].mean() == pytest.approx(found[0], abs=0.02)


def test_the_share_does_not_depend_on_scale_origin_or_order_of_documents() -> None:
    generator = np.random.default_rng(3)
    values, document = generator.normal(size=(6, 5, 2)), one_document_per_context(6, 5)
    assert share(7 * values + 100, document)[0] == pytest.approx(share(values, document)[0])
    order = generator.permutation(6)
    assert share(values[order], document)[0] == pytest.approx(share(values, document)[0])


def test_constant_activations_have_no_share() -> None:
    assert np.isnan(share(np.full((3, 4, 2), 0.1), one_document_per_context(3, 4))[0])


@pytest.mark.parametrize("cycles", [1, 2, 5])
def test_a_cosine_on_a_slope_is_found_at_its_frequency_with_all_of_the_power(cycles: int) -> None:
    """A cosine about the middle of the curve is orthogonal to every straight line."""
    at = (np.arange(40) + 0.5) / 40
    frequency, power = dominant_frequency((np.cos(2 * np.pi * cycles * at) + 3 + 20 * at)[None])
    assert frequency[0] == pytest.approx(cycles / 40)
    assert power[0] == pytest.approx(1)


def test_power_is_shared_between_waves_by_their_squared_amplitudes() -> None:
    """Amplitudes 2 and 1: four fifths."""
    at = (np.arange(60) + 0.5) / 60
    curves = np.stack([2 * np.cos(2 * np.pi * 4 * at) + np.cos(2 * np.pi * 9 * at), np.cos(2 * np.pi * 4 * at) + 2 * np.cos(2 * np.pi * 9 * at)])
    frequency, power = dominant_frequency(curves)
    np.testing.assert_allclose(frequency, [4 / 60, 9 / 60])
    np.testing.assert_allclose(power, 0.8)


def test_a_straight_line_and_a_curve_with_a_gap_have_no_frequency() -> None:
    line = 1e6 + 0.3 * np.arange(20)
    gap = np.where(np.arange(20) == 7, np.nan, np.sin(np.arange(20)))
    frequency, power = dominant_frequency(np.stack([line, gap, np.zeros(20)]))
    assert np.isnan(frequency).all()
    assert np.isnan(power).all()


def test_bimodality_by_hand() -> None:
    """0, 0, 1, 1: skewness 0 and excess kurtosis 3 / 2 (5 (1 - 3) + 6) = -6, so 1 / (-6 + 27 / 2) = 2 / 15."""
    assert bimodality_coefficient(np.array([[0.0, 0.0, 1.0, 1.0]]))[0] == pytest.approx(2 / 15)


def test_bimodality_equals_its_formula_with_the_moments_of_scipy() -> None:
    x = np.random.default_rng(4).gamma(2.0, size=50)
    n, g, k = len(x), stats.skew(x, bias=False), stats.kurtosis(x, bias=False)
    expected = (g**2 + 1) / (k + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))
    assert bimodality_coefficient(x[None])[0] == pytest.approx(expected)
    assert bimodality_coefficient(np.append(x, [np.nan, np.nan])[None])[0] == pytest.approx(expected)


def test_two_peaks_lie_above_the_cut_and_one_peak_below() -> None:
    """Normals at -4 and 4 have variance 17 and fourth moment 256 + 6 * 16 + 3, so 17^2 / 355."""
    generator = np.random.default_rng(5)
    one = generator.normal(size=4_000)
    two = one + 8 * (np.arange(4_000) % 2)
    uniform = np.linspace(0, 1, 4_001)
    assert bimodality_coefficient(one[None])[0] == pytest.approx(1 / 3, abs=0.03)
    assert bimodality_coefficient(two[None])[0] == pytest.approx(289 / 355, abs=0.02)
    assert bimodality_coefficient(uniform[None])[0] == pytest.approx(TWO_PEAKS, abs=1e-3)


def test_too_few_or_equal_values_have_no_bimodality() -> None:
    assert np.isnan(bimodality_coefficient(np.array([[1.0, 2.0, 3.0, np.nan], [2.0, 2.0, 2.0, 2.0]]))).all()


def test_feature_means_are_judged_on_a_logarithmic_axis_without_the_silent_ones() -> None:
    """Means 1, 1, 100, 100 and a latent that never fired; another unit of the activations changes nothing."""
    sums = np.array([[1.0, 0.0, 100.0, 60.0, 0.0], [0.0, 1.0, 0.0, 40.0, 0.0]])
    found = log_mean_bimodality(sums, np.array([[1.0, 1.0]]))
    assert found[0] == pytest.approx(bimodality_coefficient(np.array([[0.0, 0.0, 2.0, 2.0]]))[0])
    assert log_mean_bimodality(7 * sums, np.array([[1.0, 1.0]]))[0] == pytest.approx(found[0])

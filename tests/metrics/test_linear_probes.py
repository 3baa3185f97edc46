"""Logistic regressions against scikit-learn's and against the conditions of their minimum."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from scipy.special import expit

from sae_pipeline.metrics.spelling.probing import f1_scores, ridge_probes, sparse_probes

X = np.array([[0.2, 1.0], [1.1, -0.3], [0.4, 0.9], [-0.7, 0.1], [1.5, 0.6], [-0.2, -1.2], [0.0, 0.3], [2.0, -1.0]])
Y = np.array([[1, 0], [0, 1], [1, 0], [0, 0], [0, 1], [0, 0], [0, 0], [0, 1]], dtype=bool)


@pytest.mark.parametrize("x", [X, csr_matrix(X)])
def test_ridge_probes_equal_balanced_logistic_regression_of_scikit_learn(x: np.ndarray) -> None:
    """Coefficients of scikit-learn 1.9.1's LogisticRegression(C=1, class_weight="balanced", tol=1e-12)."""
    probes = ridge_probes(x, Y)
    assert probes.weights == pytest.approx(np.array([[-0.2144654490, 1.1895321020], [1.3689704820, -0.3019075334]]), abs=1e-6)
    assert probes.bias == pytest.approx(np.array([-0.3792319356, -0.9853834158]), abs=1e-6)
    assert probes.scores(x)[0] == pytest.approx(
        np.array([-0.3792319356 + 1.1895321020 - 0.2 * 0.2144654490, -0.9853834158 + 0.2737940964 - 0.3019075334])
    )


@pytest.mark.parametrize("penalty", [0.003, 0.03, 0.3])
def test_sparse_probes_meet_the_conditions_of_their_minimum(penalty: float) -> None:
    """A positive weight has no slope, a weight of zero none that would make it positive, and the bias has none."""
    generator = np.random.default_rng(0)
    x, y = generator.random((40, 12)) * (generator.random((40, 12)) < 0.4), generator.random((40, 2)) < 0.3
    probes = sparse_probes(csr_matrix(x), y, penalty)
    assert (probes.weights >= 0).all()
    for label in range(2):
        share = y[:, label].mean()
        pull = np.where(y[:, label], -(1 - share) / share * expit(-probes.scores(x)[:, label]), expit(probes.scores(x)[:, label])) / len(y)
        slopes, positive = pull @ x + penalty, probes.weights[label] > 0
        assert slopes[positive] == pytest.approx(0, abs=1e-5)
        assert (slopes[~positive] > -1e-5).all()
        assert pull.sum() == pytest.approx(0, abs=1e-5)


def test_the_input_that_makes_a_label_gets_the_weight_and_most_others_none() -> None:
    generator = np.random.default_rng(1)
    x = generator.random((60, 30)) * (generator.random((60, 30)) < 0.3)
    weights = sparse_probes(csr_matrix(x), x[:, 7:8] > 0, 0.01).weights[0]
    assert weights.argmax() == 7
    assert (weights == 0).sum() > 20


def test_a_penalty_that_outweighs_every_input_leaves_no_weight() -> None:
    assert (sparse_probes(np.abs(X), Y, 10.0).weights == 0).all()


def test_f1_is_the_harmonic_mean_of_precision_and_recall() -> None:
    """Precision 2/3 and recall 1/2; and a column in which nothing is said or true."""
    predicted = np.array([[1, 0], [1, 0], [1, 0], [0, 0], [0, 0]], dtype=bool)
    truth = np.array([[1, 0], [1, 0], [0, 0], [1, 0], [1, 0]], dtype=bool)
    assert f1_scores(predicted, truth) == pytest.approx([2 / (3 / 2 + 2), 0])

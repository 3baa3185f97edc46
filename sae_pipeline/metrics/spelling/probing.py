"""Linear probes on small labelled sets: which direction, and which few latents, tell the labelled examples from the rest.

Labels are one against the rest and rare, so examples are weighted to give both sides of every label the same weight. All
labels are fitted in one run of L-BFGS-B; inputs may be sparse, as an SAE's latents are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import Bounds, minimize
from scipy.sparse import csr_matrix
from scipy.special import expit

Array = np.ndarray

ITERATIONS = 500
"""Most iterations of a fit; convex problems of this size need fewer."""

TOLERANCE = 1e-12
"""Relative decrease of the loss at which a fit ends."""


class LinearProbes(NamedTuple):
    """One logistic regression per label."""

    weights: Array
    """(n_labels, n_inputs)."""
    bias: Array
    """(n_labels,)."""

    def scores(self, x: Array | csr_matrix) -> Array:
        """Log odds (n_examples, n_labels) of examples (n_examples, n_inputs); the probe says yes above 0."""
        return np.asarray(x @ self.weights.T) + self.bias


def ridge_probes(x: Array | csr_matrix, y: Array) -> LinearProbes:
    """Logistic regressions with balanced classes and an L2 penalty.

    The minimum over w, b of sum_i c_i ln(1 + exp(-z_i (w x_i + b))) + |w|^2 / 2, z = ±1, where the c_i of either class sum to
    half the number of examples: what scikit-learn's ``LogisticRegression(C=1, class_weight="balanced")`` finds.

    Args:
        x: (n_examples, n_inputs).
        y: (n_examples, n_labels) bool; every label has examples on both sides.
    """
    n = len(y)
    share = y.mean(0)
    weights = np.where(y, 0.5 / share, 0.5 / (1 - share)) / n
    return _fit(x, y, weights, lambda w: ((w**2).sum() / (2 * n), w / n), lowest=-np.inf)


def sparse_probes(x: Array | csr_matrix, y: Array, penalty: float) -> LinearProbes:
    """Logistic regressions with weights that are not negative and an L1 penalty, which leaves few of them above zero.

    The minimum over w >= 0, b of mean_i p_i ln(1 + exp(-z_i (w x_i + b))) + penalty * sum w, z = ±1, where p is 1 for examples
    without the label and (number without) / (number with) for those with it, as in SAEBench's k-sparse probing.

    Args:
        x: (n_examples, n_inputs), not negative.
        y: (n_examples, n_labels) bool; every label has examples on both sides.
        penalty: per unit of weight.
    """
    share = y.mean(0)
    weights = np.where(y, (1 - share) / share, 1.0) / len(y)
    return _fit(x, y, weights, lambda w: (penalty * w.sum(), np.full_like(w, penalty)), lowest=0.0)


def f1_scores(predicted: Array, truth: Array) -> Array:
    """Harmonic mean of precision and recall per column of two bool arrays (n_examples, n_labels); 0 without any true positive."""
    positives = predicted.sum(0) + truth.sum(0)
    return np.where(positives > 0, 2 * (predicted & truth).sum(0) / np.maximum(positives, 1), 0.0)


def _fit(x: Array | csr_matrix, y: Array, example_weights: Array, penalty: Callable[[Array], tuple[float, Array]], lowest: float) -> LinearProbes:
    """Minimise the weighted logistic loss plus a penalty (its value and gradient, given the weights) over weights >= ``lowest``."""
    n_labels, n_inputs = y.shape[1], x.shape[1]
    sign = np.where(y, 1.0, -1.0)

    def loss(flat: Array) -> tuple[float, Array]:
        parameters = flat.reshape(n_labels, n_inputs + 1)
        weights, bias = parameters[:, :-1], parameters[:, -1]
        margins = sign * (np.asarray(x @ weights.T) + bias)
        pull = -example_weights * sign * expit(-margins)
        value, slope = penalty(weights)
        gradient = np.empty_like(parameters)
        gradient[:, :-1] = np.asarray((x.T @ pull).T) + slope
        gradient[:, -1] = pull.sum(0)
        return float((example_weights * np.logaddexp(0, -margins)).sum() + value), gradient.ravel()

    lower = np.full((n_labels, n_inputs + 1), lowest)
    lower[:, -1] = -np.inf
    options = {"maxiter": ITERATIONS, "maxfun": 4 * ITERATIONS, "ftol": TOLERANCE, "gtol": 1e-8}
    found = minimize(loss, np.zeros(lower.size), jac=True, method="L-BFGS-B", bounds=Bounds(lower.ravel(), np.inf), options=options)
    parameters = found.x.reshape(lower.shape)
    return LinearProbes(parameters[:, :-1], parameters[:, -1])

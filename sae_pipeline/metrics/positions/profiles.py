"""What a position in the context does to a figure: means per position, shares of variance, waves and two-peaked means.

Pure arithmetic on values per token, (n_contexts, context_length), and on their sums per document and position. A document
may lie in several contexts, and every statistic takes weights of documents, (n_resamples, n_documents) with a first row
of ones for the text as it is; so an interval is one more matrix product.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

Array = np.ndarray

TWO_PEAKS = 5 / 9
"""Bimodality coefficient of the uniform distribution: values above point to two peaks (SAS/STAT User's Guide, CLUSTER)."""

DECILE_COLUMNS = {f"d{n}": n / 100 for n in range(10, 100, 10)}
"""Column of each decile of a latent's activation, and its share."""

WEIGHTED_AT_ONCE = 2**22
"""Resampled values held at a time: 32 MiB in float64."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of a text stand; ``document`` is int64 (n_contexts, context_length), -1 where a token has none."""

    document: Array
    n_documents: int

    @property
    def n_positions(self) -> int:
        """Tokens per context."""
        return self.document.shape[1]

    def sums(self, values: Array | None = None) -> Array:
        """(n_documents, n_positions) float64: sums of values (n_contexts, n_positions) per document and position; counts without values."""
        cell = self.document * self.n_positions + np.arange(self.n_positions)
        mine = self.document >= 0
        counted = np.bincount(cell[mine], None if values is None else values[mine], self.n_documents * self.n_positions)
        return counted.reshape(self.n_documents, self.n_positions).astype(np.float64)


def ratio(numerator: Array, denominator: Array) -> Array:
    """Element by element, NaN where nothing is counted."""
    return np.divide(numerator, denominator, out=np.full(np.broadcast(numerator, denominator).shape, np.nan), where=denominator > 0)


# ------------------------------------------------------------------------------------------------ share of variance


class Products(NamedTuple):
    """Inner products between tokens of different documents, weighted and summed."""

    position: Array
    """(n_resamples, n_positions), of tokens at the same position."""
    whole: Array
    """(n_resamples,), of all tokens."""
    lengths: Array
    """(n_resamples,), weighted sum of the tokens' own squared lengths."""


def products(activations: Array, places: Places, weights: Array) -> Products:
    """Weighted sums of products between documents, from which means are squared without the noise of their tokens.

    They are what is left of a squared sum of vectors when each document's square with itself is taken off. At a position
    the squared sum is a quadratic form in the documents' weights, whose matrix is as small as the number of documents
    there; narrower vectors are summed as they are.

    Args:
        activations: (n_contexts, n_positions, d_model), centred before so that nothing large cancels.
        places: where they stand.
        weights: (n_resamples, n_documents).
    """
    twice = weights**2
    position = np.zeros((len(weights), places.n_positions))
    totals = np.zeros((places.n_documents, activations.shape[-1]))
    lengths = np.zeros(places.n_documents)
    for n in range(places.n_positions):
        mine = places.document[:, n] >= 0
        documents, row = np.unique(places.document[mine, n], return_inverse=True)
        x, sums = activations[mine, n].astype(np.float64), np.zeros((len(documents), activations.shape[-1]))
        np.add.at(sums, row, x)
        np.add.at(lengths, documents[row], (x**2).sum(1))
        totals[documents] += sums
        w = weights[:, documents]
        squares = ((w @ sums) ** 2).sum(1) if sums.shape[1] < len(sums) else ((w @ (sums @ sums.T)) * w).sum(1)
        position[:, n] = squares - twice[:, documents] @ (sums**2).sum(1)
    whole = ((weights @ totals) ** 2).sum(1) - twice @ (totals**2).sum(1)
    return Products(position, whole, weights @ lengths)


def explained_by_position(counts: Array, weights: Array, found: Products) -> Array:
    """Share of the variance of tokens that their position explains, without bias from the number of positions.

    The variance between position means is mean |mu_p|^2 - |mu|^2, each square estimated by products of tokens of different
    documents (a U-statistic, Hoeffding 1948): noise, and whatever the tokens of one document have in common, averages out of
    it. So the share is 0 on average where positions do not differ, in the sample as well as in resamples, which hold some
    documents several times; single values may lie below 0.

    Args:
        counts: (n_documents, n_positions) tokens.
        weights: (n_resamples, n_documents).
        found: from :func:`products`, over the same positions.

    Returns:
        (n_resamples,) float64; NaN where nothing varies or no position has two documents. Positions with one document
        are left out of the variance between positions.
    """
    tokens, twice = weights @ counts, weights**2
    squares = ratio(found.position, tokens**2 - twice @ counts**2)
    compared = np.where(np.isfinite(squares), tokens, 0.0)
    of_positions = ratio(np.nansum(compared * squares, axis=1), compared.sum(axis=1))
    own = counts.sum(1)
    of_whole = ratio(found.whole, (weights @ own) ** 2 - twice @ own**2)
    mean_square = ratio(found.lengths, tokens.sum(1))
    total = mean_square - of_whole
    # What is left of sums that cancel is rounding and no variance.
    return ratio(of_positions - of_whole, np.where(total > 1e-12 * mean_square, total, 0.0))


# ------------------------------------------------------------------------------------------------ waves


def dominant_frequency(curves: Array) -> tuple[Array, Array]:
    """The strongest wave in curves over positions.

    Mean and straight line are taken out by least squares, no taper is applied (a taper widens peaks to several cycles
    per context, and the waves looked for have only a few), and the periodogram is read at whole cycles per curve.

    Args:
        curves: (n_curves, n) values at consecutive positions, n at least 4.

    Returns:
        (n_curves,) frequency in cycles per position, a multiple of 1/n, and (n_curves,) its share of the power of all
        frequencies above 0; NaN for curves with gaps and for straight lines.
    """
    n = curves.shape[1]
    steps = np.arange(n) - (n - 1) / 2
    level = curves.mean(axis=1, keepdims=True)
    bent = curves - level - (curves @ steps / (steps @ steps))[:, None] * steps
    power = np.abs(np.fft.rfft(np.nan_to_num(bent), axis=1))[:, 1:] ** 2
    whole = power.sum(axis=1)
    # A line of this size leaves rounding behind.
    waves = np.isfinite(bent).all(axis=1) & (whole > n * 1e-24 * np.nan_to_num(curves**2).sum(axis=1))
    strongest = power.argmax(axis=1)
    share = ratio(power[np.arange(len(power)), strongest], np.where(waves, whole, 0.0))
    return np.where(waves, (strongest + 1) / n, np.nan), share


# ------------------------------------------------------------------------------------------------ features


def bimodality_coefficient(values: Array) -> Array:
    """Sarle's bimodality coefficient of each row, with the correction for small samples of SAS (Pfister et al. 2013).

    (g^2 + 1) / (k + 3 (n-1)^2 / ((n-2) (n-3))) with sample skewness g and sample excess kurtosis k; about 5/9 for a
    uniform and 1/3 for a normal distribution, 1 for two points of equal weight. A long tail raises it too, which is why
    activations are looked at on a logarithmic axis.

    Args:
        values: (n_rows, n); NaN marks a value that is not there.

    Returns:
        (n_rows,) float64; NaN with fewer than 4 values or when all are equal.
    """
    there = np.isfinite(values)
    n = there.sum(axis=1).astype(np.float64)
    mean = ratio(np.where(there, values, 0.0).sum(axis=1), n)
    centred = np.where(there, values - mean[:, None], 0.0)
    m2, m3, m4 = (ratio((centred**power).sum(axis=1), n) for power in (2, 3, 4))
    usable = (n >= 4) & (np.nan_to_num(m2) > 0)
    n, m2, m3, m4 = (np.where(usable, x, np.nan) for x in (n, m2, m3, m4))
    skewness = np.sqrt(n * (n - 1)) / (n - 2) * m3 / m2**1.5
    kurtosis = (n - 1) / ((n - 2) * (n - 3)) * ((n + 1) * (m4 / m2**2 - 3) + 6)
    return (skewness**2 + 1) / (kurtosis + 3 * (n - 1) ** 2 / ((n - 2) * (n - 3)))


def log_mean_bimodality(document_latents: Array, weights: Array) -> Array:
    """Bimodality coefficient of log10 of the latents' mean activations, over the latents that fired.

    Args:
        document_latents: (n_documents, d_sae) sums of activations per document.
        weights: (n_resamples, n_documents).

    Returns:
        (n_resamples,) float64.
    """
    found = []
    for part in _parts(len(weights), document_latents.shape[1]):
        sums = weights[part] @ document_latents  # means, up to a factor that a logarithm turns into a shift
        found.append(bimodality_coefficient(np.log10(sums, out=np.full(sums.shape, np.nan), where=sums > 0)))
    return np.concatenate(found)


def _parts(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, WEIGHTED_AT_ONCE // max(columns, 1))
    return (slice(start, start + step) for start in range(0, rows, step))

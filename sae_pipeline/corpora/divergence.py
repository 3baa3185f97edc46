"""How far sampled tokens are from the distribution they should be drawn from, beside what chance alone does to as many draws."""

from __future__ import annotations

import numpy as np

NOISE_DRAWS = 200
"""Simulated samples behind the divergence that chance alone gives: its mean is known to about 1 %."""


def divergence(counts: np.ndarray, probability: np.ndarray, seed: int) -> dict[str, float]:
    """How far the tokens drawn are from a distribution, beside how far chance alone would put that many draws from it.

    Kullback-Leibler divergence (nats) of the empirical distribution from ``probability``, and total variation distance.
    With fewer draws than tokens in the vocabulary both are far from 0 for a perfect sampler, so the mean and the 95th
    percentile over simulated samples of the same size are given with them.

    Args:
        counts: int (vocab_size,) times each token was drawn.
        probability: float64 (vocab_size,).
        seed: of the simulation.
    """
    n = int(counts.sum())
    generator, normalised = np.random.default_rng((seed, n)), probability / probability.sum()
    by_chance = np.array([_distances(generator.multinomial(n, normalised), probability) for _ in range(NOISE_DRAWS)])
    kl, total_variation = _distances(counts, probability)
    return {
        "n": n,
        "kl": kl,
        "kl_by_chance": float(by_chance[:, 0].mean()),
        "kl_by_chance_95": float(np.quantile(by_chance[:, 0], 0.95)),
        "total_variation": total_variation,
        "total_variation_by_chance": float(by_chance[:, 1].mean()),
        "total_variation_by_chance_95": float(np.quantile(by_chance[:, 1], 0.95)),
    }


def _distances(counts: np.ndarray, probability: np.ndarray) -> tuple[float, float]:
    share = counts / counts.sum()
    seen = share > 0
    kl = float(np.sum(share[seen] * np.log(share[seen] / probability[seen])))
    return max(kl, 0.0), float(0.5 * np.abs(share - probability).sum())

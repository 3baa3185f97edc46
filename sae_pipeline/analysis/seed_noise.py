"""The noise between seeds in a design: what it adds to sums of squares, and draws of it that know how few seeds there are.

SAEs of one layer and width that share a seed share their initial weights, so the noise has two parts: one of each SAE alone,
and one that such a block of SAEs has in common. The second cancels between mixes and does not cancel between widths. Both
are estimated from the deviations of SAEs from the mean of their setting, as the two strata of a split-plot design are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Array = np.ndarray


@dataclass(frozen=True)
class SeedNoise:
    """Noise between seeds of figures on several sets, one variance for all settings."""

    shared: Array
    """(settings, blocks): how far the noise of a block enters the mean of a setting times the square root of its seeds."""
    own: Array
    """(degrees of freedom, sets): orthogonal deviations within settings that no block has in common."""
    common: Array
    """(degrees of freedom, sets): orthogonal deviations of blocks; without rows where the two parts cannot be told apart."""
    size: float
    """SAEs that the deviations of a block stand for."""

    @classmethod
    def of(cls, setting: Array, block: Array, figures: Array) -> SeedNoise | None:
        """From figures (sets, SAEs); None where no setting has two seeds.

        Args:
            setting, block: whole number from 0 of each SAE's setting, and of the SAEs that share its initial weights.
            figures: as found.
        """
        settings, blocks = np.eye(setting.max() + 1)[setting], np.eye(block.max() + 1)[block]
        unit = settings / settings.sum(0) ** 0.5
        common = _basis(blocks - unit @ (unit.T @ blocks))
        own = _basis(np.eye(len(setting)) - unit @ unit.T - common @ common.T)
        if not own.shape[1] + common.shape[1]:
            return None
        size = float(((blocks.T @ common) ** 2).sum() / common.shape[1]) if common.shape[1] else 1.0
        if not own.shape[1]:
            own, common = common, common[:, :0]
        return cls(unit.T @ blocks, (figures @ own).T, (figures @ common).T, size)

    def draw(self, samples: int, generator: np.random.Generator) -> DrawnNoise:
        """The noise as found, then drawn anew ``samples`` times."""
        scales = []
        for part in (self.own, self.common):
            drawn = len(part) / generator.chisquare(len(part), samples) if len(part) else np.ones(samples)
            scales.append(np.concatenate([[1.0], drawn]))
        own, common = (_mean_square(part) * scale for part, scale in zip((self.own, self.common), scales, strict=True))
        surplus = np.maximum(common - own, 0) if len(self.common) else np.zeros(samples + 1)
        kept = np.divide(surplus, self.size * common, out=np.zeros(samples + 1), where=common > 0)
        kept[0] = 0
        settings, blocks = self.shared.shape
        noise = _normal(generator, settings, samples, self.own) * scales[0] ** 0.5
        if len(self.common):
            noise = noise + self.shared @ _normal(generator, blocks, samples, self.common) * (kept * scales[1]) ** 0.5
        noise[..., 0] = 0
        return DrawnNoise(self, noise, scales[0], scales[1], kept)


@dataclass(frozen=True)
class DrawnNoise:
    """Noise drawn from Student's rather than the normal distribution: every draw first draws the variances, as the inverse of a
    chi-square with their degrees of freedom. Entry 0 is without noise."""

    noise: SeedNoise
    values: Array
    """(sets, settings, 1 + samples), in units of a setting's mean times the square root of its seeds."""
    own: Array
    common: Array
    """(1 + samples,): variances of a draw over those estimated."""
    kept: Array
    """(1 + samples,): the part of a block's variance that a draw adds to that of each SAE."""

    def expected(self, form: Array, alike: bool = False) -> Array:
        """What noise adds to a sum of squares on average, (1 + samples,): that of the figures, and that of the draw.

        Args:
            form: (settings, settings), the sum of squares as a quadratic form of the settings' means times the root of their seeds.
            alike: of the mean over the sets, rather than of every set.
        """
        alone, together = float(np.trace(form)), float(((form @ self.noise.shared) * self.noise.shared).sum())
        own, block, mean_square = self._variances(alike)
        added = own * alone + self.kept * mean_square * together
        added[0] = 0
        return own * alone + block * together + added

    def variance(self) -> Array:
        """Of one SAE, summed over the sets, (1 + samples,)."""
        own, block, _ = self._variances(alike=False)
        return own + block

    def _variances(self, alike: bool) -> tuple[Array, Array, Array]:
        """Of each SAE alone, of a block, and the mean square of blocks."""
        own, common = (_alike(part) if alike else part for part in (self.noise.own, self.noise.common))
        alone, mean_square = _mean_square(own) * self.own, _mean_square(common) * self.common
        return alone, (mean_square - alone) / self.noise.size if len(common) else np.zeros_like(alone), mean_square


def _alike(deviations: Array) -> Array:
    """Deviations of the mean over sets, times the root of their number."""
    return deviations.mean(1, keepdims=True) * deviations.shape[1] ** 0.5


def _mean_square(deviations: Array) -> float:
    return float((deviations**2).sum() / max(len(deviations), 1))


def _normal(generator: np.random.Generator, rows: int, samples: int, deviations: Array) -> Array:
    """(sets, rows, 1 + samples) normal numbers that vary together between sets as the deviations do."""
    drawn = generator.normal(size=(len(deviations), rows * (samples + 1)))
    return (deviations.T @ drawn / len(deviations) ** 0.5).reshape(-1, rows, samples + 1)


def _basis(columns: Array) -> Array:
    """Orthonormal basis of what some columns of length at least one span."""
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    kept: Array = left[:, size > 1e-8]
    return kept

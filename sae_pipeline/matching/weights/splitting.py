"""Feature splitting between two widths: to how many latents of the wider dictionary one of the narrower is nearest."""

from __future__ import annotations

import numpy as np

from sae_pipeline.matching.weights.cosine import Nearest


def children_counts(wider_in_narrower: Nearest, parents: np.ndarray, threshold: float) -> np.ndarray:
    """How many latents of the narrower dictionary have 0, 1, 2, … children.

    A latent of the wider dictionary is the child of the latent of the narrower that it is nearest to, if their cosine is
    strictly above the threshold; else it is nobody's.

    Args:
        wider_in_narrower: nearest latents, in the narrower dictionary, of the wider's.
        parents: (n,) int64, the latents of the narrower dictionary that can have children.
        threshold: a cosine.

    Returns:
        (most children + 1,) int64, which sums to n.
    """
    children = wider_in_narrower.index[:, 0][wider_in_narrower.best > threshold].numpy()
    return np.bincount(np.bincount(children, minlength=parents.max() + 1)[parents])

"""Parents and children between a narrower and a wider dictionary."""

from __future__ import annotations

import numpy as np
import torch
from planted import sae_of

from sae_pipeline.matching.compare import compare
from sae_pipeline.matching.weights.directions import prepare

NARROW = torch.eye(4)[:3]
WIDE = torch.tensor([[1.0, 0, 0, 0], [0.8, 0, 0, 0.6], [0.8, 0, 0, -0.6], [0, 1, 0, 0], [0, 0, 0, 1]])


def test_children_are_counted_by_hand() -> None:
    """e1 has three children, e2 one, e3 none; the last latent of the wider one is nobody's child."""
    splits = compare(prepare(sae_of(NARROW)), prepare(sae_of(WIDE)), threshold=0.7).splits
    assert splits is not None
    assert splits.narrower == "a"
    assert splits.parents.tolist() == [1, 1, 0, 1]


def test_the_narrower_one_is_the_parent_whichever_comes_first() -> None:
    """And a child is only one above the threshold, strictly."""
    splits = compare(prepare(sae_of(WIDE)), prepare(sae_of(NARROW)), threshold=0.85).splits
    assert splits is not None
    assert splits.narrower == "b"
    assert splits.parents.tolist() == [1, 2]


def test_dead_latents_are_neither_parents_nor_children() -> None:
    """Without e3 in the narrower and without one child of e1 in the wider."""
    alive, alive_wide = torch.tensor([True, True, False]), torch.tensor([True, False, True, True, True])
    splits = compare(prepare(sae_of(NARROW), alive), prepare(sae_of(WIDE), alive_wide), threshold=0.7).splits
    assert splits is not None
    assert splits.parents.tolist() == [0, 1, 1]
    assert np.sum(splits.parents) == 2


def test_equal_widths_have_no_parents() -> None:
    """Nothing is split between two dictionaries of one width."""
    assert compare(prepare(sae_of(NARROW)), prepare(sae_of(WIDE[:3])), threshold=0.7).splits is None

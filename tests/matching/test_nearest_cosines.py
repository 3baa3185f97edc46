"""The highest signed cosines of rows among other rows, from blocks of the product."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.matching.weights.cosine import NearestSearch, nearest, sweep, top_counts
from sae_pipeline.matching.weights.directions import unit_rows


def random_rows(n: int, d: int, seed: int) -> torch.Tensor:
    return unit_rows(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def test_nearest_rows_by_hand() -> None:
    """Of e1 and -e2 among e2 and (3, 4) / 5: the cosines are 0 and 0.6, and -1 and -0.8; opposite directions do not match."""
    a, b = torch.tensor([[1.0, 0], [0, -1]]), torch.tensor([[0.0, 1], [0.6, 0.8]])
    forward, backward = nearest(a, b)
    assert torch.allclose(forward.cosine, torch.tensor([[0.6, 0], [-0.8, -1]]))
    assert forward.index.tolist() == [[1, 0], [1, 0]]
    assert torch.allclose(backward.cosine, torch.tensor([[0.0, -1], [0.6, -0.8]]))
    assert backward.index.tolist() == [[0, 1], [0, 1]]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 300), st.integers(0, 100), st.booleans())
def test_any_blocking_and_any_choice_of_rows_gives_numpys_sorted_cosines(n_a: int, n_b: int, block: int, seed: int, some: bool) -> None:
    """Both directions, with the numbering of all rows where only some take part."""
    a, b = random_rows(n_a, 4, seed), random_rows(n_b, 4, seed + 1)
    generator = torch.Generator().manual_seed(seed + 2)
    kept_a, kept_b = ((torch.rand(n, generator=generator) < 0.5).nonzero()[:, 0] for n in (n_a, n_b))
    if not some or not len(kept_a) or not len(kept_b):
        kept_a, kept_b = torch.arange(n_a), torch.arange(n_b)
    search = NearestSearch(n_a, n_b, top=3, kept_a=kept_a, kept_b=kept_b)
    sweep(a, b, search, block_elements=block)
    cosines = (a @ b.T).double().numpy()
    rows, columns = kept_a.numpy(), kept_b.numpy()
    chosen = cosines[np.ix_(rows, columns)]
    np.testing.assert_allclose(search.forward.cosine, -np.sort(-chosen, axis=1)[:, :3], atol=1e-6)
    np.testing.assert_allclose(search.backward.cosine, -np.sort(-chosen.T, axis=1)[:, :3], atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines[rows], search.forward.index.numpy(), 1), search.forward.cosine, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(cosines.T[columns], search.backward.index.numpy(), 1), search.backward.cosine, atol=1e-6)
    assert set(search.forward.index.flatten().tolist()) <= set(columns.tolist())


def test_histograms_count_every_row_once_per_place() -> None:
    """Cosines 0.6 and 0.72 are the first places, 0 and -1 the second; bins are 0.05 wide from -1, and 1 is in the last."""
    a = torch.tensor([[1.0, 0], [0, -1], [0.0, 1]])
    counts = top_counts(nearest(a, torch.tensor([[0.0, 1], [0.62, (1 - 0.62**2) ** 0.5]]))[0])
    assert counts.shape == (2, 40)
    assert counts.sum(1).tolist() == [3, 3]
    assert counts[0, 32] == 1  # 0.62 lies in [0.6, 0.65)
    assert counts[0, 39] == 1  # e2 finds itself
    assert counts[1, 0] == 1  # -e2 has its opposite in the second place


def test_a_row_without_direction_matches_nothing() -> None:
    """Its cosines are 0, and it is nobody's match above a positive threshold."""
    forward, backward = nearest(torch.tensor([[0.0, 0], [1, 0]]), torch.tensor([[1.0, 0]]))
    assert forward.best.tolist() == [0, 1]
    assert backward.index[0, 0] == 1

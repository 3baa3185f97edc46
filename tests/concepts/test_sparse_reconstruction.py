"""Writing a direction with few rows, against numpy's least squares, every subset, planted directions and closed forms."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_pipeline.concepts.sparse_reconstruction import chance_of_given, chance_of_pursuit, judged_chance, least_squares_path, matching_pursuit


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def cosine_by_lstsq(direction: np.ndarray, rows: np.ndarray) -> float:
    weights, *_ = np.linalg.lstsq(rows.T, direction, rcond=None)
    fitted = rows.T @ weights
    return float(fitted @ direction / np.linalg.norm(fitted) / np.linalg.norm(direction))


def test_every_prefix_is_numpys_least_squares_fit() -> None:
    directions, W_dec = random(3, 12), 5 * random(20, 12, seed=1)
    order = torch.stack([torch.randperm(20, generator=torch.Generator().manual_seed(n))[:10] for n in range(3)])
    path = least_squares_path(directions, W_dec, order)
    for direction, latents, cosines in zip(directions.numpy(), order.tolist(), path.cosines.tolist(), strict=True):
        expected = [cosine_by_lstsq(direction, W_dec.numpy()[latents[:n]]) for n in range(1, 11)]
        assert cosines == pytest.approx(expected, abs=1e-10)


def test_pursuit_takes_the_row_most_like_what_is_left_and_fits_all_taken_again() -> None:
    """Against a plain loop that solves each least squares problem anew."""
    (direction,), W_dec = random(1, 10, seed=2), random(30, 10, seed=3)
    rows = W_dec.numpy() / np.linalg.norm(W_dec.numpy(), axis=1, keepdims=True)
    taken: list[int] = []
    left, cosines = direction.numpy(), []
    for _ in range(6):
        taken.append(int(np.argmax(np.abs(rows @ left))))
        weights, *_ = np.linalg.lstsq(rows[taken].T, direction.numpy(), rcond=None)
        left = direction.numpy() - rows[taken].T @ weights
        cosines.append(np.sqrt(1 - left @ left / (direction.numpy() @ direction.numpy())))
    path = matching_pursuit(direction[None], W_dec, 6)
    assert path.latents[0].tolist() == taken
    assert path.cosines[0].tolist() == pytest.approx(cosines)


def test_pursuit_is_never_better_than_the_best_subset_and_as_good_for_one_row() -> None:
    (direction,), W_dec = random(1, 6, seed=4), random(9, 6, seed=5)
    cosines = matching_pursuit(direction[None], W_dec, 3).cosines[0].tolist()
    best = [max(cosine_by_lstsq(direction.numpy(), W_dec.numpy()[list(chosen)]) for chosen in combinations(range(9), n)) for n in (1, 2, 3)]
    assert cosines[0] == pytest.approx(best[0])
    assert all(found <= bound + 1e-12 for found, bound in zip(cosines, best, strict=True))


def test_a_direction_made_of_three_orthogonal_rows_is_written_with_these_three() -> None:
    W_dec = torch.cat([torch.eye(16, dtype=torch.float64), 0.3 * random(16, 16)])
    W_dec[16:] -= W_dec[16:] * torch.eye(16)[[2, 5, 11]].sum(0)  # none of the others leans on these
    direction = 3 * W_dec[2] - 2 * W_dec[5] + W_dec[11]
    path = matching_pursuit(direction[None], W_dec, 5)
    assert path.latents[0, :3].tolist() == [2, 5, 11]
    assert path.cosines[0, :3].tolist() == pytest.approx([np.sqrt(9 / 14), np.sqrt(13 / 14), 1.0])
    assert path.cosines[0, 3:].tolist() == pytest.approx([1.0, 1.0])


def test_rows_that_repeat_others_add_nothing() -> None:
    W_dec = random(4, 8)[[0, 0, 1, 2, 2, 3]]
    path = least_squares_path(random(1, 8, seed=1), W_dec, torch.tensor([[0, 1, 2, 3, 4, 5]]))
    distinct = least_squares_path(random(1, 8, seed=1), W_dec, torch.tensor([[0, 2, 3, 5]]))
    assert path.cosines[0, [1, 2, 4, 5]].tolist() == pytest.approx(distinct.cosines[0].tolist())
    assert path.cosines[0, 0] == pytest.approx(path.cosines[0, 1])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**16))
def test_neither_rotation_nor_the_scale_or_sign_of_rows_matters(seed: int) -> None:
    directions, W_dec = random(2, 8, seed=seed), random(12, 8, seed=seed + 1)
    rotation, _ = torch.linalg.qr(random(8, 8, seed=seed + 2))
    scales = random(12, 1, seed=seed + 3)
    path, other = (matching_pursuit(d, rows, 7) for d, rows in ((directions, W_dec), (4 * directions @ rotation, scales * W_dec @ rotation)))
    assert torch.equal(path.latents, other.latents)
    assert torch.allclose(path.cosines, other.cosines)


def test_as_many_rows_as_the_width_write_any_direction() -> None:
    path = matching_pursuit(random(3, 6), random(20, 6, seed=1), 6)
    assert path.cosines[:, -1].tolist() == pytest.approx([1.0] * 3)


def test_given_rows_have_the_chance_level_of_a_random_subspace() -> None:
    """The squared cosine of a random direction with n random rows has the mean n / d_model."""
    directions, W_dec = random(4_000, 32), random(8, 32, seed=1)
    path = least_squares_path(directions, W_dec, torch.arange(8).repeat(4_000, 1))
    expected = chance_of_given(np.arange(1, 9), 32)
    assert path.cosines.square().mean(0).sqrt().numpy() == pytest.approx(expected, rel=0.05)


def test_the_chance_level_of_pursuit_begins_at_that_of_the_nearest_row_with_either_sign() -> None:
    level = chance_of_pursuit(200, 24, 10, seed=0)
    assert (np.diff(level) > 0).all()
    # The highest of m independent absolute cosines: P(|cos| <= c) = P(one <= c)^m, cos² being Beta(1 / 2, (d - 1) / 2).
    from scipy.stats import beta

    assert level[0] == pytest.approx(np.sqrt(beta.ppf(0.5 ** (1 / 200), 0.5, 11.5)), abs=0.04)


def test_what_rows_hold_of_a_true_direction_beside_the_sample_they_were_chosen_on_is_chance() -> None:
    rows, samples = random(60, 24), random(2_000, 24, seed=1)
    beside = random(2_000, 24, seed=2)
    path = matching_pursuit(samples, rows, 4)
    sample = torch.nn.functional.normalize(samples, dim=1)
    other = torch.nn.functional.normalize(beside - (beside * sample).sum(1, keepdim=True) * sample, dim=1)
    true = 0.6 * sample + 0.8 * other
    found = torch.einsum("bnd,bd->bn", path.basis, true).square().cumsum(1).mean(0).sqrt().numpy()
    root_mean_square = path.cosines.square().mean(0).sqrt().numpy()
    assert found == pytest.approx(judged_chance(root_mean_square, np.arange(1, 5), 24, 0.6), rel=0.03)


def test_the_basis_spans_what_the_rows_do() -> None:
    directions, W_dec = random(2, 12), random(20, 12, seed=1)
    path = matching_pursuit(directions, W_dec, 5)
    for basis, latents in zip(path.basis, path.latents, strict=True):
        assert torch.allclose(basis @ basis.T, torch.eye(5, dtype=torch.float64))
        assert torch.allclose(W_dec[latents] @ basis.T @ basis, W_dec[latents])


def test_rows_of_single_precision_are_chosen_in_it_and_fitted_in_double() -> None:
    directions, W_dec = random(3, 16), random(40, 16, seed=1).float()
    path, precise = matching_pursuit(directions, W_dec, 8), matching_pursuit(directions, W_dec.double(), 8)
    assert torch.equal(path.latents, precise.latents)
    assert torch.allclose(path.cosines, precise.cosines, atol=1e-12)

"""The one-to-one pairing against SciPy's dense solver, on easy dictionaries and on those made to mislead candidates."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from sae_pipeline.matching import assignment, certified
from sae_pipeline.matching.assignment import Assignment, assign, assign_matrix
from sae_pipeline.matching.certified import CANDIDATES

Dictionaries = tuple[Tensor, Tensor]


def unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True)


def random(n: int, d: int = 96, seed: int = 0) -> Tensor:
    """Random unit rows; from 64 dimensions on candidates are proposed in bfloat16 where the processor has it."""
    return unit(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)))


def unrelated() -> Dictionaries:
    return random(300), random(300, seed=1)


def related() -> Dictionaries:
    """Two thirds of the latents are common, with noise, in another order."""
    a, b = random(300), random(300, seed=1)
    b[:200] = unit(a[:200] + 0.05 * torch.randn(200, 96, generator=torch.Generator().manual_seed(2)))
    return a, b[torch.randperm(300, generator=torch.Generator().manual_seed(3))]


def wider() -> Dictionaries:
    return random(150), random(500, seed=1)


def narrower() -> Dictionaries:
    return random(500), random(150, seed=1)


def duplicates() -> Dictionaries:
    """Every direction three times on one side: ties everywhere."""
    a = random(100).repeat(3, 1)
    return a, unit(a + 0.02 * random(300, seed=1))


def all_the_same() -> Dictionaries:
    return random(1).repeat(200, 1), random(1).repeat(230, 1)


def zero_rows() -> Dictionaries:
    """Dead latents on both sides."""
    a, b = related()
    a[::7], b[::5] = 0, 0
    return a, b


def mostly_dead() -> Dictionaries:
    """More dead latents than candidates, which nothing tells apart."""
    a, b = random(400), random(400, seed=1)
    a[150:], b[:100] = 0, 0
    return a, b


def nothing_alive() -> Dictionaries:
    return torch.zeros(80, 96), random(90)


def nearly_equal() -> Dictionaries:
    """All cosines agree to a thousandth, far below what bfloat16 tells apart."""
    centre = random(1)
    return unit(centre + 0.02 * random(250)), unit(centre + 0.02 * random(260, seed=1))


def a_crowd_around_few() -> Dictionaries:
    """Two hundred latents want the same ten, so nearly all of them must take a partner that is no candidate of theirs at first."""
    centre = random(1)
    a, b = random(300), random(300, seed=1)
    a[:200], b[:10] = unit(centre + 0.05 * a[:200]), unit(centre + 0.05 * b[:10])
    return a, b


def opposite() -> Dictionaries:
    """No cosine is above zero."""
    centre = random(1)
    return unit(centre + 0.05 * random(200)), unit(-centre + 0.05 * random(220, seed=1))


def two_dimensions() -> Dictionaries:
    """Long chains of neighbours on a circle."""
    return random(300, d=2), random(300, d=2, seed=1)


def long_vectors() -> Dictionaries:
    """Products, not cosines: rows of very different norms."""
    a, b = unrelated()
    return a * torch.logspace(-2, 3, 300)[:, None], b * torch.logspace(2, -1, 300)[:, None]


MISLEADING = [
    unrelated, related, wider, narrower, duplicates, all_the_same, zero_rows, mostly_dead, nothing_alive, nearly_equal, a_crowd_around_few,
    opposite, two_dimensions, long_vectors,
]  # fmt: skip


@pytest.fixture
def on_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems are solved as large ones are."""
    monkeypatch.setattr(assignment, "DENSE", 0)


def best_total(a: Tensor, b: Tensor) -> float:
    """SciPy's, on the dense matrix in float64."""
    values = (a.double() @ b.double().T).numpy()
    rows, columns = linear_sum_assignment(values, maximize=True)
    return float(values[rows, columns].sum())


def assert_a_pairing(found: Assignment, a: Tensor, b: Tensor) -> None:
    """Every row of the smaller side once, rows in order, and the cosines are those of the pairs."""
    n = min(len(a), len(b))
    assert len(found.rows) == len(found.columns) == len(found.cosine) == n
    assert (found.rows.diff() > 0).all()
    assert len(found.columns.unique()) == n
    exact = (a.double()[found.rows] * b.double()[found.columns]).sum(1)
    scale = max(1.0, float(exact.abs().max()))
    torch.testing.assert_close(found.cosine.double(), exact, rtol=0, atol=1e-6 * scale)
    assert found.total == pytest.approx(float(exact.sum()), abs=1e-6 * n * scale)


@pytest.mark.usefixtures("on_candidates")
@pytest.mark.parametrize("make", MISLEADING)
def test_candidates_find_the_total_of_the_dense_solver_and_prove_it(make: Callable[[], Dictionaries]) -> None:
    a, b = make()
    found = assign(a, b)
    assert_a_pairing(found, a, b)
    scale = float(a.norm(dim=1).max() * b.norm(dim=1).max())
    assert found.total == pytest.approx(best_total(a, b), abs=1e-5 * scale)
    assert found.exact
    assert found.bound == 0


@pytest.mark.parametrize("make", MISLEADING)
def test_small_dictionaries_are_paired_as_the_dense_solver_does(make: Callable[[], Dictionaries]) -> None:
    a, b = make()
    found = assign(a, b)
    assert_a_pairing(found, a, b)
    assert found.total == pytest.approx(best_total(a, b), rel=1e-6, abs=1e-4)
    assert found.exact


@pytest.mark.usefixtures("on_candidates")
@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 70), st.integers(0, 10**6), st.booleans())
def test_any_shape_gives_the_dense_total(n_a: int, n_b: int, d: int, seed: int, coarse: bool) -> None:
    """Coarse directions, of entries -1, 0 and 1, tie all the time and are zero now and then."""
    generator = torch.Generator().manual_seed(seed)
    a, b = torch.randn(n_a, d, generator=generator), torch.randn(n_b, d, generator=generator)
    if coarse:
        a, b = a.round().clamp(-1, 1), b.round().clamp(-1, 1)
    a, b = (rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-6) for rows in (a, b))
    found = assign(a, b)
    assert_a_pairing(found, a, b)
    assert found.total == pytest.approx(best_total(a, b), abs=1e-5)
    assert found.exact


@pytest.mark.usefixtures("on_candidates")
@pytest.mark.parametrize("make", [related, wider, a_crowd_around_few])
def test_the_other_order_of_the_sides_gives_the_same_pairs(make: Callable[[], Dictionaries]) -> None:
    """Without ties there is one best pairing, and reversing the sides reverses it."""
    a, b = make()
    there, back = assign(a, b), assign(b, a)
    assert set(zip(there.rows.tolist(), there.columns.tolist(), strict=True)) == set(zip(back.columns.tolist(), back.rows.tolist(), strict=True))
    assert there.total == pytest.approx(back.total, abs=1e-5)


@pytest.mark.usefixtures("on_candidates")
@pytest.mark.parametrize("rounds", [0, 1, 2, 3])
@pytest.mark.parametrize("make", [unrelated, nearly_equal, a_crowd_around_few, two_dimensions])
def test_a_pairing_that_is_not_proven_comes_with_a_bound_that_holds(make: Callable[[], Dictionaries], rounds: int) -> None:
    """The dense total lies between the one that was found and that plus the bound."""
    a, b = make()
    found, best = assign(a, b, rounds), best_total(a, b)
    assert_a_pairing(found, a, b)
    assert found.total - 1e-5 <= best <= found.total + found.bound + 1e-4
    assert found.exact == (found.bound == 0)


@pytest.mark.usefixtures("on_candidates")
@pytest.mark.parametrize("room", [500, 5_000, 20_000])
def test_a_limit_of_memory_ends_with_a_bound_that_holds(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Candidates that do not fit are left out, and what they could have added is in the bound."""
    monkeypatch.setattr(certified, "ROOM", room)
    a, b = a_crowd_around_few()
    found, best = assign(a, b), best_total(a, b)
    assert_a_pairing(found, a, b)
    assert not found.exact
    assert found.total - 1e-5 <= best <= found.total + found.bound + 1e-4


@pytest.mark.usefixtures("on_candidates")
def test_too_few_rounds_are_not_called_exact() -> None:
    """Before the first round latents are paired by their numbers; ten candidates' places are then wanted by two hundred."""
    a, b = a_crowd_around_few()
    for rounds in (0, 1):
        found = assign(a, b, rounds)
        assert not found.exact
        assert found.total < best_total(a, b) - 0.1


@pytest.mark.usefixtures("on_candidates")
@pytest.mark.parametrize("kernels", ["torch", "numba"])
def test_every_implementation_of_the_kernels_gives_the_same_pairs(kernels: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(kernels)
    from sae_pipeline.saes.kernels import choice

    monkeypatch.setenv(choice.VARIABLE, kernels)
    choice.compiled_rows.cache_clear()
    try:
        a, b = related()
        found = assign(a, b)
    finally:
        monkeypatch.undo()
        choice.compiled_rows.cache_clear()
    assert found.exact
    assert found.total == pytest.approx(best_total(a, b), abs=1e-5)


def test_one_latent_on_each_side_is_a_pair_whatever_its_cosine() -> None:
    """Even the opposite direction: -1."""
    found = assign(torch.tensor([[1.0, 0.0]]), torch.tensor([[-1.0, 0.0]]))
    assert (found.rows.tolist(), found.columns.tolist(), found.cosine.tolist()) == ([0], [0], [-1.0])


def test_the_largest_total_is_not_the_greedy_one() -> None:
    """Greedy takes .9 and is left with .1: 1.0; the other way .8 + .7 = 1.5."""
    found = assign_matrix(torch.tensor([[0.9, 0.8], [0.7, 0.1]]))
    assert found.columns.tolist() == [1, 0]
    assert found.total == pytest.approx(1.5)


def test_memory_does_not_hold_the_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is asked of the values at a time: a few candidates of each row."""
    monkeypatch.setattr(assignment, "DENSE", 0)
    asked: list[int] = []
    original = assignment.Products.excess

    def counted(self: assignment.Products, rows: np.ndarray, u: np.ndarray, v: np.ndarray, count: int) -> object:
        found = original(self, rows, u, v, count)
        asked.append(len(found.amount))
        return found

    monkeypatch.setattr(assignment.Products, "excess", counted)
    a, b = random(1000), random(1000, seed=1)
    assert assign(a, b).exact
    assert max(asked) <= 1000 * CANDIDATES

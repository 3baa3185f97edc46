"""The primitives of a sparse step against dense float64 products, and the exactness of the preselection."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_choices import INSTALLED, use
from torch import Tensor

from sae_pipeline.errors import BadInput
from sae_pipeline.saes import kernels
from sae_pipeline.saes.architectures import ARCHITECTURES
from sae_pipeline.saes.initialisation import input_statistics
from sae_pipeline.saes.kernels import ByLatent, SparseCode, UnitRowAdam, Workspace, choice, encoding, tokens_of
from sae_pipeline.saes.kernels.bounds import Rounded, error_model, rounded, row_bounds
from sae_pipeline.saes.kernels.team import teams, working_together


def problem(n: int, d_model: int, d_sae: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Rows (n, d_model), unit encoder rows (d_sae, d_model) and biases (d_sae,)."""
    generator = torch.Generator().manual_seed(seed)
    W = torch.randn(d_sae, d_model, generator=generator)
    W /= W.norm(dim=1, keepdim=True)
    return torch.randn(n, d_model, generator=generator), W, 0.1 * torch.randn(d_sae, generator=generator)


def near_ties() -> tuple[Tensor, Tensor, Tensor]:
    x, W, b = problem(40, 96, 200)
    W[1:] = W[0] + 1e-4 * W[1:]  # all latents agree to far below bfloat16's resolution
    return x, W, b * 1e-4


def one_huge_latent() -> tuple[Tensor, Tensor, Tensor]:
    x, W, b = problem(40, 96, 200)
    W[17] *= 1e4
    return x, W, b


def zero_rows() -> tuple[Tensor, Tensor, Tensor]:
    x, W, b = problem(40, 96, 200)
    x[::2] = 0
    return x, W, b


def bias_against_the_product() -> tuple[Tensor, Tensor, Tensor]:
    """Small integers, which bfloat16 holds exactly, so that the bias is all that is rounded, and nearly all that is left."""
    x, W, b = problem(40, 96, 200)
    common, W = (30 * x[0]).round(), (10 * W).round()
    return common + x.round(), W, b - W @ common


def exact_ties() -> tuple[Tensor, Tensor, Tensor]:
    x, W, b = problem(40, 96, 200)
    return x, W[torch.arange(200) // 8 * 8].contiguous(), b[torch.arange(200) // 8 * 8].contiguous()


HARD: dict[str, Callable[[], tuple[Tensor, Tensor, Tensor]]] = {
    "near ties": near_ties,
    "exact ties": exact_ties,
    "bias against the product": bias_against_the_product,
    "huge common offset": lambda: (lambda x, W, b: (x + 1e3, W, b))(*problem(40, 96, 200)),
    "huge values": lambda: (lambda x, W, b: (x * 1e12, W, b))(*problem(40, 96, 200)),
    "tiny values": lambda: (lambda x, W, b: (x * 1e-12, W, b * 1e-12))(*problem(40, 96, 200)),
    "far below the bias": lambda: (lambda x, W, b: (x * 1e-30, W, b))(*problem(40, 96, 200)),
    "zero rows": zero_rows,
    "one huge latent": one_huge_latent,
    "one row": lambda: problem(1, 96, 200),
    "d_sae no multiple of anything": lambda: problem(40, 67, 211),
    "fewer latents than inputs": lambda: problem(40, 96, 20),
    "all pre-activations negative": lambda: (lambda x, W, b: (x, W, b - 10))(*problem(40, 96, 200)),
    "more than one chunk": lambda: problem(encoding.CHUNK + 5, 64, 130),
}


def dense(code: SparseCode, d_sae: int) -> Tensor:
    """(n_tokens, d_sae) float64 activations of a code without double entries."""
    out = torch.zeros(len(code.starts) - 1, d_sae, dtype=torch.float64)
    return out.index_put((tokens_of(code), code.latents), code.values.double(), accumulate=True)


def reference(x: Tensor, W: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Pre-activations in float64, and how far float32 arithmetic may be from them."""
    pre = x.double() @ W.double().t() + b.double()
    rounding = (x.shape[1] + 2) * 2.0**-24 * (x.double().abs() @ W.double().abs().t() + b.double().abs()) + 1e-37
    return pre, rounding


# ---------------------------------------------------------------------- selection


@pytest.mark.parametrize("k", [1, 13, 20])
@pytest.mark.parametrize("case", HARD)
def test_topk_is_that_of_exact_arithmetic_up_to_rounding_ties(case, k, implementation):
    x, W, b = HARD[case]()
    f = dense(kernels.encode_topk(x, W.t(), b, k, Workspace()), len(W))
    pre, rounding = reference(x, W, b)
    limit = pre.topk(k, dim=1).values[:, -1:]
    tie = 2 * rounding.amax(1, keepdim=True)
    assert (f[(pre > limit + tie) & (pre > rounding)] > 0).all()
    assert (f[pre < limit - tie] == 0).all()
    assert ((f - pre).abs() <= rounding)[f > 0].all()
    assert ((f > 0).sum(1) <= k).all()


@pytest.mark.parametrize("case", HARD)
def test_entries_above_a_threshold_are_those_of_exact_arithmetic_up_to_rounding(case, implementation):
    x, W, b = HARD[case]()
    pre, rounding = reference(x, W, b)
    thresholds = pre.quantile(0.9, dim=0).float()
    for threshold in (thresholds, thresholds.max().item(), 0.0):
        code = kernels.encode_above(x, W.t(), b, threshold, Workspace())
        found = torch.zeros_like(pre, dtype=torch.bool)
        found[tokens_of(code), code.latents] = True
        assert len(code.latents) == int(found.sum())
        above = pre - threshold
        assert found[above > rounding].all()
        assert not found[above < -rounding].any()
        assert ((code.values - pre[found]).abs() <= rounding[found]).all()  # entries are in the order of the dense matrix


@pytest.mark.parametrize("case", HARD)
def test_the_bound_holds_for_every_bfloat16_product(case, implementation):
    x, W, b = HARD[case]()
    w = rounded("weights", W, Workspace())
    model = error_model(w, b)
    pre, _ = reference(x, W, b)
    for part, rows, approximate in encoding._approximate(0, 0, len(x), rounded("rows", x, Workspace()), w, b, Workspace()):
        allowed = row_bounds(rows, model).double().unsqueeze(1) + model.stored * approximate.double().abs()
        assert ((approximate.double() - pre[part]).abs() <= allowed).all()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(n=st.integers(1, 9), d_model=st.integers(1, 90), d_sae=st.integers(1, 150), seed=st.integers(0, 99), data=st.data())
def test_any_shape_selects_as_a_dense_topk(n, d_model, d_sae, seed, data, implementation):
    k = data.draw(st.integers(1, d_sae))
    x, W, b = problem(n, d_model, d_sae, seed)
    f = dense(kernels.encode_topk(x, W.t(), b, k, Workspace()), d_sae)
    values, latents = reference(x, W, b)[0].topk(k, dim=1)
    expected = torch.zeros_like(f).scatter(1, latents, values.relu())
    torch.testing.assert_close(f, expected, rtol=1e-5, atol=1e-5)


def test_all_latents_selected_is_a_plain_encoder(implementation):
    x, W, b = problem(30, 64, 50)
    f = dense(kernels.encode_topk(x, W.t(), b, 50, Workspace()), 50)
    torch.testing.assert_close(f, reference(x, W, b)[0].relu(), rtol=1e-5, atol=1e-6)


def test_float64_is_never_preselected():
    assert not choice.preselects(torch.zeros(4, 768, dtype=torch.float64))


def test_what_is_not_a_number_reaches_the_values(implementation):
    x, W, b = problem(10, 64, 100)
    x[3, 5] = torch.nan
    code = kernels.encode_topk(x, W.t(), b, 4, Workspace())
    values = code.values.view(10, 4)
    assert values[3].isnan().any()
    assert not values[torch.arange(10) != 3].isnan().any()


def test_the_value_of_an_entry_does_not_depend_on_what_else_is_selected(implementation):
    x, W, b = problem(700, 96, 300)
    many = dense(kernels.encode_above(x, W.t(), b, 0.0, Workspace()), 300)
    few = dense(kernels.encode_above(x, W.t(), b, 1.5, Workspace()), 300)
    top = dense(kernels.encode_topk(x, W.t(), b, 9, Workspace()), 300)
    assert (few > 0).sum() < (many > 0).sum() / 3
    for other in (few, top):
        assert torch.equal(other[other > 0], many[other > 0])


def test_batchtopk_keeps_its_bits_when_a_resume_forgets_the_floor(implementation, make_arm):
    x, _, _ = problem(400, 64, 128)
    statistics = input_statistics(x, normalise=True)
    warm, fresh = (ARCHITECTURES["batchtopk"](make_arm("batchtopk", 8), 64, 128, statistics, Workspace()) for _ in range(2))
    warm.select(statistics.sample[:200].contiguous())
    assert warm._floor > 0
    for a, b in zip(warm.select(statistics.sample)[:3], fresh.select(statistics.sample)[:3], strict=True):
        assert torch.equal(a, b)


# ---------------------------------------------------------------------- products and sums


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_products_and_sums_equal_dense_ones(dtype, implementation):
    x, W, b = (tensor.to(dtype) for tensor in problem(300, 70, 120))
    code = kernels.encode_above(x, W.t(), b, 1.0, Workspace())
    tokens, f = tokens_of(code), dense(code, 120)
    wide, weights = x.double(), W.double()
    exact = {"rtol": 1e-11, "atol": 1e-11} if dtype == torch.float64 else {"rtol": 1e-5, "atol": 2e-5}

    def check(found: Tensor, expected: Tensor) -> None:
        torch.testing.assert_close(found.double(), expected, **exact)

    check(kernels.decode(code, W), f @ weights)
    check(kernels.sampled_product(x, W, code), (wide @ weights.t())[tokens, code.latents])
    error, products = kernels.reconstruction_error(code, W, x)
    check(error, f @ weights - wide)
    check(products, ((f @ weights - wide) @ weights.t())[tokens, code.latents])
    by_latent = ByLatent(code, 300, 120)
    check(by_latent.sum(code.values), f.sum(0))
    check(by_latent.weighted_sum(x, code.values), f.t() @ wide)


def test_tokens_and_latents_without_entries_have_sums_of_zero(implementation):
    x, W, _ = problem(3, 64, 8)
    code = SparseCode(torch.tensor([0, 0, 2, 2]), torch.tensor([1, 6]), torch.tensor([2.0, 3.0]))
    assert torch.equal(kernels.decode(code, W, out=torch.full_like(x, torch.nan))[[0, 2]], torch.zeros(2, 64))
    by_latent = ByLatent(code, 3, 8)
    sums = by_latent.weighted_sum(x, code.values, out=torch.full_like(W, torch.nan))
    torch.testing.assert_close(sums[[1, 6]], torch.stack([2 * x[1], 3 * x[1]]))
    assert (sums[[0, 2, 3, 4, 5, 7]] == 0).all()
    assert by_latent.sum(code.values).tolist() == [0, 2, 0, 0, 0, 0, 3, 0]


def test_a_code_without_entries_is_no_special_case(implementation):
    x, W, b = problem(5, 64, 100)
    code = kernels.encode_above(x, W.t(), b, 1e6, Workspace())
    assert len(code.latents) == 0
    error, products = kernels.reconstruction_error(code, W, x)
    assert torch.equal(error, -x)
    assert len(products) == len(kernels.sampled_product(x, W, code)) == 0
    assert (ByLatent(code, 5, 100).weighted_sum(x, code.values) == 0).all()


def everything(x: Tensor, W: Tensor, b: Tensor, workspace: Workspace) -> list[Tensor]:
    """All results of the primitives, copied."""
    found: list[Tensor] = []
    for code in (kernels.encode_topk(x, W.t(), b, 7, workspace), kernels.encode_above(x, W.t(), b, 1.2, workspace)):
        by_latent = ByLatent(code, len(x), len(W))
        results = (*code[:3], *kernels.reconstruction_error(code, W, x), by_latent.sum(code.values), by_latent.weighted_sum(x, code.values))
        found += [tensor.clone() for tensor in results]
    return found


def test_buffers_hold_no_state_between_calls(implementation):
    workspace, given_problem, other = Workspace(), problem(600, 64, 150), problem(600, 64, 150, seed=5)
    first = everything(*given_problem, workspace)
    everything(*other, workspace)
    for buffer in workspace._buffers.values():
        buffer.fill_(torch.nan if buffer.is_floating_point() else 2**40)
    for again in (everything(*given_problem, workspace), everything(*given_problem, Workspace())):
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_torch_and_numba_agree(monkeypatch):
    """The same selection; sums in another order, so values to rounding."""
    if "numba" not in INSTALLED:
        pytest.skip("numba is not installed")
    results = []
    for name in INSTALLED:
        use(name, monkeypatch)
        x, W, b = problem(600, 96, 250)
        topk = kernels.encode_topk(x, W.t(), b, 7, Workspace())
        above = kernels.encode_above(x, W.t(), b, 1.2, Workspace())
        results.append([dense(topk, 250), dense(above, 250), *everything(x, W, b, Workspace())[7:]])
    choice.compiled_rows.cache_clear()
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)
    assert torch.equal(results[0][0] > 0, results[1][0] > 0)


def test_a_team_of_any_size_gives_the_same_bits(implementation):
    found = []
    for threads in (1, 2, 3, 7):
        with working_together(teams(1, threads)[0]):
            found.append(everything(*problem(1_100, 64, 150), Workspace()))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


# ---------------------------------------------------------------------- Adam


def test_adam_with_unit_rows_is_projection_adam_and_normalisation(implementation):
    """Against torch's unfused Adam in float64, with the rows in the middle of a flat buffer of odd size."""
    generator = torch.Generator().manual_seed(0)
    rows, width, before, after = 40, 33, 1_500, 77
    flat = torch.randn(before + rows * width + after, generator=generator)
    ours = flat.clone()
    unit = ours[before : before + rows * width].view(rows, width)
    unit.div_(unit.norm(dim=1, keepdim=True))
    gradients = torch.empty_like(ours)
    optimiser = UnitRowAdam(ours, gradients, unit)
    theirs = ours.double()
    oracle = torch.optim.Adam([theirs], eps=6.25e-10)
    for step in range(5):
        gradient = torch.randn(len(flat), generator=generator) * 1e-3
        gradients.copy_(gradient)
        optimiser.step(1e-2 / (step + 1))
        wide, middle = gradient.double(), theirs[before : before + rows * width].view(rows, width)
        part = wide[before : before + rows * width].view(rows, width)
        part -= (part * middle).sum(1, keepdim=True) * middle
        theirs.grad = wide
        oracle.param_groups[0]["lr"] = 1e-2 / (step + 1)
        oracle.step()
        middle.div_(middle.norm(dim=1, keepdim=True))
    torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=1e-6)


def test_adam_goes_on_from_its_state_with_the_same_bits(implementation):
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(8 * 64 + 70, generator=generator), torch.randn(4, 8 * 64 + 70, generator=generator)

    def make(parameters: Tensor) -> tuple[UnitRowAdam, Tensor]:
        gradient = torch.zeros_like(parameters)
        return UnitRowAdam(parameters, gradient, parameters[: 8 * 64].view(8, 64)), gradient

    whole, resumed = start.clone(), start.clone()
    optimiser, gradient = make(whole)
    other, other_gradient = make(resumed)
    for step, values in enumerate(gradients):
        if step == 2:
            state = {name: tensor.clone() for name, tensor in other.state.items()}
            other, other_gradient = make(resumed)
            other.load(state)
        gradient.copy_(values)
        other_gradient.copy_(values)
        optimiser.step(1e-3)
        other.step(1e-3)
    assert torch.equal(whole, resumed)


# ---------------------------------------------------------------------- whole steps and the choice


@pytest.mark.parametrize("architecture", ["topk", "batchtopk", "jumprelu", "relu"])
def test_training_with_preselection_has_the_losses_of_plain_float32(architecture, implementation, make_arm, monkeypatch):
    x, _, _ = problem(1_024, 64, 8)
    directions = problem(1, 64, 200)[1]
    x = x[:, :32].relu() @ directions[:32] * 2 + 0.1 * x
    losses = []
    for preselected in (True, False):
        monkeypatch.setattr(encoding, "preselects", lambda rows, preselected=preselected: preselected)
        statistics = input_statistics(x, normalise=True)
        sae = ARCHITECTURES[architecture](make_arm(architecture, 8), 64, 128, statistics, Workspace())
        optimiser, found = UnitRowAdam(sae.parameters, sae.gradients, sae.W_dec), []
        for step in range(20):
            parts = sae.loss_and_gradients(statistics.sample[(step % 4) * 256 :][:256])
            optimiser.step(1e-3)
            sae.adjust(parts)
            found.append(parts["mse"])
        losses.append(found)
    assert losses[0] == pytest.approx(losses[1], rel=2e-5)
    assert losses[0][-1] < losses[0][0]


def test_importing_the_kernels_loads_neither_numba_nor_triton():
    code = "import sys, sae_pipeline.saes.kernels; sys.exit(bool({'numba', 'triton'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_implementation_is_refused(monkeypatch):
    monkeypatch.setenv(choice.VARIABLE, "fortran")
    choice.compiled_rows.cache_clear()
    with pytest.raises(BadInput, match="expected torch or numba, found fortran"):
        choice.compiled_rows()
    choice.compiled_rows.cache_clear()


def test_numba_that_is_not_there_is_missed_only_when_asked_for(monkeypatch):
    monkeypatch.setattr(choice.importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv(choice.VARIABLE, raising=False)
    choice.compiled_rows.cache_clear()
    assert choice.compiled_rows() is None
    monkeypatch.setenv(choice.VARIABLE, "numba")
    choice.compiled_rows.cache_clear()
    with pytest.raises(BadInput, match="pip install"):
        choice.compiled_rows()
    choice.compiled_rows.cache_clear()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_equals_the_cpu():
    """The same selection; sums in another order, so values to rounding."""
    found = []
    for device in ("cpu", "cuda"):
        x, W, b = (tensor.to(device) for tensor in problem(600, 96, 250))
        topk = kernels.encode_topk(x, W.t(), b, 7, Workspace())
        of_topk = dense(SparseCode(*(tensor.cpu() for tensor in topk[:3])), 250)
        found.append([of_topk, *(tensor.cpu() for tensor in everything(x, W, b, Workspace())[7:])])
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=2e-5)


def test_measured_norms_are_upper_bounds(implementation):
    x, _, _ = problem(50, 300, 2)
    measured = rounded("x", x, Workspace())
    assert isinstance(measured, Rounded)
    assert (measured.norms >= x.double().norm(dim=1)).all()
    assert (measured.norms >= measured.low.double().norm(dim=1) * 0.9999).all()
    assert (measured.errors >= (x.double() - measured.low.double()).norm(dim=1)).all()

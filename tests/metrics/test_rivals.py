"""Other tools' formulas, by hand, and where they part from explained variance."""

from __future__ import annotations

from unittest import mock

import pytest
import torch
from torch import Tensor

from sae_pipeline.metrics import rivals
from sae_pipeline.metrics.rivals import RivalBatch, RivalSums


def rival_metrics(x: Tensor, x_hat: Tensor, batch: int = 2048) -> dict[str, float | None]:
    """The rivals of a set (n_tokens, d_model) cut into batches."""
    x, x_hat = x.double(), x_hat.double()
    sse = ((x - x_hat) ** 2).sum(1)
    sums = RivalSums(x.shape[1])
    with mock.patch.object(rivals, "RIVAL_BATCH", batch):
        for part in torch.arange(len(x)).split(batch):
            sums.update(RivalBatch(x[part]), sse[part], x_hat[part].sum(0))
    return sums.values(n=len(x), sse=sse.sum().item(), sum_sq=(x**2).sum().item(), sum_x=x.sum(0))


def test_six_formulas_give_six_answers_on_four_tokens() -> None:
    """x = 1, 3 | 5, 11 in batches of two with x_hat = 1, 2 | 5, 9: errors 0, 1 | 0, 4, means 2 | 8 and 5 overall.

    Variance over all 16 + 4 + 0 + 36 = 56, in the batches 1 + 1 and 9 + 9. Residuals 0, 1 | 0, 2 have mean 3/4 overall and
    1/2, 1 in the batches. Mean square (1 + 9 + 25 + 121) / 4 = 39 in one dimension.
    """
    found = rival_metrics(torch.tensor([[1.0], [3], [5], [11]]), torch.tensor([[1.0], [2], [5], [9]]), batch=2)
    assert found == pytest.approx(
        {
            "legacy.sae_lens.explained_variance": 1 - 5 / 56,
            "legacy.sae_lens.explained_variance_legacy": 1 - (0 / 1 + 1 / 1 + 0 / 9 + 4 / 9) / 4,
            "legacy.sae_bench.explained_variance": 1 - (5 / 4) / (39 - 39**2),
            "legacy.dictionary_learning.frac_variance_explained": 1 - (0.5 / 2 + 2 / 18) / 2,
            "legacy.sparsify.fvu": (1 / 2 + 4 / 18) / 2,
            "legacy.scikit_learn.explained_variance_score": 1 - (5 - 4 * 0.75**2) / 56,
            "legacy.s1.loss_recovered": 1 - 5 / 56,
        }
    )


def test_residual_variance_hides_a_constant_error_and_the_clamped_form_a_bad_one() -> None:
    """Off by a vector whose square is four times the variance per token: the truth is -3."""
    x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
    offset = (4 * ((x - x.mean(0)) ** 2).sum(1).mean() / 3).sqrt()
    found = rival_metrics(x, x + offset)
    assert found["legacy.sae_lens.explained_variance"] == pytest.approx(-3, rel=1e-5)
    assert found["legacy.dictionary_learning.frac_variance_explained"] == pytest.approx(1, abs=1e-6)
    assert found["legacy.scikit_learn.explained_variance_score"] == pytest.approx(1, abs=1e-6)
    assert found["legacy.s1.loss_recovered"] == 0


def test_a_small_batch_takes_half_of_the_variance_into_its_own_mean() -> None:
    """True value 0.75; in batches of two the mean of ratios sees a variance half as large and reads 0.5 or less."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(4000, 40, generator=generator)
    x_hat = x + 0.5 * torch.randn(4000, 40, generator=generator)
    small, whole = (rival_metrics(x, x_hat, batch) for batch in (2, 4000))
    assert 1 - whole["legacy.sparsify.fvu"] == pytest.approx(0.75, abs=0.01)  # type: ignore[operator]
    assert 1 - small["legacy.sparsify.fvu"] == pytest.approx(0.5, abs=0.05)  # type: ignore[operator]


def test_a_shorter_last_batch_counts_only_where_it_is_the_only_one() -> None:
    """Of three tokens in batches of two the third is in no batch; alone it is a batch without variance."""
    x, x_hat = torch.tensor([[1.0], [3], [9]]), torch.tensor([[1.0], [2], [0]])
    assert rival_metrics(x, x_hat, batch=2)["legacy.sparsify.fvu"] == pytest.approx(1 / 2)
    assert rival_metrics(x[:2], x_hat[:2], batch=5)["legacy.sparsify.fvu"] == pytest.approx(1 / 2)
    assert rival_metrics(x[:1], x_hat[:1], batch=2)["legacy.sparsify.fvu"] is None


def test_a_set_without_variance_is_one_or_zero_to_sae_lens_and_undefined_to_the_others() -> None:
    """Equal tokens, rebuilt exactly or not at all."""
    x = torch.full((4, 2), 3.0)
    exact, wrong = rival_metrics(x, x), rival_metrics(x, 0 * x)
    assert (exact["legacy.sae_lens.explained_variance"], wrong["legacy.sae_lens.explained_variance"]) == (1.0, 0.0)
    assert wrong["legacy.scikit_learn.explained_variance_score"] is None
    assert wrong["legacy.s1.loss_recovered"] is None


def test_without_tokens_there_is_nothing_to_say() -> None:
    """No value, and no warning either."""
    assert set(RivalSums(2).values(n=0, sse=0.0, sum_sq=0.0, sum_x=torch.zeros(2, dtype=torch.float64)).values()) == {None}

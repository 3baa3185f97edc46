"""Directions between prompts: their reading, their resamples, planted latents, and intervals against simulation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from concept_toys import D_MODEL, embeddings, planted_sae

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.concepts.directions import (
    MEAN_DIFFERENCE,
    PURSUIT,
    RESAMPLES,
    SAE_ITSELF,
    DirectionFit,
    PromptWeights,
    cosine_interval,
    difference_interval,
    fit_direction,
    latent_counts,
    prompt_means,
    read_prompts,
)
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.errors import SubjectError

PROMPTS = ["the dog ran home", "mix two cups flour", "rain", "please write again soon"]


@pytest.fixture(scope="module")
def model(tiny_llama: Path) -> SubjectModel:
    return SubjectModel.load(str(tiny_llama))


@pytest.mark.parametrize("batch_size", [1, 8])
def test_prompts_of_any_length_are_read_as_if_each_were_alone(model: SubjectModel, tiny_llama: Path, batch_size: int) -> None:
    tokenizer, hook = TextTokenizer.load(tiny_llama), model.hook_name("resid_post", 1)
    alone = [model.capture(torch.tensor([[tokenizer.bos_id, *tokenizer.encode([text])[0]]]), [hook])[hook][0] for text in PROMPTS]
    how = {"model": model, "tokenizer": tokenizer, "hook": hook, "batch_size": batch_size}
    last = read_prompts(PROMPTS, "last", **how)
    assert last.prompt.tolist() == [0, 1, 2, 3]
    assert torch.allclose(last.x, torch.stack([x[-1] for x in alone]), atol=1e-6)
    mean = read_prompts(PROMPTS, "mean", **how)
    assert torch.allclose(prompt_means(mean.x, mean.prompt, 4).float(), torch.stack([x[1:].mean(0) for x in alone]), atol=1e-6)


def test_a_prompt_longer_than_the_models_context_is_refused(model: SubjectModel, tiny_llama: Path) -> None:
    with pytest.raises(SubjectError, match=r"expected prompts of at most 64 tokens, .* found one of \d+ that begins 'dog dog"):
        read_prompts(
            ["dog " * 80], "last", model=model, tokenizer=TextTokenizer.load(tiny_llama), hook=model.hook_name("resid_post", 0), batch_size=2
        )


def test_the_first_weights_give_the_difference_of_means_and_resamples_draw_either_side() -> None:
    weights = PromptWeights.of("d", 5, 3, seed=0)
    positive, negative = torch.randn(5, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    differences = weights.differences(positive, negative)
    assert differences.shape == (1 + RESAMPLES, 4)
    assert torch.allclose(differences[0], positive.mean(0) - negative.mean(0))
    for side, count in zip(weights, (5, 3), strict=True):
        assert torch.allclose(side.sum(1), torch.ones(1 + RESAMPLES, dtype=torch.float64))
        assert torch.allclose((side * count).round(), side * count)  # each is drawn a whole number of times
    assert torch.equal(weights.positive, PromptWeights.of("d", 5, 3, seed=0).positive)
    assert not torch.equal(weights.positive, PromptWeights.of("e", 5, 3, seed=0).positive)


def written(noise: float, prompts: int = 40) -> DirectionFit:
    """A direction of two planted latents, three parts and one, with noise in every prompt."""
    sae, generator = planted_sae(), torch.Generator().manual_seed(0)
    base = noise * torch.randn(2 * prompts, D_MODEL, generator=generator)
    base[:prompts] += 3 * embeddings()[5] + embeddings()[8]
    latents = sae.encode(base).double()
    weights = PromptWeights.of("planted", prompts, prompts, seed=0)
    directions = weights.differences(base[:prompts].double(), base[prompts:].double())
    return fit_direction(sae, directions, weights.differences(latents[:prompts], latents[prompts:]), seed=0)


def test_a_direction_of_two_latents_is_written_with_two_and_its_nearest_row_is_the_stronger() -> None:
    fit = written(noise=0.01)
    cosine = {(method, n): values[0] for method, n, values in zip(fit.method, fit.latents.tolist(), fit.cosine, strict=True)}
    assert cosine[PURSUIT, 1] == pytest.approx(3 / np.sqrt(10), abs=0.01)
    assert cosine[PURSUIT, 2] == pytest.approx(1.0, abs=0.001)
    assert fit.nearest_latent == 4  # of token 5
    assert fit.nearest[0] == pytest.approx(3 / np.sqrt(10), abs=0.01)
    assert fit.chance[[fit.method.index(PURSUIT)]] < 0.5 < cosine[PURSUIT, 1]


def test_counts_are_powers_of_two_below_the_width_and_the_number_of_latents() -> None:
    assert latent_counts(80, 64).tolist() == [1, 2, 4, 8, 16, 32]
    assert latent_counts(16_384, 4_096).tolist() == [2**n for n in range(10)]
    assert latent_counts(5, 64).tolist() == [1, 2, 4]
    fit = written(noise=0.1)
    assert fit.method == [SAE_ITSELF] + [MEAN_DIFFERENCE] * 6 + [PURSUIT] * 6


def test_the_error_of_least_squares_is_one_minus_the_squared_cosine_and_of_the_sae_itself_what_it_is() -> None:
    fit = written(noise=0.1)
    assert fit.relative_squared_error[1:] == pytest.approx(1 - fit.cosine[1:, 0] ** 2)
    # Of two vectors at an angle the distance is least when one is scaled to fit; the SAE's own output is not.
    assert fit.relative_squared_error[0] >= 1 - fit.cosine[0, 0] ** 2 - 1e-12


def test_intervals_hold_the_estimate_stay_below_one_and_shrink_with_the_prompts() -> None:
    few, many = (cosine_interval(written(noise=0.5, prompts=n).cosine, 0.95) for n in (10, 200))
    fit = written(noise=0.5, prompts=10)
    assert ((few[0] <= fit.cosine[:, 0]) & (fit.cosine[:, 0] <= few[1]) & (few[1] < 1)).all()
    assert np.median((many[1] - many[0]) / (few[1] - few[0])) < 0.5


def test_an_sae_does_not_differ_from_itself_and_a_paired_difference_is_surer_than_either() -> None:
    generator = np.random.default_rng(0)
    common, own = generator.normal(0.5, 0.1, 1 + RESAMPLES), generator.normal(0, 0.01, 1 + RESAMPLES)
    low, high = difference_interval(common, common, 0.95)
    assert (low, high) == (0.0, 0.0)
    low, high = difference_interval(common + own, common, 0.95)
    assert high - low == pytest.approx(2 * 1.96 * own[1:].std(ddof=1), rel=1e-3)

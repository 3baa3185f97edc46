"""Directions between prompts: their reading, and planted latents that write them."""

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
    SAE_ITSELF,
    DirectionFit,
    fit_direction,
    latent_counts,
    prompt_means,
    read_prompts,
)
from sae_pipeline.concepts.true_direction import Sides, cosine_interval, halves_of, shown
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


def written(noise: float, prompts: int = 40) -> DirectionFit:
    """A direction of two planted latents, three parts and one, with noise in every prompt."""
    sae, generator = planted_sae(), torch.Generator().manual_seed(0)
    base = noise * torch.randn(2 * prompts, D_MODEL, generator=generator)
    base[:prompts] += 3 * embeddings()[5] + embeddings()[8]
    latents = sae.encode(base).double()
    given, found = (Sides(*values.double().split(prompts)) for values in (base, latents))
    return fit_direction(sae, given, found, halves_of("planted", prompts, prompts, seed=0), seed=0)


def test_a_direction_of_two_latents_is_written_with_two_and_its_nearest_row_is_the_stronger() -> None:
    fit = written(noise=0.01)
    cosine = {(method, n): float(np.sqrt(values[0])) for method, n, values in zip(fit.method, fit.latents.tolist(), fit.squared, strict=True)}
    assert cosine[PURSUIT, 1] == pytest.approx(3 / np.sqrt(10), abs=0.01)
    assert cosine[PURSUIT, 2] == pytest.approx(1.0, abs=0.001)
    assert fit.nearest_latent == 4  # of token 5
    assert np.sqrt(fit.nearest[0]) == pytest.approx(3 / np.sqrt(10), abs=0.01)
    assert fit.chance[[fit.method.index(PURSUIT)]] < 0.5 < cosine[PURSUIT, 1]


def test_counts_are_powers_of_two_below_the_width_and_the_number_of_latents() -> None:
    assert latent_counts(80, 64).tolist() == [1, 2, 4, 8, 16, 32]
    assert latent_counts(16_384, 4_096).tolist() == [2**n for n in range(10)]
    assert latent_counts(5, 64).tolist() == [1, 2, 4]
    fit = written(noise=0.1)
    assert fit.method == [SAE_ITSELF] + [MEAN_DIFFERENCE] * 6 + [PURSUIT] * 6


def test_the_error_of_least_squares_is_one_minus_the_squared_cosine_and_of_the_sae_itself_what_it_is() -> None:
    fit = written(noise=0.1)
    assert fit.relative_squared_error[1:] == pytest.approx(1 - fit.squared[1:, 0].clip(0, 1))
    # Of two vectors at an angle the distance is least when one is scaled to fit; the SAE's own output is not.
    assert fit.relative_squared_error[0] >= 1 - fit.squared[0, 0] - 1e-12


def test_intervals_hold_the_estimate_and_shrink_with_the_prompts() -> None:
    few, many = (cosine_interval(written(noise=0.3, prompts=n).squared, 0.95) for n in (10, 200))
    cosine = shown(written(noise=0.3, prompts=10).squared[:, 0], -1.0)
    assert ((few[0] <= cosine) & (cosine <= few[1]) & (few[1] <= 1)).all()
    narrower = (many[1] - many[0])[:3] / (few[1] - few[0])[:3]  # of many latents either interval ends at 1
    assert np.median(narrower) < 0.5


def test_as_many_rows_as_span_the_true_direction_write_all_of_it_whatever_the_noise() -> None:
    """Noise beside the direction is no part of it: two planted rows write it, though 16 write the samples only better and better."""
    fit = written(noise=0.3, prompts=400)
    two = [n for n, (method, latents) in enumerate(zip(fit.method, fit.latents.tolist(), strict=True)) if method == PURSUIT and latents >= 2]
    assert fit.squared[two, 0] == pytest.approx([1.0] * len(two), abs=0.01)


def test_a_direction_that_the_noise_is_as_long_as_has_no_cosine() -> None:
    """Two sides that agree on average: the unbiased square of nothing is below zero about as often as above."""
    noise = torch.Generator().manual_seed(0)
    sides = [Sides(*torch.randn(2, 8, D_MODEL, generator=noise, dtype=torch.float64)) for _ in range(12)]
    fits = [
        fit_direction(planted_sae(), each, each.map(lambda x: planted_sae().encode(x.float()).double()), halves_of("d", 8, 8, 0), 0) for each in sides
    ]
    none = [fit for fit in fits if np.isnan(fit.nearest[0])]
    assert 2 <= len(none) <= 10
    assert all(np.isnan(fit.squared[1:, 0]).all() for fit in none)

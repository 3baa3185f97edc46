"""Directions between two sets of prompts, and how an SAE writes them (Kissane et al. 2024, the refusal direction).

A direction is the difference of the mean activations of two sets of prompts. A prompt is a written text, read at its last
token or as the mean of its tokens, or a document of an evaluation set, as the mean of its tokens. Figures are of the true
direction, that between all prompts of which these are a sample, and SAEs are compared in pairs on the same prompts.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.concepts.sparse_reconstruction import chance_of_given, chance_of_pursuit, judged_chance, least_squares_path, matching_pursuit
from sae_pipeline.concepts.true_direction import Sides, true_products
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.errors import SubjectError
from sae_pipeline.matching.weights.chance import chance_mmcs
from sae_pipeline.metrics.reconstruction import wide
from sae_pipeline.saes.inference import InferenceSAE

Array = np.ndarray

MOST_LATENTS = 512
"""Latents that a direction is written with at most; powers of two up to here are shown."""

SAE_ITSELF, MEAN_DIFFERENCE, PURSUIT = "sae", "mean_difference", "matching_pursuit"
"""Methods: the SAE's own output, least squares on the latents that differ most, orthogonal matching pursuit."""


@dataclass(frozen=True)
class PromptTokens:
    """The activations of a set of written prompts at the tokens that are read."""

    x: Tensor
    """(n_tokens, d_model) float32."""
    prompt: Tensor
    """(n_tokens,) int64, prompt of each token, ascending from 0; every prompt has one."""


def read_prompts(prompts: Sequence[str], position: str, *, model: SubjectModel, tokenizer: TextTokenizer, hook: str, batch_size: int) -> PromptTokens:
    """Read prompts with BOS in front, each by itself and without padding.

    Args:
        prompts: texts with at least one token each.
        position: ``last`` or ``mean``: the last token of each prompt, or all of them.
        model: the subject.
        tokenizer: its tokenizer.
        hook: name of the site.
        batch_size: prompts of equal length per forward pass.

    Raises:
        SubjectError: a prompt is longer than the model's context.
    """
    encoded = [[tokenizer.bos_id, *ids] for ids in tokenizer.encode(list(prompts))]
    by_length: dict[int, list[int]] = defaultdict(list)
    for number, ids in enumerate(encoded):
        by_length[len(ids)].append(number)
    read: dict[int, Tensor] = {}
    for length, numbers in by_length.items():
        if model.context_limit is not None and length > model.context_limit:
            raise SubjectError(
                f"concepts.directions: expected prompts of at most {model.context_limit} tokens, the longest context of {model.name}, "
                f"found one of {length} that begins '{prompts[numbers[0]][:40]}'; shorten it"
            )
        first = length - 1 if position == "last" else min(1, length - 1)
        for start in range(0, len(numbers), batch_size):
            batch = numbers[start : start + batch_size]
            x = model.capture(torch.tensor([encoded[number] for number in batch]), [hook])[hook][:, first:].cpu()
            read |= dict(zip(batch, x, strict=True))
    owners = [torch.full((len(read[number]),), number) for number in range(len(encoded))]
    return PromptTokens(torch.cat([read[number] for number in range(len(encoded))]), torch.cat(owners))


def prompt_means(values: Tensor, prompt: Tensor, prompts: int) -> Tensor:
    """(prompts, width) float64: mean of values (n_tokens, width) over the tokens of each prompt (n_tokens,)."""
    sums = torch.zeros(prompts, values.shape[1], dtype=torch.float64).index_add_(0, prompt, values.cpu().double())
    return sums / torch.bincount(prompt, minlength=prompts).clamp(min=1)[:, None]


class DirectionFit(NamedTuple):
    """How an SAE writes a direction; arrays (n_rows,)."""

    method: list[str]
    latents: Array
    """Latents used; of the SAE itself those whose mean differs."""
    squared: Array
    """(n_rows, 1 + prompts) squared cosine with the true direction, with the cosine's sign: the estimate, then without each prompt;
    NaN where the noise is as long as the direction."""
    relative_squared_error: Array
    chance: Array
    """Cosine that a random decoder of the same shape gives."""
    nearest: Array
    """(1 + prompts,) the same squared cosine with the nearest decoder row."""
    nearest_latent: int
    nearest_chance: float


def latent_counts(d_sae: int, d_model: int) -> Array:
    """1, 2, 4, … up to :data:`MOST_LATENTS`, to the latents there are, and to d_model - 1: as many as the width write any direction."""
    most = min(MOST_LATENTS, d_sae, max(d_model - 1, 1))
    return 2 ** np.arange(int(np.log2(most)) + 1)


@torch.inference_mode()
def fit_direction(sae: InferenceSAE, prompts: Sides, latents: Sides, halves: Sides, seed: int) -> DirectionFit:
    """Write a direction with an SAE's decoder.

    Latents are chosen on one half of the prompts, and on the other half it is judged how much of the true direction they
    span; both ways, put together.

    Args:
        sae: in raw model units.
        prompts: (n, d_model) float64 activations, whose differences are not zero in either half.
        latents: (n, d_sae) float64.
        halves: from :func:`halves_of`.
        seed: of the random decoder.
    """
    W_dec = sae.W_dec
    precise = wide(W_dec[:1])
    x = prompts.map(lambda side: side.to(precise)).centred()
    y = latents.centred().map(lambda side: wide(side.to(W_dec) @ W_dec))
    either, everything = (halves, halves.map(torch.logical_not)), halves.map(torch.ones_like)
    counts = latent_counts(sae.d_sae, sae.d_model)
    most, lengths = int(counts[-1]), W_dec.norm(dim=1).clamp(min=1e-12)
    chosen_on = torch.stack([x.among(half).difference() for half in either])
    strength = torch.stack([latents.among(half).difference().abs() for half in either]).to(W_dec) * lengths
    paths = (least_squares_path(chosen_on, W_dec, strength.topk(most, dim=1).indices), matching_pursuit(chosen_on, W_dec, most))
    near = normalize(wide(W_dec[(chosen_on.to(W_dec) @ W_dec.T / lengths).argmax(1)]), dim=1)
    points = float((near * chosen_on.flip(0)).sum())  # each with the direction of the half it was not chosen on

    judged = tuple(reversed(either))
    true_square = torch.stack([true_products(x, x, half).sum(1, keepdim=True) for half in judged]).sum(0)

    def spanned(bases: Tensor) -> Array:
        """(rows, 1 + prompts) share of the true direction's square in the first rows of the basis (2, rows, d_model) of each half."""
        projected = [Sides(x.positive @ basis.T, x.negative @ basis.T) for basis in bases]
        within = torch.stack([true_products(on, on, half) for on, half in zip(projected, judged, strict=True)]).sum(0)
        return _ratio(within.cumsum(1), true_square)

    own, own_square, square = (true_products(a, b, everything).sum(1, keepdim=True) for a, b in ((x, y), (y, y), (x, x)))
    squared = np.concatenate([_ratio(own * own.abs(), square * own_square.clamp(min=0)), *(spanned(path.basis)[counts - 1] for path in paths)])
    difference = Sides(*(b - a for a, b in zip(x, y, strict=True)))
    error = 1 - np.clip(squared[:, 0], 0, 1)
    error[0] = max(float(_ratio(true_products(difference, difference, everything)[:1].sum(1, keepdim=True), square[:1])[0, 0]), 0.0)
    reliability = float((true_square[0, 0] / chosen_on.square().sum()).clamp(0, 1).sqrt())
    of_pursuit = chance_of_pursuit(sae.d_sae, sae.d_model, most, seed)[counts - 1]
    return DirectionFit(
        method=[SAE_ITSELF, *[MEAN_DIFFERENCE] * len(counts), *[PURSUIT] * len(counts)],
        latents=np.concatenate([[int((latents.difference() != 0).sum())], counts, counts]),
        squared=squared,
        relative_squared_error=error,
        chance=np.concatenate([[0.0], chance_of_given(counts, sae.d_model), judged_chance(of_pursuit, counts, sae.d_model, reliability)]),
        nearest=np.copysign(1.0, points) * spanned(near[:, None])[0],
        nearest_latent=int((x.difference().to(W_dec) @ W_dec.T / lengths).argmax()),
        nearest_chance=reliability * chance_mmcs(sae.d_sae, sae.d_model),
    )


def _ratio(part: Tensor, whole: Tensor) -> Array:
    """(width, 1 + prompts) shares; NaN where the whole is not above zero."""
    return np.asarray(torch.where(whole > 0, part / whole, torch.nan).T.cpu().numpy())

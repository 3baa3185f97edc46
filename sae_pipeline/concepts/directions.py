"""Directions between two sets of prompts, and how an SAE writes them (Kissane et al. 2024, the refusal direction).

A direction is the difference of the mean activations of two sets of prompts. A prompt is a written text, read at its last
token or as the mean of its tokens, or a document of an evaluation set, as the mean of its tokens. Intervals resample the
prompts of either side, with the same draws for every SAE, so that SAEs are compared in pairs.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from scipy.special import ndtri
from torch import Tensor

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.concepts.sparse_reconstruction import chance, chance_of_given, least_squares_path, matching_pursuit
from sae_pipeline.corpora.tokenization import TextTokenizer
from sae_pipeline.errors import SubjectError
from sae_pipeline.metrics.reconstruction import wide
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.store.fingerprints import digest

Array = np.ndarray

MOST_LATENTS = 512
"""Latents that a direction is written with at most; powers of two up to here are shown."""

RESAMPLES = 64
"""Resamples of the prompts: standard deviations from them are known to a tenth."""

SAE_ITSELF, MEAN_DIFFERENCE, PURSUIT = "sae", "mean_difference", "matching_pursuit"
"""Methods: the SAE's own output, least squares on the latents that differ most, orthogonal matching pursuit."""

NEVER_ONE = 1 - 1e-15
"""Largest cosine that Fisher's transformation is taken of."""


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


class PromptWeights(NamedTuple):
    """Weights of the prompts in the sample (first row) and in each resample; every row sums to one."""

    positive: Tensor
    """(1 + RESAMPLES, n_positive) float64."""
    negative: Tensor
    """(1 + RESAMPLES, n_negative) float64."""

    @classmethod
    def of(cls, name: str, positive: int, negative: int, seed: int) -> PromptWeights:
        """The draws for a direction of that name."""
        generator = np.random.default_rng(int(digest("prompt bootstrap", seed, name, positive, negative), 16))
        sides = []
        for count in (positive, negative):
            drawn = generator.multinomial(count, np.full(count, 1 / count), size=RESAMPLES) if count else np.ones((RESAMPLES, 0))
            sides.append(torch.from_numpy(np.vstack([np.ones((1, count)), drawn]) / max(count, 1)))
        return cls(*sides)

    def differences(self, positive: Tensor, negative: Tensor) -> Tensor:
        """(1 + RESAMPLES, width) differences of means of values (n_positive, width) and (n_negative, width)."""
        return self.positive @ positive - self.negative @ negative


class DirectionFit(NamedTuple):
    """How an SAE writes a direction; arrays (n_rows,), or (n_rows, 1 + RESAMPLES) with the sample first."""

    method: list[str]
    latents: Array
    """Latents used; of the SAE itself those whose mean differs."""
    cosine: Array
    relative_squared_error: Array
    """(n_rows,)."""
    chance: Array
    """(n_rows,) cosine that a random decoder of the same shape gives."""
    nearest: Array
    """(1 + RESAMPLES,) highest cosine of the direction with a decoder row."""
    nearest_latent: int
    nearest_chance: float


def latent_counts(d_sae: int, d_model: int) -> Array:
    """1, 2, 4, … up to :data:`MOST_LATENTS`, to the latents there are, and to d_model - 1: as many as the width write any direction."""
    most = min(MOST_LATENTS, d_sae, max(d_model - 1, 1))
    return 2 ** np.arange(int(np.log2(most)) + 1)


@torch.inference_mode()
def fit_direction(sae: InferenceSAE, directions: Tensor, differences: Tensor, seed: int) -> DirectionFit:
    """Write a direction and its resamples with an SAE's decoder.

    Args:
        sae: in raw model units.
        directions: (1 + RESAMPLES, d_model) float64, none of them zero.
        differences: (1 + RESAMPLES, d_sae) float64, differences of the latents' mean activations.
        seed: of the random decoder.
    """
    W_dec = wide(sae.W_dec)
    directions, differences = directions.to(W_dec), differences.to(W_dec)
    counts = latent_counts(sae.d_sae, sae.d_model)
    most = int(counts[-1])
    own = differences @ W_dec
    strength = differences.abs() * W_dec.norm(dim=1)
    by_difference = least_squares_path(directions, W_dec, strength.topk(most, dim=1).indices)
    pursuit = matching_pursuit(directions, W_dec, most)
    level = chance(sae.d_sae, sae.d_model, most, seed)
    cosines = [torch.nn.functional.cosine_similarity(own, directions)[:, None]]
    cosines += [path.cosines[:, counts - 1] for path in (by_difference, pursuit)]
    cosine = torch.cat(cosines, dim=1).T.cpu().numpy()
    error = 1 - cosine[:, 0] ** 2
    error[0] = float((own[0] - directions[0]).square().sum() / directions[0].square().sum())
    likeness = torch.nn.functional.normalize(directions, dim=1) @ torch.nn.functional.normalize(W_dec, dim=1).T
    nearest, latent = likeness.max(1)
    return DirectionFit(
        method=[SAE_ITSELF, *[MEAN_DIFFERENCE] * len(counts), *[PURSUIT] * len(counts)],
        latents=np.concatenate([[int((differences[0] != 0).sum())], counts, counts]),
        cosine=cosine,
        relative_squared_error=error,
        chance=np.concatenate([[0.0], chance_of_given(counts, sae.d_model), level.pursuit[counts - 1]]),
        nearest=nearest.cpu().numpy(),
        nearest_latent=int(latent[0]),
        nearest_chance=level.nearest,
    )


def cosine_interval(values: Array, confidence: float) -> tuple[Array, Array]:
    """Interval of cosines (…, 1 + resamples) around their first: normal on Fisher's scale, with the resamples' standard deviation.

    A resampled direction holds the noise of its prompts twice, so that resamples of a cosine lie low; their spread does not.
    """
    z = np.arctanh(np.clip(values, -NEVER_ONE, NEVER_ONE))
    reach = ndtri((1 + confidence) / 2) * z[..., 1:].std(axis=-1, ddof=1)
    return np.tanh(z[..., 0] - reach), np.tanh(z[..., 0] + reach)


def difference_interval(values: Array, others: Array, confidence: float) -> tuple[Array, Array]:
    """Interval of the difference of cosines (…, 1 + resamples) with those of another SAE on the same resamples."""
    difference = values - others
    reach = ndtri((1 + confidence) / 2) * difference[..., 1:].std(axis=-1, ddof=1)
    return difference[..., 0] - reach, difference[..., 0] + reach

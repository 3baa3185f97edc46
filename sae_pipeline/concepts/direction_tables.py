"""The tables of directions: between what they lie, and how each SAE writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_pipeline.concepts.directions import (
    PromptTokens,
    PromptWeights,
    cosine_interval,
    difference_interval,
    fit_direction,
    prompt_means,
)
from sae_pipeline.concepts.text import ReadSet
from sae_pipeline.saes.inference import InferenceSAE

DIRECTIONS, DIRECTION_FITS, DIRECTION_LATENTS = "directions", "direction_fits", "direction_latents"

COLUMNS: dict[str, dict[str, Any]] = {
    DIRECTIONS: {"direction": "string", "source": "string", "positive": int, "negative": int, "norm": float, "mean_norm": float},
    DIRECTION_FITS: {"sae_id": "string", "direction": "string", "method": "string", "latents": int}
    | dict.fromkeys(("cosine", "cosine_low", "cosine_high", "relative_squared_error", "chance_cosine"), float)
    | {"against": "string", "difference": float, "difference_low": float, "difference_high": float},
    DIRECTION_LATENTS: {"sae_id": "string", "direction": "string", "latent": int}
    | dict.fromkeys(("max_decoder_cosine", "low", "high", "chance_cosine"), float),
}
"""Columns and types of each table, which an empty one has too."""


@dataclass(frozen=True)
class Written:
    """A direction between written prompts."""

    positive: PromptTokens
    negative: PromptTokens

    def values(self, of: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Means per prompt of a function of the activations, (n_positive, width) and (n_negative, width)."""
        first, second = (prompt_means(of(side.x), side.prompt, int(side.prompt[-1]) + 1) for side in (self.positive, self.negative))
        return first, second


class OfSets(NamedTuple):
    """A direction between the documents of two evaluation sets, by name."""

    positive: str
    negative: str


@dataclass(frozen=True)
class Prepared:
    """A direction with its resamples."""

    name: str
    between: Written | OfSets
    weights: PromptWeights
    vectors: Tensor
    """(1 + resamples, d_model) float64."""
    mean_norm: float
    """Mean length of the prompts' activations."""

    @property
    def exists(self) -> bool:
        """Whether there are prompts on both sides, and the sides differ."""
        enough = all(side.shape[1] > 1 for side in self.weights)
        return enough and bool((self.vectors.norm(dim=1) > 1e-9 * self.mean_norm).all())


class Reference(NamedTuple):
    """The SAE that those of other mixes are held against."""

    sae_id: str
    cosine: np.ndarray
    """(n_rows, 1 + resamples), from :func:`fit_rows`."""


def prepare(sets: Sequence[ReadSet], directions: Mapping[str, Written | OfSets], seed: int) -> list[Prepared]:
    """Each direction with its resamples, from the texts that are read or from written prompts."""
    by_name = {read.name: read for read in sets}
    means: dict[str, Tensor] = {}
    prepared = []
    for name, between in directions.items():
        if isinstance(between, Written):
            positive, negative = between.values(lambda x: x)
        else:
            for side in between:
                means[side] = means[side] if side in means else _document_means(by_name[side])
            positive, negative = means[between.positive], means[between.negative]
        weights = PromptWeights.of(name, len(positive), len(negative), seed)
        norm = float(torch.cat([positive, negative]).norm(dim=1).mean()) if len(positive) + len(negative) else 0.0
        prepared.append(Prepared(name, between, weights, weights.differences(positive, negative), norm))
    return prepared


def _document_means(read: ReadSet) -> Tensor:
    """(documents, d_model) float64, mean activation of each document that is read."""
    sums = torch.zeros(read.documents, read.activations.d_model, dtype=torch.float64)
    for rows, x in read.batches():
        sums.index_add_(0, read.document[rows], x.double())
    return sums / read.lengths[:, None]


def direction_rows(prepared: Sequence[Prepared]) -> pd.DataFrame:
    """One row per direction, see ``directions`` in :data:`COLUMNS`; its length is NaN where it does not exist."""
    rows = [
        (
            each.name,
            "prompts" if isinstance(each.between, Written) else f"documents of {each.between.positive} and {each.between.negative}",
            each.weights.positive.shape[1],
            each.weights.negative.shape[1],
            float(each.vectors[0].norm()) if each.exists else np.nan,
            each.mean_norm,
        )
        for each in prepared
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS[DIRECTIONS]))


@torch.inference_mode()
def fit_rows(
    sae: InferenceSAE, direction: Prepared, means: Mapping[str, Tensor], held_against: Reference | None, confidence: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Rows of ``direction_fits`` and ``direction_latents`` without the SAE's name, and the cosines that others may be held against.

    Args:
        sae: in raw model units.
        direction: one that exists.
        means: (documents, d_sae) means of the latents over the tokens of each document, by evaluation set.
        held_against: the SAE it is compared with.
        confidence: level of the intervals.
        seed: of the random decoders.
    """
    if isinstance(direction.between, Written):
        latents = direction.between.values(lambda x: sae.encode(x.to(sae.W_enc)))
    else:
        latents = means[direction.between.positive], means[direction.between.negative]
    fit = fit_direction(sae, direction.vectors, direction.weights.differences(*latents), seed)
    low, high = cosine_interval(fit.cosine, confidence)
    fits = pd.DataFrame(
        {
            "direction": direction.name, "method": fit.method, "latents": fit.latents, "cosine": fit.cosine[:, 0],
            "cosine_low": low, "cosine_high": high, "relative_squared_error": fit.relative_squared_error, "chance_cosine": fit.chance,
        }
    )  # fmt: skip
    if held_against is not None:
        difference_low, difference_high = difference_interval(fit.cosine, held_against.cosine, confidence)
        difference = fit.cosine[:, 0] - held_against.cosine[:, 0]
        fits = fits.assign(against=held_against.sae_id, difference=difference, difference_low=difference_low, difference_high=difference_high)
    nearest_low, nearest_high = cosine_interval(fit.nearest, confidence)
    row = (direction.name, fit.nearest_latent, float(fit.nearest[0]), float(nearest_low), float(nearest_high), fit.nearest_chance)
    return fits, pd.DataFrame([row], columns=list(COLUMNS[DIRECTION_LATENTS])[1:]), fit.cosine

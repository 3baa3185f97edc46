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
    SAE_ITSELF,
    PromptTokens,
    fit_direction,
    prompt_means,
)
from sae_pipeline.concepts.text import ReadSet
from sae_pipeline.concepts.true_direction import FEWEST_PROMPTS, Sides, cosine_interval, difference_interval, halves_of, shown, true_products
from sae_pipeline.saes.inference import InferenceSAE

DIRECTIONS, DIRECTION_FITS, DIRECTION_LATENTS = "directions", "direction_fits", "direction_latents"

COLUMNS: dict[str, dict[str, Any]] = {
    DIRECTIONS: {"direction": "string", "source": "string", "positive": int, "negative": int, "norm": float, "mean_norm": float}
    | {"reliability": float},
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

    def values(self, of: Callable[[Tensor], Tensor]) -> Sides:
        """Means per prompt of a function of the activations, (n_positive, width) and (n_negative, width)."""
        return Sides(*(prompt_means(of(side.x), side.prompt, int(side.prompt[-1]) + 1) for side in (self.positive, self.negative)))


class OfSets(NamedTuple):
    """A direction between the documents of two evaluation sets, by name."""

    positive: str
    negative: str


@dataclass(frozen=True)
class Prepared:
    """A direction with its prompts."""

    name: str
    between: Written | OfSets
    prompts: Sides
    """(n, d_model) float64, mean activations."""
    halves: Sides
    """Whether each is in the first half, from :func:`halves_of`."""

    @property
    def mean_norm(self) -> float:
        """Mean length of the prompts' activations."""
        lengths = torch.cat(list(self.prompts)).norm(dim=1)
        return float(lengths.mean()) if len(lengths) else 0.0

    @property
    def exists(self) -> bool:
        """Whether there are enough prompts on both sides, and the sides differ, as do those of either half."""
        if min(map(len, self.prompts)) < FEWEST_PROMPTS:
            return False
        chosen = (self.halves.map(torch.ones_like), self.halves, self.halves.map(torch.logical_not))
        return all(float(self.prompts.among(each).difference().norm()) > 1e-9 * self.mean_norm for each in chosen)

    @property
    def reliability(self) -> float:
        """Cosine of the sample's direction with the true one; 0 where its noise is as long as it is."""
        prompts = self.prompts.centred()
        true_square = true_products(prompts, prompts, self.halves.map(torch.ones_like))[0].sum()
        return float((true_square / prompts.difference().square().sum()).clamp(0, 1).sqrt())


class Reference(NamedTuple):
    """The SAE that those of other mixes are held against."""

    sae_id: str
    squared: np.ndarray
    """(n_rows, 1 + prompts) squared cosines, from :func:`fit_rows`."""


def prepare(sets: Sequence[ReadSet], directions: Mapping[str, Written | OfSets], seed: int) -> list[Prepared]:
    """Each direction with its prompts and their halves, from the texts that are read or from written prompts."""
    by_name = {read.name: read for read in sets}
    means: dict[str, Tensor] = {}
    prepared = []
    for name, between in directions.items():
        if isinstance(between, Written):
            prompts = between.values(lambda x: x)
        else:
            for side in between:
                means[side] = means[side] if side in means else _document_means(by_name[side])
            prompts = Sides(means[between.positive], means[between.negative])
        prepared.append(Prepared(name, between, prompts, halves_of(name, len(prompts.positive), len(prompts.negative), seed)))
    return prepared


def _document_means(read: ReadSet) -> Tensor:
    """(documents, d_model) float64, mean activation of each document that is read."""
    sums = torch.zeros(read.documents, read.activations.d_model, dtype=torch.float64)
    for rows, x in read.batches():
        sums.index_add_(0, read.document[rows], x.double())
    return sums / read.lengths[:, None]


def direction_rows(prepared: Sequence[Prepared]) -> pd.DataFrame:
    """One row per direction, see ``directions`` in :data:`COLUMNS`; its length and reliability are NaN where it does not exist."""
    rows = [
        (
            each.name,
            "prompts" if isinstance(each.between, Written) else f"documents of {each.between.positive} and {each.between.negative}",
            *map(len, each.prompts),
            float(each.prompts.difference().norm()) if each.exists else np.nan,
            each.mean_norm,
            each.reliability if each.exists else np.nan,
        )
        for each in prepared
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS[DIRECTIONS]))


@torch.inference_mode()
def fit_rows(
    sae: InferenceSAE, direction: Prepared, means: Mapping[str, Tensor], held_against: Reference | None, confidence: float, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    """Rows of ``direction_fits`` and ``direction_latents`` without the SAE's name, and the squared cosines that others may be held against.

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
        latents = Sides(means[direction.between.positive], means[direction.between.negative])
    fit = fit_direction(sae, direction.prompts, latents, direction.halves, seed)
    # Least squares has no sign: less than nothing is nothing.
    lowest = np.where(np.array(fit.method) == SAE_ITSELF, -1.0, 0.0)
    low, high = cosine_interval(fit.squared, confidence, lowest)
    fits = pd.DataFrame(
        {
            "direction": direction.name, "method": fit.method, "latents": fit.latents, "cosine": shown(fit.squared[:, 0], lowest),
            "cosine_low": low, "cosine_high": high, "relative_squared_error": fit.relative_squared_error, "chance_cosine": fit.chance,
        }
    )  # fmt: skip
    if held_against is not None:
        difference, difference_low, difference_high = difference_interval(fit.squared, held_against.squared, confidence)
        fits = fits.assign(against=held_against.sae_id, difference=difference, difference_low=difference_low, difference_high=difference_high)
    nearest_low, nearest_high = cosine_interval(fit.nearest, confidence)
    nearest = float(shown(fit.nearest[:1], -1.0)[0])
    row = (direction.name, fit.nearest_latent, nearest, float(nearest_low), float(nearest_high), fit.nearest_chance)
    return fits, pd.DataFrame([row], columns=list(COLUMNS[DIRECTION_LATENTS])[1:]), fit.squared

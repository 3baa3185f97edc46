"""What zeroed and shuffled position embeddings change, as tables with intervals over documents.

The same resamples of the documents serve every reading of the text, so a rise against the intact model is a paired
difference: what a document adds to both cancels.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sae_pipeline.activations.position_embeddings import CONDITIONS, Condition, why_not_applicable
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.analysis.bootstrap import document_weights, percentile_interval
from sae_pipeline.metrics.positions.profiles import (
    DECILE_COLUMNS,
    Array,
    Places,
    dominant_frequency,
    explained_by_position,
    log_mean_bimodality,
    products,
    ratio,
)
from sae_pipeline.metrics.positions.reading import PositionText, Reading, SaeReading, read
from sae_pipeline.saes.inference import InferenceSAE

RECONSTRUCTED = "reconstructed"
"""The condition of the intact model with an SAE's reconstruction in place of the site."""

CURVE_COLUMNS = ("sae_id", "quantity", "condition", "position", "tokens", "mean", "low", "high")
EFFECT_COLUMNS = ("sae_id", "quantity", "figure", "condition", "estimate", "low", "high", "rise", "rise_low", "rise_high", "tokens", "documents")

FEATURE_COLUMNS: dict[str, Any] = {"sae_id": "string", "latent": int} | dict.fromkeys(("mean", "std", "density", *DECILE_COLUMNS), float)
TOKEN_COLUMNS: dict[str, Any] = {"sae_id": "string", "position": int, "mean": float, "std": float}
"""Columns and types, which a table without SAEs has too."""

CURVES, EFFECTS, FEATURES, TOKENS = ("position_curves", "position_effects", "position_features", "position_tokens")
"""Files that :func:`measure_positions` writes, ``.parquet`` each."""

TOKENS_KEPT = 2_048
"""Tokens of a reading whose mean and spread over the latents go into the tables, evenly spaced: as many as a plot can show."""


class PositionEffects:
    """Gathers readings of one text, the intact one first, and turns them into tables.

    Args:
        text: what was read.
        evaluation_set: its name, which the resamples depend on as everywhere.
        samples: resamples of the documents.
        confidence: level of the intervals.
        seed: of the resamples.
    """

    def __init__(self, text: PositionText, *, evaluation_set: str, samples: int, confidence: float, seed: int) -> None:
        self._places = text.places
        drawn = document_weights(seed, evaluation_set, text.document_hashes, samples)
        self._weights = np.vstack([np.ones(text.places.n_documents), drawn])
        self._confidence = confidence
        self._curves: list[pd.DataFrame] = []
        self._figures: dict[tuple[str | None, str, str, str], Array] = {}

    def add(self, condition: Condition, reading: Reading) -> None:
        """Take in what one reading showed; only its figures are kept."""
        self._shares(None, "activations", condition, reading.activations)
        self._wave(None, "activation_norm", condition, reading.norm)
        if reading.losses is not None:
            self._loss(None, "cross_entropy", condition, reading.losses)
        for sae_id, latents in reading.saes.items():
            self._add_sae(sae_id, condition, latents, reading.norm)

    def _add_sae(self, sae_id: str, condition: Condition, latents: SaeReading, norm: Array) -> None:
        self._wave(sae_id, "latent_mean", condition, latents.latent_mean)
        self._loss(sae_id, "mse", condition, latents.mse)
        errors, lengths = (self._weights @ self._places.sums(values).sum(1) for values in (latents.mse, norm**2))
        self._keep(sae_id, "nmse", "mean", condition, ratio(errors, lengths))
        self._keep(sae_id, "feature_mean", "bimodality", condition, log_mean_bimodality(latents.document_latents.numpy(), self._weights))
        if latents.losses is not None:
            self._loss(sae_id, "cross_entropy", RECONSTRUCTED, latents.losses)

    def _keep(self, sae_id: str | None, quantity: str, figure: str, condition: str, values: Array) -> None:
        self._figures[sae_id, quantity, figure, condition] = values

    def _wave(self, sae_id: str | None, quantity: str, condition: str, values: Array) -> None:
        """The curve of a quantity, how much of its variance position explains, and its strongest wave; position 0 left out."""
        curves = self._curve(sae_id, quantity, condition, values)
        frequency, power = dominant_frequency(curves[:, 1:])
        self._shares(sae_id, quantity, condition, values[..., None])
        self._keep(sae_id, quantity, "dominant_frequency", condition, frequency)
        self._keep(sae_id, quantity, "dominant_power_share", condition, power)

    def _loss(self, sae_id: str | None, quantity: str, condition: str, values: Array) -> None:
        """The curve of a loss and its mean over tokens."""
        self._curve(sae_id, quantity, condition, values)
        places = self._known(values)
        sums, counts = places.sums(values).sum(1), places.sums().sum(1)
        self._keep(sae_id, quantity, "mean", condition, ratio(self._weights @ sums, self._weights @ counts))

    def _shares(self, sae_id: str | None, quantity: str, condition: str, vectors: Array) -> None:
        """Share of the variance of vectors (n_contexts, n_positions, d) that position explains, and the same late in the context.

        Position 0 holds BOS in every context and belongs to no document. A causal model also tells a position from how
        many tokens it sees, whatever becomes of its embeddings; in the second half of a context that hardly changes any more.
        """
        for figure, start in (("position_share", 1), ("position_share_late", vectors.shape[1] // 2)):
            places = Places(self._places.document[:, start:], self._places.n_documents)
            centred = vectors[:, start:] - vectors[:, start:].mean(axis=(0, 1), dtype=np.float64).astype(vectors.dtype)
            shares = explained_by_position(places.sums(), self._weights, products(centred, places, self._weights))
            self._keep(sae_id, quantity, figure, condition, shares)

    def _known(self, values: Array) -> Places:
        """The places of tokens that have a value."""
        return Places(np.where(np.isfinite(values), self._places.document, -1), self._places.n_documents)

    def _curve(self, sae_id: str | None, quantity: str, condition: str, values: Array) -> Array:
        """Mean per position on the text as it is and in each resample, (1 + samples, n_positions)."""
        places = self._known(values)
        counts = places.sums()
        curves = ratio(self._weights @ places.sums(np.nan_to_num(values)), self._weights @ counts)
        resampled = [percentile_interval(column, self._confidence) for column in curves[1:].T]
        rows = pd.DataFrame(
            {
                "sae_id": sae_id, "quantity": quantity, "condition": condition, "position": np.arange(places.n_positions),
                "tokens": counts.sum(0).astype(np.int64), "mean": curves[0], "low": [low for low, _ in resampled], "high": [high for _, high in resampled],
            }
        )  # fmt: skip
        first = values[:, 0]
        if not rows.loc[0, "tokens"] and np.isfinite(first).all():
            rows.loc[0, ["tokens", "mean"]] = len(first), first.mean()
        self._curves.append(rows[rows["tokens"] > 0])
        return curves

    def curves(self) -> pd.DataFrame:
        """One row per quantity, condition and position, see :data:`CURVE_COLUMNS`; no interval at position 0, which has no documents."""
        return pd.concat(self._curves, ignore_index=True)[list(CURVE_COLUMNS)].astype(
            {"sae_id": "string", "quantity": "string", "condition": "string"}
        )

    def effects(self) -> pd.DataFrame:
        """One row per figure and condition, see :data:`EFFECT_COLUMNS`: the value, and its paired rise against the intact model."""
        rows = []
        tokens = int((self._places.document >= 0).sum())
        for (sae_id, quantity, figure, condition), values in self._figures.items():
            row = {"sae_id": sae_id, "quantity": quantity, "figure": figure, "condition": condition, "estimate": values[0]}
            row["low"], row["high"] = percentile_interval(values[1:], self._confidence)
            intact = self._figures[None if condition == RECONSTRUCTED else sae_id, quantity, figure, "intact"]
            if condition != "intact":
                row["rise"] = values[0] - intact[0]
                row["rise_low"], row["rise_high"] = percentile_interval(values[1:] - intact[1:], self._confidence)
            rows.append(row | {"tokens": tokens, "documents": self._places.n_documents})
        words = {"sae_id": "string", "quantity": "string", "figure": "string", "condition": "string"}
        return pd.DataFrame(rows, columns=list(EFFECT_COLUMNS)).astype(words | dict.fromkeys(("rise", "rise_low", "rise_high"), float))


def measure_positions(
    folder: Path,
    *,
    text: PositionText,
    saes: Mapping[str, InferenceSAE],
    model: SubjectModel,
    hook: str,
    evaluation_set: str,
    batch_size: int,
    bootstrap_samples: int,
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Read the text under every condition that applies to the model, and write the tables of one hook point.

    A model without learned absolute positions is read as it is and under no other condition.

    Args:
        folder: where the four tables are written.
        text: what is read.
        saes: SAE per name, on the model's device.
        model: the subject.
        hook: name of the site.
        evaluation_set: name of the text's set.
        batch_size: contexts per forward pass.
        bootstrap_samples: resamples of the documents.
        confidence: level of the intervals.
        seed: of the resamples and of the shuffled orders.

    Returns:
        The summary: ``contexts``, ``tokens`` (not special), ``documents``, ``saes`` (names), ``not_applicable`` (why positions
        can neither be zeroed nor shuffled, or None).
    """
    effects = PositionEffects(text, evaluation_set=evaluation_set, samples=bootstrap_samples, confidence=confidence, seed=seed)
    not_applicable = why_not_applicable(model)
    features, tokens = [pd.DataFrame(columns=list(FEATURE_COLUMNS))], [pd.DataFrame(columns=list(TOKEN_COLUMNS))]
    for condition in CONDITIONS if not_applicable is None else CONDITIONS[:1]:
        reading = read(text, saes, model=model, hook=hook, condition=condition, seed=seed, batch_size=batch_size)
        effects.add(condition, reading)
        if condition == "intact":
            features += [latents.features().assign(sae_id=sae_id) for sae_id, latents in reading.saes.items()]
            tokens += [token_rows(text, latents).assign(sae_id=sae_id) for sae_id, latents in reading.saes.items()]
    frames = {CURVES: effects.curves(), EFFECTS: effects.effects()}
    for name, rows, columns in ((FEATURES, features, FEATURE_COLUMNS), (TOKENS, tokens, TOKEN_COLUMNS)):
        # The first has no rows and is there for its columns.
        frames[name] = pd.concat(rows[len(rows) > 1 :], ignore_index=True)[list(columns)].astype(columns)
    for name, frame in frames.items():
        frame.to_parquet(folder / f"{name}.parquet", index=False)
    return {
        "contexts": text.contexts,
        "tokens": int((text.places.document >= 0).sum()),
        "documents": text.places.n_documents,
        "saes": list(saes),
        "not_applicable": not_applicable,
    }


def token_rows(text: PositionText, latents: SaeReading) -> pd.DataFrame:
    """Mean and spread over the latents of at most :data:`TOKENS_KEPT` tokens: ``position``, ``mean``, ``std``."""
    context, position = np.nonzero(text.places.document >= 0)
    kept = np.unique(np.linspace(0, len(context) - 1, min(len(context), TOKENS_KEPT)).round().astype(np.int64))
    at = context[kept], position[kept]
    return pd.DataFrame({"position": at[1], "mean": latents.latent_mean[at], "std": latents.latent_std[at]})

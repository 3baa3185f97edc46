"""Resamples that also hold what no document sums recombine to: shares of dead and dense latents, and figures of the decoder alone."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from sae_pipeline.analysis.bootstrap import METRICS, Array, DocumentResamples, document_weights
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.metrics.latents.firing import firing_shares

FIRING = ("dead_share", "dense_share@")
"""How the ids of metrics begin that need firings per document."""

Firings = Mapping[tuple[str, str], Array]
"""(n_documents, d_sae) firings per document of each (sae_id, evaluation set), documents in the order of their hashes."""


def needs_firings(metric: str) -> bool:
    """Whether a metric can be resampled from firings per document alone."""
    return metric.startswith(FIRING)


class FiringResamples(DocumentResamples):
    """Every metric in each resample of the documents, the draws of all metrics being the same.

    A resample leaves documents out, so that in it more latents are silent than on all documents. The resampled values of
    firing metrics are therefore shifted to have their mean at the value on the documents as they are. A figure of the decoder
    depends on no document and is the same in every resample.

    Args:
        tables, samples, seed: as for :class:`~sae_pipeline.analysis.bootstrap.DocumentResamples`.
        firings: of the SAEs and sets whose firing metrics are asked for.
    """

    def __init__(self, tables: StudyTables, samples: int, seed: int, firings: Firings) -> None:
        super().__init__(tables, samples, seed)
        self._tables, self._samples, self._seed, self._firings = tables, samples, seed, firings
        self._drawn: dict[str, Array] = {}

    def values(self, metric: str) -> tuple[dict[tuple[str, str], int], Array]:
        """As :meth:`DocumentResamples.values`; firing metrics of the SAEs that firings were given for, and decoder figures of all."""
        if metric in METRICS:
            return super().values(metric)
        if metric not in self._values:
            found = self._of_firings(metric) if needs_firings(metric) else self._of_decoders(metric)
            finite = {key: values for key, values in found.items() if np.isfinite(values[0])}
            rows = {key: number for number, key in enumerate(finite)}
            self._values[metric] = rows, np.stack(list(finite.values())) if finite else np.empty((0, 1 + self._samples))
        return self._values[metric]

    def _of_firings(self, metric: str) -> dict[tuple[str, str], Array]:
        found: dict[tuple[str, str], Array] = {}
        for (sae_id, evaluation_set), counts in self._firings.items():
            tokens, weights = self._documents(sae_id, evaluation_set)
            shares = [firing_shares(weight @ counts, int(weight @ tokens))[metric] for weight in weights]
            values = np.array([np.nan if share is None else share for share in shares])
            values[1:] += values[0] - values[1:].mean()
            found[sae_id, evaluation_set] = values
        return found

    def _documents(self, sae_id: str, evaluation_set: str) -> tuple[Array, Array]:
        """Tokens of each document of a set, (n_documents,), and the weights of the documents, (1 + samples, n_documents)."""
        sums = self._tables.document_sums
        here = sums[(sums["sae_id"] == sae_id) & (sums["evaluation_set"] == evaluation_set)].sort_values(["document_hash", "document"])
        if evaluation_set not in self._drawn:
            hashes = here["document_hash"].tolist()
            drawn = document_weights(self._seed, evaluation_set, hashes, self._samples)
            self._drawn[evaluation_set] = np.vstack([np.ones(len(hashes)), drawn])
        return here["n"].to_numpy(np.float64), self._drawn[evaluation_set]

    def _of_decoders(self, metric: str) -> dict[tuple[str, str], Array]:
        rows = self._tables.sae_metrics[["sae_id", "evaluation_set", metric]].itertuples(index=False, name=None)
        return {(sae_id, name): np.full(1 + self._samples, float(value)) for sae_id, name, value in rows}

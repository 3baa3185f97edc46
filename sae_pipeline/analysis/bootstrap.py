"""Uncertainty of ratios of sums: documents are resampled, with the same draw for every SAE, and seeds are replicates.

Tokens of one document are far from independent, so the unit that is resampled is the document. A resample is a vector of
document weights (how often each was drawn); because every metric is a ratio of sums over documents, recombining it for
all resamples and all SAEs is a few matrix products. The weights are drawn once per evaluation set, so two SAEs meet the
same documents in every resample and what they have in common cancels in their difference.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy.special import stdtrit

from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.errors import BadInput
from sae_pipeline.metrics.ratios import FROM_TOTALS, Totals
from sae_pipeline.store.fingerprints import digest

Array = np.ndarray

FEW_DOCUMENTS = 20
"""Below this many documents in a set, percentile intervals are visibly too narrow; whoever states one says so."""

METRICS = tuple(metric for metric in FROM_TOTALS if not metric.endswith("_excl_outliers"))
"""Metrics that can be resampled; none without outliers, because the tables hold no activation sums of inliers alone."""


@dataclass(frozen=True)
class Estimate:
    """A figure with its interval."""

    estimate: float
    """The value on the documents as they are."""
    low: float
    high: float
    documents: int
    """Distinct documents behind it, summed over the evaluation sets used."""
    seeds: int = 1
    """Replicates behind it; with one, the interval leaves out the noise of training."""


def document_weights(seed: int, evaluation_set: str, document_hashes: Sequence[str], samples: int) -> Array:
    """Multinomial document weights, (samples, n_documents) float64, every row summing to n_documents.

    A pure function of its arguments, and of the hashes as a set: the draw is made in their sorted order and handed back
    in the order given, so neither the order of a table nor what else is in the study changes anybody's resamples.
    """
    order = np.argsort(np.asarray(document_hashes, dtype=str), kind="stable")
    n = len(order)
    generator = np.random.default_rng(int(digest("document bootstrap", seed, evaluation_set, sorted(document_hashes)), 16))
    weights = np.empty((samples, n))
    weights[:, order] = generator.multinomial(n, np.full(n, 1 / n), size=samples)
    return weights


def percentile_interval(resampled: Array, confidence: float) -> tuple[float, float]:
    """The central share ``confidence`` of the resampled values, ignoring resamples in which the metric has no value."""
    finite = resampled[np.isfinite(resampled)]
    if not len(finite):
        return float("nan"), float("nan")
    low, high = np.quantile(finite, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def without_width(low: float, high: float) -> bool:
    """Whether the ends of an interval differ by no more than the rounding of sums: resamples and seeds that all agree tell no noise."""
    return math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12)


def with_seed_noise(
    estimate: float, interval: tuple[float, float], variance: float, degrees_of_freedom: float, confidence: float
) -> tuple[float, float]:
    """Widen a document interval by the noise between seeds.

    Each arm of the interval becomes sqrt(arm² + (t·s)²), with s² the ``variance`` of the estimate due to seeds and t
    Student's quantile ("square and add", Zou and Donner 2008). Drawing seeds again, as documents are drawn, would cover
    the truth far too rarely: with two seeds a 95 % interval would reach 1.4 standard errors where 12.7 are needed.
    """
    if variance <= 0:
        return interval
    reach = float(stdtrit(degrees_of_freedom, (1 + confidence) / 2)) * variance**0.5
    below, above = max(estimate - interval[0], 0.0), max(interval[1] - estimate, 0.0)
    return estimate - float(np.hypot(below, reach)), estimate + float(np.hypot(above, reach))


# ------------------------------------------------------------------------------------------------ all SAEs of a study


class Resamples(ABC):
    """Every metric of every SAE on every evaluation set: as found, and in each resample of what the figures rest on."""

    documents: Mapping[str, int]
    """Documents of each evaluation set; 0 where they are not known."""

    @abstractmethod
    def values(self, metric: str) -> tuple[dict[tuple[str, str], int], Array]:
        """Row of each (sae_id, evaluation_set) that has a value, and the values (rows, 1 + samples); column 0 is as found.

        Raises:
            BadInput: the metric cannot be had.
        """

    def weighted_sum(self, coefficients: Mapping[tuple[str, str], float], metric: str) -> Array:
        """The sum of a metric over (sae_id, evaluation_set) times its coefficient, (1 + samples,); entry 0 is as found."""
        rows, values = self.values(metric)
        # Sorted, so that the order in which a contrast was put together cannot change the last bit of a sum.
        used = sorted(coefficients)
        return np.array([coefficients[key] for key in used]) @ values[[rows[key] for key in used]]

    def holds_seeds(self, coefficients: Mapping[tuple[str, str], float]) -> bool:
        """Whether the resamples of a weighted sum vary with the seeds already, so that their noise must not be added again."""
        return False

    def distribution(self, coefficients: Mapping[tuple[str, str], float], metric: str) -> tuple[Array, float]:
        """The weighted sum, and the degrees of freedom by whose Student's distribution its interval goes on beyond the resamples;
        infinite, that is normal, unless few clusters were resampled."""
        return self.weighted_sum(coefficients, metric), math.inf

    @abstractmethod
    def caution(self, keys: Iterable[tuple[str, str]]) -> str:
        """What a reader of an interval over these (sae_id, evaluation_set) must know of how it came about; empty if nothing."""


class SingleValues(Resamples):
    """Figures of whole SAEs as the table ``sae_metrics`` states them, alike in every resample: their noise is that between seeds.

    Args:
        tables: the study's tables.
        documents: of each evaluation set.
    """

    def __init__(self, tables: StudyTables, documents: Mapping[str, int]) -> None:
        self.documents = documents
        self._metrics = tables.sae_metrics

    def values(self, metric: str) -> tuple[dict[tuple[str, str], int], Array]:
        """As :meth:`Resamples.values`, with one resample; without rows where the tables lack the metric."""
        if metric not in self._metrics.columns:
            return {}, np.empty((0, 2))
        stated = self._metrics[np.isfinite(self._metrics[metric].astype(float))]
        rows = {key: number for number, key in enumerate(zip(stated["sae_id"], stated["evaluation_set"], strict=True))}
        return rows, np.repeat(stated[metric].to_numpy(float)[:, None], 2, axis=1)

    def caution(self, keys: Iterable[tuple[str, str]]) -> str:
        """That the interval knows of no documents."""
        return "the interval holds the noise between seeds alone, because the figure does not recombine from documents"


class DocumentResamples(Resamples):
    """Every metric of every SAE on every evaluation set: on the documents as they are and in each resample of them.

    Args:
        tables: the study's tables.
        samples: resamples beside the documents as they are.
        seed: of the document weights.

    Raises:
        BadInput: an SAE was evaluated on other documents than the baseline of its set and layer.
    """

    def __init__(self, tables: StudyTables, samples: int, seed: int) -> None:
        self.documents: dict[str, int] = {}
        self._values: dict[str, tuple[dict[tuple[str, str], int], Array]] = {}
        self._groups: list[tuple[str, list[str], Totals]] = []
        """Per layer and evaluation set: the set, its SAEs, and the sums they share a baseline for."""
        order = ["document_hash", "document"]
        baselines = {key: table.sort_values(order) for key, table in tables.baseline_sums.groupby(["evaluation_set", "layer"])}
        weights: dict[tuple[str, tuple[str, ...]], Array] = {}
        layer_of = tables.saes.set_index("sae_id")["layer"]
        sums = tables.document_sums[tables.document_sums["sae_id"].isin(layer_of.index)]
        for (name, layer), unsorted in sums.groupby(["evaluation_set", sums["sae_id"].map(layer_of).rename("layer")], sort=True):
            evaluation_set = str(name)
            evaluation = unsorted.sort_values(["sae_id", *order])
            sae_ids = sorted(evaluation["sae_id"].unique())
            baseline = baselines.get((evaluation_set, layer), tables.baseline_sums.iloc[:0])
            hashes = baseline["document_hash"].tolist()
            if evaluation["document_hash"].tolist() != hashes * len(sae_ids):
                raise BadInput(
                    f"evaluation set {evaluation_set}, layer {layer}: expected each SAE's sums over the {len(hashes)} documents of the baseline, "
                    "found other documents; evaluate again with `sae-pipeline run`"
                )
            key = (evaluation_set, tuple(hashes))
            if key not in weights:
                weights[key] = np.vstack([np.ones(len(hashes)), document_weights(seed, evaluation_set, hashes, samples)])
            self.documents[evaluation_set] = len(hashes)
            self._groups.append((evaluation_set, sae_ids, Totals(evaluation, baseline, weights[key])))

    def values(self, metric: str) -> tuple[dict[tuple[str, str], int], Array]:
        """Row of each (sae_id, evaluation_set) that has a value, and the values (rows, 1 + samples); column 0 is the sample.

        A diverged SAE (infinite or missing sums) has no value: it is left out and does not spoil what it is averaged with.

        Raises:
            BadInput: the metric does not recombine from document sums.
        """
        if metric not in METRICS:
            raise BadInput(f"expected a metric that recombines from document sums, found '{metric}'; choose one of {', '.join(METRICS)}")
        if metric not in self._values:
            rows: dict[tuple[str, str], int] = {}
            blocks = []
            for evaluation_set, sae_ids, totals in self._groups:
                block = totals.metric(metric)
                finite = np.isfinite(block[:, 0])
                for sae_id in np.asarray(sae_ids, dtype=object)[finite]:
                    rows[sae_id, evaluation_set] = len(rows)
                blocks.append(block[finite])
            self._values[metric] = rows, np.vstack(blocks) if blocks else np.empty((0, 1))
        return self._values[metric]

    def caution(self, keys: Iterable[tuple[str, str]]) -> str:
        """Which of the sets have so few documents that their percentile intervals are too narrow."""
        few = sorted({name for _, name in keys if self.documents[name] < FEW_DOCUMENTS})
        return f"fewer than {FEW_DOCUMENTS} documents in {', '.join(few)}, so the interval may be too narrow" if few else ""


@lru_cache(maxsize=1)
def resample(tables: StudyTables, samples: int, seed: int) -> DocumentResamples:
    """The resamples of a study's tables, kept for the next caller with the same tables."""
    return DocumentResamples(tables, samples, seed)

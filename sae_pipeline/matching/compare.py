"""Two SAEs compared by their weights: every figure of a pair from one pass over each matrix of cosines.

Directions of an SAE are prepared once (:func:`prepare`) and serve all pairs that it is part of. Fields are named as the
columns of the tables that they go into, and the numbers of a pair are plain Python numbers and NumPy arrays, whatever the
device that the weights are on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.errors import BadInput
from sae_pipeline.matching.assignment import Assignment
from sae_pipeline.matching.weights.cosine import Nearest, NearestSearch, sweep, top_counts
from sae_pipeline.matching.weights.directions import SIDES, UNITS, Prepared, Side, Unit
from sae_pipeline.matching.weights.ratios import Matched, feature_count_difference, match_ratio, matched
from sae_pipeline.matching.weights.sharing import Sharing, paired, sharing
from sae_pipeline.matching.weights.splitting import children_counts


@dataclass(frozen=True)
class DirectedMatch(Matched):
    """How much of one SAE is found in the other: a row of ``matches`` without the names of the SAEs."""

    side: Side
    unit: Unit
    population: str
    """``all`` or ``alive``."""
    threshold: float


@dataclass(frozen=True)
class TopCosines:
    """How the 1st to 4th highest cosines of one SAE's rows with the other's are spread."""

    side: Side
    unit: Unit
    counts: np.ndarray
    """(places, bins) int64, counts between the edges of ``cosine.EDGES``; fewer places where the other has fewer rows."""


@dataclass(frozen=True)
class Neighbours:
    """The nearest decoder direction, in the other SAE, of every alive latent; of every latent where none is known to be dead."""

    latent: np.ndarray
    """(n,) int64, ascending."""
    other_latent: np.ndarray
    """(n,) int64, an alive latent of the other SAE."""
    cosine: np.ndarray
    """(n,) float32."""
    matched_one_to_one: np.ndarray
    """(n,) bool: the one-to-one pairing of the same latents has this pair too, whatever its cosine."""


@dataclass(frozen=True)
class OneToOne(Sharing):
    """A row of ``one_to_one`` without names and activation correlations; ``n`` counts latents of a, ``n_other`` of b."""

    population: str
    threshold: float
    feature_count_difference: float
    """n_other x (match ratio of b in a) - n x (match ratio of a in b), decoder features."""


@dataclass(frozen=True)
class Splits:
    """How many latents of the wider SAE fall to each latent of the narrower (alive ones where the dead are known)."""

    narrower: str
    """``a`` or ``b``."""
    parents: np.ndarray
    """(most children + 1,) int64: how many latents of the narrower have as many children as the index says."""


@dataclass(frozen=True)
class PairMatch:
    """All figures of a pair of SAEs, (a, b) as they were given."""

    forward: tuple[DirectedMatch, ...]
    """a in b: what share of a's rows has a match among b's."""
    backward: tuple[DirectedMatch, ...]
    """b in a."""
    top_forward: tuple[TopCosines, ...]
    """Of a's rows among b's, all latents."""
    top_backward: tuple[TopCosines, ...]
    one_to_one: tuple[OneToOne, ...]
    """One per population."""
    splits: Splits | None
    """None where both are equally wide."""
    neighbours_forward: Neighbours
    """Of a's latents in b."""
    neighbours_backward: Neighbours


def compare(a: Prepared, b: Prepared, *, threshold: float) -> PairMatch:
    """Match the features and neurons of two SAEs of the same activations.

    Neurons are compared where both SAEs are equally wide, because only then have their rows one length. Populations are
    ``all`` and, where the alive latents of both are known, ``alive`` (of features). A population without a latent on
    either side has no row.

    Args:
        a, b: prepared SAEs on one device.
        threshold: cosine above which, strictly, two directions count as the same.

    Raises:
        BadInput: they are of activations of different widths, or the threshold is no cosine.
    """
    _check(a, b, threshold)
    populations = list(_populations(a, b))
    found = [each for side in SIDES for unit in UNITS for each in _search(a, b, side, unit, populations)]
    decoder = {each.population.name: each for each in found if (each.side, each.unit) == ("decoder", "feature")}
    pairings: dict[str, Assignment] = {}
    for name, each in decoder.items():
        same = name != "all" and each.population.whole
        pairings[name] = pairings["all"] if same else paired(a.features, b.features, each.population.kept_a, each.population.kept_b)
    last = decoder.get("alive" if a.alive is not None and b.alive is not None else "all")
    pairing = None if last is None else pairings[last.population.name]
    return PairMatch(
        forward=tuple(_directed(each, each.forward, each.backward, threshold) for each in found),
        backward=tuple(_directed(each, each.backward, each.forward, threshold) for each in found),
        top_forward=tuple(TopCosines(each.side, each.unit, top_counts(each.forward)) for each in found if each.population.name == "all"),
        top_backward=tuple(TopCosines(each.side, each.unit, top_counts(each.backward)) for each in found if each.population.name == "all"),
        one_to_one=tuple(_one_to_one(a, b, each, pairings[name], threshold) for name, each in decoder.items()),
        splits=None if last is None or a.d_sae == b.d_sae else _splits(a, b, last, threshold),
        neighbours_forward=_neighbours(last, pairing, backward=False),
        neighbours_backward=_neighbours(last, pairing, backward=True),
    )


# ------------------------------------------------------------------------------------------------ one pass per matrix


@dataclass(frozen=True)
class _Population:
    """Which latents take part."""

    name: str
    kept_a: Tensor
    """(n,) int64 on the CPU, ascending."""
    kept_b: Tensor
    whole: bool
    """Whether they are all there are."""


@dataclass(frozen=True)
class _Found:
    """The nearest rows of one side and unit, within one population."""

    side: Side
    unit: Unit
    population: _Population
    d: int
    """Length of the rows."""
    forward: Nearest
    """Of a's rows among b's."""
    backward: Nearest


def _populations(a: Prepared, b: Prepared) -> Iterator[_Population]:
    """``all``, and ``alive`` where it is known of both SAEs and there are any."""
    yield _Population("all", torch.arange(a.d_sae), torch.arange(b.d_sae), whole=True)
    if a.alive is None or b.alive is None:
        return
    kept_a, kept_b = (alive.cpu().nonzero()[:, 0] for alive in (a.alive, b.alive))
    if len(kept_a) and len(kept_b):
        yield _Population("alive", kept_a, kept_b, whole=len(kept_a) == a.d_sae and len(kept_b) == b.d_sae)


def _search(a: Prepared, b: Prepared, side: Side, unit: Unit, populations: list[_Population]) -> Iterator[_Found]:
    """Nearest rows within every population that the unit has, from one product; nothing where rows differ in length."""
    rows_a, rows_b = a.rows[side, unit], b.rows[side, unit]
    if rows_a.shape[1] != rows_b.shape[1]:
        return
    everything, *others = populations
    others = others if unit == "feature" else []
    search = NearestSearch(len(rows_a), len(rows_b))
    smaller = [search if each.whole else NearestSearch(a.d_sae, b.d_sae, top=1, kept_a=each.kept_a, kept_b=each.kept_b) for each in others]
    sweep(rows_a, rows_b, *dict.fromkeys([search, *smaller]))
    for population, each in zip([everything, *others], [search, *smaller], strict=True):
        yield _Found(side, unit, population, rows_a.shape[1], each.forward, each.backward)


def _check(a: Prepared, b: Prepared, threshold: float) -> None:
    if a.d_model != b.d_model:
        raise BadInput(
            f"matching: expected two SAEs of the same activations, found widths of {a.d_model} and {b.d_model}; give two SAEs of one model, layer and site"
        )
    if not -1 < threshold < 1:
        raise BadInput(f"matching: expected a threshold between -1 and 1, which cosines are, found {threshold:g}; 0.7 is usual")


# ------------------------------------------------------------------------------------------------ figures


def _directed(found: _Found, nearest: Nearest, other: Nearest, threshold: float) -> DirectedMatch:
    figures = matched(nearest.best, len(other.best), found.d, threshold)
    return DirectedMatch(**vars(figures), side=found.side, unit=found.unit, population=found.population.name, threshold=threshold)


def _one_to_one(a: Prepared, b: Prepared, found: _Found, pairing: Assignment, threshold: float) -> OneToOne:
    population = found.population
    n, n_other = len(population.kept_a), len(population.kept_b)
    shares = sharing(a, b, population.kept_a, population.kept_b, pairing, found.forward if n <= n_other else found.backward, threshold)
    difference = feature_count_difference(n, match_ratio(found.forward.best, threshold), n_other, match_ratio(found.backward.best, threshold))
    return OneToOne(**vars(shares), population=population.name, threshold=threshold, feature_count_difference=difference)


def _splits(a: Prepared, b: Prepared, found: _Found, threshold: float) -> Splits:
    if a.d_sae < b.d_sae:
        return Splits("a", children_counts(found.backward, found.population.kept_a.numpy(), threshold))
    return Splits("b", children_counts(found.forward, found.population.kept_b.numpy(), threshold))


def _neighbours(found: _Found | None, pairing: Assignment | None, *, backward: bool) -> Neighbours:
    """The nearest of every latent of the population; of none where it is empty."""
    if found is None or pairing is None:
        none = np.empty(0, np.int64)
        return Neighbours(none, none, np.empty(0, np.float32), np.empty(0, bool))
    nearest, latents = (found.backward, found.population.kept_b) if backward else (found.forward, found.population.kept_a)
    rows, partners = (pairing.columns, pairing.rows) if backward else (pairing.rows, pairing.columns)
    partner = torch.full((int(latents[-1]) + 1,), -1)
    partner[rows] = partners
    other = nearest.index[:, 0]
    return Neighbours(latents.numpy(), other.numpy(), nearest.best.numpy(), (partner[latents] == other).numpy())

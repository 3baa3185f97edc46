"""All pairs of a hook point matched, and their figures as the tables of a study.

Every pair costs one comparison (:func:`sae_pipeline.matching.compare.compare`), whose figures go into several tables; what
concerns one SAE among many others (orphans, union of seeds) is drawn from the same comparisons.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from sae_pipeline.matching.assignment import Assignment
from sae_pipeline.matching.compare import DirectedMatch, Neighbours, OneToOne, PairMatch, TopCosines, compare
from sae_pipeline.matching.correlation import correlated
from sae_pipeline.matching.pairs import Choice, Pair
from sae_pipeline.matching.study_tables.coverage import coverage_frame, seed_groups
from sae_pipeline.matching.study_tables.orphans import BestCosines, orphan_frames
from sae_pipeline.matching.study_tables.shelf import MatchableSae, Shelf
from sae_pipeline.matching.weights.chance import chance_match_ratio
from sae_pipeline.matching.weights.cosine import EDGES, nearest
from sae_pipeline.matching.weights.ratios import match_ratio
from sae_pipeline.progress import track

_PAIR: dict[str, Any] = dict.fromkeys(("sae_id", "other_sae_id", "factor", "level", "other_level"), "string")
_SHAPES: dict[str, Any] = {"n": "int64", "n_other": "int64", "threshold": "float64"}
COLUMNS: dict[str, dict[str, Any]] = {
    "match_pairs": {"factor": "string"} | dict.fromkeys(("possible", "matched", "left_out"), "int64"),
    "matches": _PAIR
    | dict.fromkeys(("side", "unit", "population"), "string")
    | _SHAPES
    | dict.fromkeys(("match_ratio", "mmcs", "q10", "q50", "q90", "chance_match_ratio", "chance_mmcs"), "float64"),
    "top_cosines": dict.fromkeys(("sae_id", "other_sae_id", "side", "unit"), "string")
    | {"place": "int64", "low": "float64", "high": "float64", "count": "int64"},
    "one_to_one": _PAIR
    | {"population": "string"}
    | _SHAPES
    | dict.fromkeys(("shared_feature_ratio", "shared_both", "mean_cosine"), "float64")
    | {"exact": "bool", "bound": "float64"}
    | dict.fromkeys(("chance_shared_feature_ratio", "chance_shared_both", "greedy_shared_feature_ratio", "greedy_shared_both"), "float64")
    | dict.fromkeys(("folded_shared_feature_ratio", "correlation_match_ratio", "correlation_mean", "feature_count_difference"), "float64"),
    "splits": dict.fromkeys(("sae_id", "other_sae_id"), "string") | dict.fromkeys(("children", "parents"), "int64"),
    "feature_neighbours": {
        "sae_id": "string", "latent": "int64", "other_sae_id": "string", "other_latent": "int64", "cosine": "float64", "matched_one_to_one": "bool",
    },
}  # fmt: skip
"""Columns and types of the tables that pairs fill, in the order of their files."""

MEASURED = (*COLUMNS, "orphans", "orphan_features", "coverage")
"""Tables of a hook point, ``.parquet`` each."""


class PairRows:
    """Rows of the tables, pair by pair."""

    def __init__(self) -> None:
        self.rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.neighbours: list[pd.DataFrame] = []
        self.best: dict[tuple[str, str], BestCosines] = {}
        """By SAE and factor."""

    def take_in(self, pair: Pair, found: PairMatch, by_activations: Assignment | None) -> None:
        """All figures of a pair, both ways; ``by_activations`` pairs the alive latents by their activations."""
        a, b = pair.a.sae_id, pair.b.sae_id
        ours = {"sae_id": a, "other_sae_id": b, "factor": pair.factor, "level": pair.level, "other_level": pair.other_level}
        theirs = ours | {"sae_id": b, "other_sae_id": a, "level": pair.other_level, "other_level": pair.level}
        self._directed(ours, found.forward, found.top_forward)
        self._directed(theirs, found.backward, found.top_backward)
        self._paired(ours, found.one_to_one, by_activations)
        if found.splits is not None:
            self.rows["splits"] += [ours | {"children": n, "parents": int(count)} for n, count in enumerate(found.splits.parents)]
        self._neighbours(ours, found.neighbours_forward)
        self._neighbours(theirs, found.neighbours_backward)

    def frames(self) -> dict[str, pd.DataFrame]:
        """The tables of :data:`COLUMNS`."""
        frames = {name: pd.DataFrame(self.rows[name], columns=list(columns)) for name, columns in COLUMNS.items()}
        if self.neighbours:
            frames["feature_neighbours"] = pd.concat(self.neighbours, ignore_index=True)[list(COLUMNS["feature_neighbours"])]
        return {name: frame.astype(COLUMNS[name]) for name, frame in frames.items()}

    def _directed(self, names: dict[str, Any], figures: Iterable[DirectedMatch], tops: Iterable[TopCosines]) -> None:
        self.rows["matches"] += [names | vars(each) for each in figures]
        for top in tops:
            where = names | {"side": top.side, "unit": top.unit}
            for place, bin_ in zip(*top.counts.nonzero(), strict=True):
                bounds = {"low": float(EDGES[bin_]), "high": float(EDGES[bin_ + 1])}
                self.rows["top_cosines"].append(where | {"place": int(place) + 1, "count": int(top.counts[place, bin_])} | bounds)

    def _paired(self, names: dict[str, Any], figures: Iterable[OneToOne], by_activations: Assignment | None) -> None:
        for each in figures:
            row = names | vars(each)
            if by_activations is not None and each.population == "alive":
                row["correlation_match_ratio"] = match_ratio(by_activations.cosine, each.threshold)
                row["correlation_mean"] = by_activations.total / len(by_activations.cosine)
            self.rows["one_to_one"].append(row)

    def _neighbours(self, names: dict[str, Any], found: Neighbours) -> None:
        sae_id, factor = names["sae_id"], names["factor"]
        self.neighbours.append(pd.DataFrame({"sae_id": sae_id, "other_sae_id": names["other_sae_id"]} | vars(found)))
        if len(found.latent):
            self.best.setdefault((sae_id, factor), BestCosines(found.latent)).take_in(found.cosine)


def match_hook_point(
    folder: Path,
    *,
    saes: Mapping[str, MatchableSae],
    choice: Choice,
    threshold: float,
    activations: Tensor | None,
) -> dict[str, Any]:
    """Match the chosen pairs of a hook point and write the tables of :data:`MEASURED`.

    Args:
        folder: an existing folder.
        saes: by name, every trained SAE of the hook point.
        choice: the pairs, of those SAEs.
        threshold: cosine (and correlation) above which, strictly, two latents count as the same.
        activations: (n_tokens, d_model) raw activations, over which those of latents are correlated; None leaves that out.

    Returns:
        The summary: ``saes``, ``pairs``, ``possible`` (by factor), ``left_out`` (pairs) and rows by table.
    """
    shelf, rows = Shelf(saes, activations), PairRows()
    matched_pairs = sorted(choice.pairs, key=lambda pair: (pair.a.sae_id, pair.b.sae_id))  # so that an SAE is loaded once for all its pairs
    with track(f"matching {len(saes)} SAEs", len(matched_pairs), "pairs") as progress:
        for pair in matched_pairs:
            found = compare(shelf.prepared(pair.a.sae_id), shelf.prepared(pair.b.sae_id), threshold=threshold)
            rows.take_in(pair, found, _by_activations(shelf, pair))
            progress.advance(1)
    for factor, possible in choice.possible.items():
        taken = sum(pair.factor == factor for pair in matched_pairs)
        rows.rows["match_pairs"].append({"factor": factor, "possible": possible, "matched": taken, "left_out": possible - taken})
    frames = rows.frames()
    frames["orphans"], frames["orphan_features"] = orphan_frames(rows.best, {name: sae.latents for name, sae in saes.items()}, threshold)
    groups = seed_groups([sae.declared for sae in saes.values()])
    frames["coverage"] = coverage_frame(groups, _nearest_alive(shelf), threshold, lambda rows: chance_match_ratio(rows, shelf.d_model, threshold))
    for name in MEASURED:
        frames[name].to_parquet(folder / f"{name}.parquet", index=False)
    left_out = int(frames["match_pairs"]["left_out"].sum())
    return {"saes": len(saes), "pairs": len(matched_pairs), "possible": choice.possible, "left_out": left_out}


def _by_activations(shelf: Shelf, pair: Pair) -> Assignment | None:
    """The alive latents of a pair matched one to one by the correlations of their activations; None where that is not asked for or one has none."""
    ours, theirs = shelf.alive_code(pair.a.sae_id), shelf.alive_code(pair.b.sae_id)
    if ours is None or theirs is None or 0 in (ours.shape[1], theirs.shape[1]):
        return None
    return correlated(ours, theirs).pairing


def _nearest_alive(shelf: Shelf) -> Callable[[str, str], np.ndarray]:
    """(SAE, other SAE) -> (n_alive,) highest decoder cosine of each alive latent with an alive one of the other."""
    found: dict[tuple[str, str], np.ndarray] = {}

    def cosines(sae_id: str, other: str) -> np.ndarray:
        if (sae_id, other) not in found:
            ours, theirs = shelf.alive_directions(sae_id), shelf.alive_directions(other)
            if len(ours) and len(theirs):
                forward, backward = nearest(ours, theirs, top=1)
                found[sae_id, other], found[other, sae_id] = forward.best.numpy(), backward.best.numpy()
            else:
                found[sae_id, other], found[other, sae_id] = np.zeros(len(ours)), np.zeros(len(theirs))
        return found[sae_id, other]

    return cosines

"""How much of the variance of a metric between SAEs each setting accounts for.

What is decomposed is the variance within an evaluation set, and within one regime of width: that one set is harder than
another, or that an undercomplete dictionary cannot do what an overcomplete one does, is no effect of a setting. Squares are
added over sets and regimes, so a factor's share holds its effect on each set. The mix's effect is shown in two parts: what is
alike on all sets (``mix``), and what differs from set to set (:data:`BY_SET`), which is where an in-domain advantage lies.

Designs are rarely balanced, and then the share of a factor depends on which factors were fitted before it. Every order is
fitted and averaged (Lindeman, Merenda and Gold 1980), which in a balanced design is the classical analysis of variance.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd

from sae_pipeline.analysis.bootstrap import Array, percentile_interval
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.tables import SETTING, evaluation_sets, regime

MIX, BY_SET, INTERACTIONS, SEED, OBJECTIVE, LAYER = "mix", "mix x evaluation_set", "interactions", "seed", "objective", "layer"
CHOICES = (MIX, "expansion", "architecture", "sparsity", "tokens", OBJECTIVE)
"""Factors that whoever trains an SAE chooses; ``objective`` is every other setting of its arm taken together."""

METRICS = ("explained_variance", "l0")
"""Metrics whose variance is decomposed, as far as the tables have them."""

CELL_SAMPLES = 200
"""Resamples of cells, each of which is a decomposition of its own, where the figures hold no resamples of documents."""


@dataclass(frozen=True)
class Shares:
    """Shares of variance by factor, each (1 + samples,): as found, then resampled. In every entry they sum to one."""

    by_factor: Mapping[str, Array]

    @property
    def composition(self) -> Array:
        """Share of the training text: alike on all sets, and from set to set."""
        return self.by_factor.get(MIX, np.zeros(1)) + self.by_factor.get(BY_SET, np.zeros(1))


def variance_shares(evidence: Evidence) -> pd.DataFrame:
    """Shares of variance of every metric, per layer and over all layers together.

    Columns ``metric``, ``layer`` (null: all layers together, with the layer as a factor), ``factor``, ``share``, ``low``,
    ``high``. The shares of one metric and layer sum to one; factors of which the SAEs have one level have none. Where no
    setting has two seeds, ``interactions`` holds the noise of training too. Intervals resample documents, and the noise
    between seeds with them; without documents they resample cells.
    """
    rows = []
    layers = sorted(evidence.design["layer"].unique().tolist())
    for metric in METRICS:
        for layer in [None, *layers] if len(layers) > 1 else layers:
            shares = decompose(evidence, metric, layer)
            for factor, share in (shares.by_factor if shares else {}).items():
                low, high = percentile_interval(share[1:], evidence.confidence)
                rows.append({"metric": metric, "layer": layer, "factor": factor, "share": float(share[0]), "low": low, "high": high})
    table = pd.DataFrame(rows, columns=["metric", "layer", "factor", "share", "low", "high"])
    return table.astype({"metric": "string", "layer": "Int64", "factor": "string", "share": float, "low": float, "high": float})


def decompose(evidence: Evidence, metric: str, layer: int | None) -> Shares | None:
    """Shares of a metric's variance among the SAEs with a value on every evaluation set, of one layer or of all.

    None where there are no two such SAEs, or where they do not differ.
    """
    rows, values = evidence.resamples.values(metric)
    sets = [name for name in evaluation_sets(evidence.tables) if any(where == name for _, where in rows)]
    chosen = evidence.design if layer is None else evidence.design[evidence.design["layer"] == layer]
    chosen = chosen[[all((sae_id, name) in rows for name in sets) for sae_id in chosen["sae_id"]]]
    if len(chosen) < 2 or not sets:
        return None
    figures = np.stack([values[[rows[sae_id, name] for sae_id in chosen["sae_id"]]] for name in sets])
    # Numbers of active latents differ by factors rather than by differences.
    figures = np.log(np.maximum(figures, 1e-6)) if metric == "l0" else figures
    levels = _levels(chosen)
    if figures.shape[2] > 1:
        return _shares(levels, _with_seed_noise(chosen, figures), sets)
    return _resampled_by_cell(chosen, levels, figures, sets)


def _levels(chosen: pd.DataFrame) -> pd.DataFrame:
    """The factors with two levels or more, as whole numbers, and the columns ``regime`` and ``setting`` beside them."""
    objective = chosen[["batch_size", "rate", "variant"]].astype(str).agg(", ".join, axis=1)
    named = chosen.assign(objective=objective, regime=[regime(e) for e in chosen["expansion"]])
    coded = pd.DataFrame({name: pd.factorize(named[name])[0] for name in (*CHOICES, LAYER, "regime")})
    coded["setting"] = chosen.groupby(list(SETTING), dropna=False).ngroup().to_numpy()
    return coded[[*(name for name in (*CHOICES, LAYER) if coded[name].nunique() > 1), "regime", "setting"]]


def _with_seed_noise(chosen: pd.DataFrame, figures: Array) -> Array:
    """The figures (sets, SAEs, 1 + samples) with the noise between seeds drawn anew in every resample.

    A wild bootstrap (Wu 1986): the deviation of an SAE from the mean of its setting is multiplied by a standard normal
    number, the same for all SAEs of a layer and width that share a seed, because they share their initial weights.
    """
    setting = chosen.groupby(list(SETTING), dropna=False).ngroup().to_numpy()
    seeds = np.bincount(setting)
    means = _means(setting, figures)
    scale = np.sqrt(seeds / np.maximum(seeds - 1, 1))[setting]
    block = chosen.groupby(["layer", "expansion", "replicate"]).ngroup().to_numpy()
    multipliers = np.random.default_rng(0).normal(size=(block.max() + 1, figures.shape[2]))
    drawn = means + (figures - means) * scale[:, None] * multipliers[block]
    drawn[..., 0] = figures[..., 0]
    return drawn


def _means(group: Array, figures: Array) -> Array:
    """The mean of an SAE's group in its place, (sets, SAEs, samples)."""
    member = np.eye(group.max() + 1)[group]
    return (member / member.sum(0)) @ (member.T @ figures)


def _shares(levels: pd.DataFrame, figures: Array, sets: Sequence[str]) -> Shares | None:
    """Shares of the variance of figures (sets, SAEs, samples), added over sets and regimes."""
    factors = [name for name in (*CHOICES, LAYER) if name in levels.columns]
    explained: dict[str, Array] = {name: np.zeros(figures.shape[2]) for name in factors}
    parts = {name: np.zeros(figures.shape[2]) for name in (BY_SET, INTERACTIONS, SEED)}
    replicated = bool(levels["setting"].duplicated().any())
    for _, here in levels.groupby("regime"):
        block = figures[:, here.index]
        centred = block - block.mean(1, keepdims=True)
        alike = centred.mean(0, keepdims=True) * len(sets) ** 0.5
        within = centred - _means(pd.factorize(here["setting"])[0], centred)
        whole = _by_order(here, factors, centred)
        total, fitted = (centred**2).sum((0, 1)), sum(whole.values(), np.zeros(figures.shape[2]))
        noise = (within**2).sum((0, 1)) if replicated else np.zeros(figures.shape[2])
        for name in factors:
            explained[name] += whole[name]
        if MIX in factors and len(sets) > 1:
            differing = whole[MIX] - _by_order(here, factors, alike)[MIX]
            explained[MIX] -= differing
            parts[BY_SET] += differing
        parts[SEED] += noise
        parts[INTERACTIONS] += total - fitted - noise
    explained |= {name: part for name, part in parts.items() if name != BY_SET or (MIX in factors and len(sets) > 1)}
    if not replicated:
        explained.pop(SEED)
    whole_variance = sum(explained.values(), np.zeros(figures.shape[2]))
    scale = float(np.abs(figures[..., 0]).max())
    if not whole_variance[0] > (1e-12 * max(scale, 1e-12)) ** 2:
        return None
    return Shares({name: np.round(part / np.where(whole_variance > 0, whole_variance, np.nan), 12) + 0.0 for name, part in explained.items()})


def _by_order(levels: pd.DataFrame, factors: Sequence[str], figures: Array) -> dict[str, Array]:
    """Sum of squares of each factor, averaged over all orders of fitting, (samples,); figures (sets, SAEs, samples), centred."""
    fits = {subset: _fitted(levels, subset, figures) for size in range(len(factors) + 1) for subset in combinations(factors, size)}
    squares = {}
    for factor in factors:
        others = [name for name in factors if name != factor]
        squares[factor] = sum(
            (
                (fits[tuple(name for name in factors if name in (*before, factor))] - fits[before])
                * (factorial(len(before)) * factorial(len(others) - len(before)) / factorial(len(factors)))
                for size in range(len(others) + 1)
                for before in combinations(others, size)
            ),
            np.zeros(figures.shape[2]),
        )
    return squares


def _fitted(levels: pd.DataFrame, factors: Sequence[str], figures: Array) -> Array:
    """Sum of squares that a model with the main effects of some factors explains, (samples,)."""
    if not factors:
        return np.zeros(figures.shape[2])
    columns = np.hstack([np.ones((len(levels), 1)), *(np.eye(levels[name].max() + 1)[levels[name]] for name in factors)])
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    basis = left[:, size > 1e-9 * size[0]]
    return ((basis.T @ figures) ** 2).sum((0, 1))


def _resampled_by_cell(chosen: pd.DataFrame, levels: pd.DataFrame, figures: Array, sets: Sequence[str]) -> Shares | None:
    """Shares with resamples of cells: SAEs that share all but the mix and the seed are drawn together."""
    found = _shares(levels, figures, sets)
    cell = chosen.groupby([name for name in SETTING if name != MIX], dropna=False).ngroup().to_numpy()
    if found is None or cell.max() < 1:
        return found
    drawn = {name: [share[0]] for name, share in found.by_factor.items()}
    for places in _cell_draws(cell):
        shares = _shares(levels.iloc[places].reset_index(drop=True), figures[:, places], sets)
        for name, values in drawn.items():
            values.append(float(shares.by_factor[name][0]) if shares and name in shares.by_factor else float("nan"))
    return Shares({name: np.array(values) for name, values in drawn.items()})


def _cell_draws(cell: Array) -> Iterator[Array]:
    generator = np.random.default_rng(0)
    members = [np.flatnonzero(cell == number) for number in range(cell.max() + 1)]
    for _ in range(CELL_SAMPLES):
        yield np.concatenate([members[number] for number in generator.integers(0, len(members), len(members))])

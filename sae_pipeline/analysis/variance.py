"""How much of the variance of a metric between SAEs each setting accounts for.

What is decomposed is the variance within an evaluation set, and within one regime of width: that one set is harder than
another, or that an undercomplete dictionary cannot do what an overcomplete one does, is no effect of a setting. Squares are
added over sets and regimes, so a factor's share holds its effect on each set. The mix's effect is shown in two parts: what is
alike on all sets (``mix``), and what differs from set to set (:data:`BY_SET`), which is where an in-domain advantage lies.

Designs are rarely balanced, and then the share of a factor depends on which factors were fitted before it. Every order is
fitted and averaged (Lindeman, Merenda and Gold 1980), which in a balanced design is the classical analysis of variance.

A factor without any effect takes up noise all the same, the more the more levels it has. Where settings have several seeds,
what their noise adds to each sum of squares on average is taken off, and given to the seed, as estimates of variance
components do; so a factor with nothing to say has a share of zero on average, and one below zero about every other time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import pandas as pd

from sae_pipeline.analysis.bootstrap import Array, percentile_interval
from sae_pipeline.analysis.cell_resamples import widening
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.seed_noise import DrawnNoise, SeedNoise
from sae_pipeline.analysis.tables import SETTING, evaluation_sets, regime

MIX, BY_SET, INTERACTIONS, SEED, OBJECTIVE, LAYER = "mix", "mix x evaluation_set", "interactions", "seed", "objective", "layer"
CHOICES = (MIX, "expansion", "architecture", "sparsity", "tokens", OBJECTIVE)
"""Factors that whoever trains an SAE chooses; ``objective`` is every other setting of its arm taken together."""

METRICS = ("explained_variance", "l0")
"""Metrics whose variance is decomposed, as far as the tables have them."""

CELL_SAMPLES = 200
"""Resamples of cells, each of which is a decomposition of its own, where there are neither documents nor seeds to resample."""

NOISE_SAMPLES = 4000
"""Draws of the noise between seeds, enough for the tails that are left when many claims are tested; resamples of documents recur in them."""


@dataclass(frozen=True)
class Shares:
    """Shares of variance by factor, each (1 + samples,): as found, then resampled. In every entry those above zero sum to one."""

    by_factor: Mapping[str, Array]
    corrected: bool
    """Whether noise was taken off; not where no setting has two seeds."""

    @property
    def composition(self) -> Array:
        """Share of the training text: alike on all sets, and from set to set."""
        return self.by_factor.get(MIX, np.zeros(1)) + self.by_factor.get(BY_SET, np.zeros(1))


def variance_shares(evidence: Evidence) -> pd.DataFrame:
    """Shares of variance of every metric, per layer and over all layers together.

    Columns ``metric``, ``layer`` (null: all layers together, with the layer as a factor), ``factor``, ``share``, ``low``,
    ``high``. The shares of one metric and layer sum to one, those estimated below zero being zero; factors of which the SAEs
    have one level have none. Where no setting has two seeds, nothing is taken off for the noise of training and
    ``interactions`` holds its rest. Intervals resample documents and draw the noise between seeds; where there are neither
    they resample cells.
    """
    rows = []
    layers = sorted(evidence.design["layer"].unique().tolist())
    for metric in METRICS:
        for layer in [None, *layers] if len(layers) > 1 else layers:
            shares = decompose(evidence, metric, layer)
            for factor, signed in (shares.by_factor if shares else {}).items():
                share = np.maximum(signed, 0)
                low, high = percentile_interval(share[1:], evidence.confidence)
                rows.append({"metric": metric, "layer": layer, "factor": factor, "share": float(share[0]), "low": low, "high": min(high, 1.0)})
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
    noise = SeedNoise.of(levels["setting"].to_numpy(), chosen.groupby(["layer", "expansion", "replicate"]).ngroup().to_numpy(), figures[..., 0])
    if noise is not None:
        return _shares(levels, figures, noise.draw(NOISE_SAMPLES, np.random.default_rng(0)))
    return _shares(levels, figures) if figures.shape[2] > 1 else _resampled_by_cell(chosen, levels, figures, evidence.confidence)


def _levels(chosen: pd.DataFrame) -> pd.DataFrame:
    """The factors with two levels or more, as whole numbers, and the columns ``regime`` and ``setting`` beside them."""
    objective = chosen[["batch_size", "rate", "variant"]].astype(str).agg(", ".join, axis=1)
    named = chosen.assign(objective=objective, regime=[regime(e) for e in chosen["expansion"]])
    coded = pd.DataFrame({name: pd.factorize(named[name])[0] for name in (*CHOICES, LAYER, "regime")})
    coded["setting"] = chosen.groupby(list(SETTING), dropna=False).ngroup().to_numpy()
    return coded[[*(name for name in (*CHOICES, LAYER) if coded[name].nunique() > 1), "regime", "setting"]]


def _shares(levels: pd.DataFrame, figures: Array, noise: DrawnNoise | None = None) -> Shares | None:
    """Shares of the variance of figures (sets, SAEs, samples or 1), added over sets and regimes.

    With noise, every draw adds its own to the settings and takes off what noise adds on average; without, squares are as they are.
    """
    factors = [name for name in (*CHOICES, LAYER) if name in levels.columns]
    setting = levels["setting"].to_numpy()
    seeds = np.bincount(setting)
    settings = levels.drop_duplicates("setting").sort_values("setting").reset_index(drop=True)
    # The mean of each setting times the root of its seeds, so that squares of settings are squares of SAEs.
    means = np.eye(len(seeds))[setting].T @ _centred(levels, figures) / seeds[:, None] ** 0.5
    if noise is not None:
        means = means[..., np.r_[0, np.resize(np.arange(means.shape[2])[-max(means.shape[2] - 1, 1) :], NOISE_SAMPLES)]] + noise.values
    alike = means.mean(0, keepdims=True) * len(means) ** 0.5
    forms = _forms(settings, factors, seeds)

    def squares(form: Array, of_means: bool = False) -> Array:
        block = alike if of_means else means
        found: Array = ((form @ block) * block).sum((0, 1))
        return found if noise is None else found - noise.expected(form, of_means)

    explained = {name: squares(form) for name, form in forms.items()}
    if MIX in factors and len(means) > 1:
        everywhere = squares(forms[MIX], of_means=True)
        explained |= {MIX: everywhere, BY_SET: explained[MIX] - everywhere}
    explained[INTERACTIONS] = explained.pop(INTERACTIONS)
    if noise is not None:
        explained[SEED] = len(levels) * noise.variance()
    whole = sum((np.maximum(part, 0) for part in explained.values()), np.zeros(means.shape[2]))
    scale = float(np.abs(figures[..., 0]).max())
    if not whole[0] > (1e-12 * max(scale, 1e-12)) ** 2:
        return None
    shares = {name: np.round(part / np.where(whole > 0, whole, np.nan), 12) + 0.0 for name, part in explained.items()}
    return Shares(shares, noise is not None)


def _centred(levels: pd.DataFrame, figures: Array) -> Array:
    """Figures (sets, SAEs, samples) less their mean over the SAEs of each regime."""
    regimes = np.eye(levels["regime"].max() + 1)[levels["regime"]]
    centred: Array = figures - (regimes / np.maximum(regimes.sum(0), 1)) @ (regimes.T @ figures)
    return centred


def _forms(settings: pd.DataFrame, factors: Sequence[str], seeds: Array) -> dict[str, Array]:
    """Sums of squares of each factor, averaged over all orders of fitting, and of what all of them leave, as quadratic forms.

    Args:
        settings: one row per setting, with the level of every factor and the regime.
        factors: columns of it.
        seeds: SAEs of each setting.

    Returns:
        (settings, settings) of each factor and of the interactions, to be applied to means times the root of their seeds.
    """
    forms = {name: np.zeros((len(settings), len(settings))) for name in (*factors, INTERACTIONS)}
    for _, here in settings.groupby("regime"):
        place = np.ix_(rows := here.index.to_numpy(), rows)
        root = seeds[rows] ** 0.5
        fits = {subset: _projection(here, subset, root) for size in range(len(factors) + 1) for subset in combinations(factors, size)}
        for factor in factors:
            others = [name for name in factors if name != factor]
            for before in (subset for size in range(len(factors)) for subset in combinations(others, size)):
                after = tuple(name for name in factors if name in (*before, factor))
                orders = factorial(len(before)) * factorial(len(others) - len(before)) / factorial(len(factors))
                forms[factor][place] += orders * (fits[after] - fits[before])
        forms[INTERACTIONS][place] = np.eye(len(here)) - fits[tuple(factors)]
    return forms


def _projection(settings: pd.DataFrame, factors: Sequence[str], root: Array) -> Array:
    """Onto a model with a constant and the main effects of some factors, (settings, settings)."""
    columns = np.hstack([np.ones((len(settings), 1)), *(np.eye(settings[name].max() + 1)[settings[name]] for name in factors)]) * root[:, None]
    left, size, _ = np.linalg.svd(columns, full_matrices=False)
    basis = left[:, size > 1e-9 * size[0]]
    projection: Array = basis @ basis.T
    return projection


def _resampled_by_cell(chosen: pd.DataFrame, levels: pd.DataFrame, figures: Array, confidence: float) -> Shares | None:
    """Shares with resamples of cells: SAEs that share all but the mix and the seed are drawn together, deviations widened for few of them."""
    found = _shares(levels, figures)
    cell = chosen.groupby([name for name in SETTING if name != MIX], dropna=False).ngroup().to_numpy()
    if found is None or cell.max() < 1:
        return found
    drawn = {name: [share[0]] for name, share in found.by_factor.items()}
    for places in _cell_draws(cell):
        drawn_levels = levels.iloc[places].reset_index(drop=True)
        shares = _shares(drawn_levels.assign(setting=pd.factorize(drawn_levels["setting"])[0]), figures[:, places])
        for name, values in drawn.items():
            values.append(float(shares.by_factor[name][0]) if shares and name in shares.by_factor else float("nan"))
    wider = widening(int(cell.max()) + 1, confidence)
    return Shares({name: values[0] + wider * (np.array(values) - values[0]) for name, values in drawn.items()}, corrected=False)


def _cell_draws(cell: Array) -> Iterator[Array]:
    generator = np.random.default_rng(0)
    members = [np.flatnonzero(cell == number) for number in range(cell.max() + 1)]
    for _ in range(CELL_SAMPLES):
        yield np.concatenate([members[number] for number in generator.integers(0, len(members), len(members))])

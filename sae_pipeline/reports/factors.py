"""The sections that go factor by factor (training mix, expansion, budget, architecture, seed), and the trade-off.

Each takes tidy frames and returns a :class:`Section`; a factor that the study does not vary is said to be so in words.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pandas as pd

from sae_pipeline.analysis.amounts import compact
from sae_pipeline.analysis.summaries import ALL_MIXES
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.reports import evidence, figures
from sae_pipeline.reports.blocks import FOLD_ROWS, Cell, Claim, Plot, Section, Table, number_cell, text_row
from sae_pipeline.reports.style import value_colours
from sae_pipeline.reports.training import trunks
from sae_pipeline.reports.wording import NONE, common_digits, counted, decimal, interval, layer_name, listed, signed, times

Claims = tuple[Claim, ...]


# ------------------------------------------------------------------------------------------------ training mix


def matrix_section(matrix: pd.DataFrame, claims: Claims, confidence: float) -> Section:
    """Training mix x evaluation set: where which mix is highest."""
    known = matrix.dropna(subset="estimate")
    if matrix.empty:
        return Section("matrix", "Training mix", ("No SAE of this study was evaluated, so there is no matrix to show.",), claims)
    best = known.loc[_highest_of_several(known)]
    digits = common_digits(known["low"], known["high"])
    sentences = [
        f"{layer_name(layer).capitalize()}: " + "; ".join(_highest(r, known, digits) for r in evidence.rows_of(rows)) + "."
        for layer, rows in best.groupby("layer", sort=False)
    ]
    sentences += unmatched(matrix)
    if known.empty:
        title = "No arm was trained and evaluated on every mix, so no mix can be compared with another"
    elif known["mix"].nunique() == 1:
        title = (
            f"One training mix, {known['mix'].iloc[0]}, on {counted(known['evaluation_set'].nunique(), 'evaluation set')}: nothing to compare it with"
        )
        sentences.append("The study has one training mix, so nothing here is an effect of the mix.")
    else:
        winners = list(dict.fromkeys(best["mix"]))
        span = known.groupby(["layer", "evaluation_set"])["estimate"].agg(lambda values: values.max() - values.min()).max()
        which = (
            f"{winners[0]} is highest on every evaluation set"
            if len(winners) == 1
            else f"Which mix is highest depends on the evaluation set or layer ({listed(winners)})"
        )
        title = f"{which}; on one set mixes differ by up to {decimal(span, digits)}"
        if known["low"].notna().any():
            sentences.append(
                f"Brackets are {100 * confidence:g} % intervals of each figure by itself. Mixes are evaluated on the same documents, so two brackets may "
                "overlap where the paired difference is clear: compare mixes by the findings, not by overlap."
            )
    columns = ("layer", "training mix", "evaluation set", "explained variance", "interval", "SAEs")
    rows = tuple(
        text_row(
            Cell(layer_name(r.layer), r.layer), r.mix, r.evaluation_set, number_cell(r.estimate, digits),
            interval(r.low, r.high, digits), Cell(str(r.n), r.n),
        ) for r in evidence.rows_of(matrix)
    )  # fmt: skip
    table = Table("Explained variance by training mix and evaluation set", columns, rows, folded=True)
    caption = "Rows are training mixes, columns held-out evaluation sets; darker is higher, a star marks the highest estimate of a column."
    plot = Plot("matrix", title, caption, matrix, partial(figures.matrix, matrix, title))
    return Section("matrix", "Training mix", tuple(sentences), claims, (plot,), (table,))


def _highest_of_several(known: pd.DataFrame) -> list[Any]:
    """Index of the highest estimate of each layer and evaluation set that several mixes have figures for."""
    columns = known.groupby(["layer", "evaluation_set"], sort=False)["estimate"]
    return list(columns.idxmax()[columns.size() > 1])


def _highest(row: Any, known: pd.DataFrame, digits: int) -> str:
    """``PRE is highest on prose (0.789 [0.777, 0.802]; EQ within that interval)``."""
    here = known[(known["layer"] == row.layer) & (known["evaluation_set"] == row.evaluation_set) & (known["mix"] != row.mix)]
    near = list(here.loc[here["estimate"] >= row.low, "mix"])
    return f"{row.mix} is highest on {row.evaluation_set} ({_value(row, digits)}" + (f"; {listed(near)} within that interval)" if near else ")")


def heat_tables(matrix: pd.DataFrame) -> tuple[Table, ...]:
    """The matrix as one coloured table per layer: mixes down, evaluation sets across; :func:`unmatched` says what has no row."""
    known = matrix.dropna(subset="estimate")
    low, high = known["estimate"].min(), known["estimate"].max()
    digits = common_digits(known["low"], known["high"])
    sets = list(dict.fromkeys(matrix["evaluation_set"]))
    best = _highest_of_several(known)
    tables = []
    for layer, here in known.groupby("layer", sort=False):
        rows = []
        for mix, row in here.groupby("mix", sort=False):
            cells = {
                r.evaluation_set: Cell(
                    decimal(r.estimate, digits) + (" ★" if r.Index in best else ""),
                    colours=value_colours((r.estimate - low) / max(high - low, 1e-12)),
                    hint=f"{mix} on {r.evaluation_set}: {_value(r, digits)}",
                )
                for r in evidence.rows_of(row)
            }
            rows.append((Cell(str(mix)), *(cells.get(name, Cell(NONE)) for name in sets)))
        tables.append(Table(layer_name(layer).capitalize(), ("mix", *sets), tuple(rows), sortable=False))
    return tuple(tables)


def unmatched(matrix: pd.DataFrame) -> tuple[str, ...]:
    """Why the matrix lacks figures, layer by layer: a mix without SAEs there, or no arm that all of its mixes have."""
    said = []
    for layer, here in matrix.groupby("layer", sort=False):
        averaged = here.groupby("mix", sort=False)["n"].sum()
        if not averaged.any():
            said.append(f"{layer_name(layer).capitalize()}: no arm was trained and evaluated on every mix, so no mix can be compared with another.")
        elif absent := list(averaged.index[averaged == 0]):
            said.append(f"{layer_name(layer).capitalize()}: no SAE was trained on {listed(absent)}.")
    return tuple(said)


# ------------------------------------------------------------------------------------------------ expansion and budget


def expansion_section(curve: pd.DataFrame, claims: Claims, mixes: Sequence[str]) -> Section:
    """How explained variance goes with the expansion factor; under- and overcomplete dictionaries never in one comparison."""
    lines = _mix_lines(curve)
    steps = [_rise(part, "expansion", times) for _, part in lines.groupby("regime", sort=False)]
    said = tuple(sentence for sentence in steps if sentence)
    if not said:
        factors = listed([times(e) for e in sorted(set(curve["expansion"]))])
        why = f"No SAEs of this study differ in nothing but the expansion factor (found {factors or 'none'}), so there is no curve."
        return Section("expansion", "Expansion factor", (why,), claims)
    caption = f"Mean over the arms that exist at every factor of a line{_bars(lines)}. Rows share their vertical axis."
    title = _statement(claims, said[0])
    plot = Plot("expansion", title, caption, curve, partial(figures.curves, lines, title, factor="expansion", mixes=mixes))
    return Section("expansion", "Expansion factor", tuple(f"{sentence}." for sentence in said), claims, (plot,))


def budget_section(curve: pd.DataFrame, claims: Claims, mixes: Sequence[str], saes: pd.DataFrame) -> Section:
    """How explained variance goes with the training tokens, what the last step adds, and whether budgets are runs of their own."""
    lines = _mix_lines(curve)
    said = _rise(lines, "tokens", compact)
    if said is None:
        found = listed([compact(t) for t in sorted(set(curve["tokens"]))])
        why = f"No SAEs of this study differ in nothing but the token budget (found {found or 'none'}), so there is no curve."
        return Section("budget", "Token budget", (why,), claims)
    budgets = sorted(set(lines["tokens"]))
    sentences = [f"{said}."]
    if len(budgets) > 2:
        last = _rise(lines[lines["tokens"].isin(budgets[-2:])], "tokens", compact)
        sentences += [f"The last step alone: {last[0].lower()}{last[1:]}."] if last else []
    if lines["documents"].any():  # trained here, and not a table from elsewhere
        sentences += trunks(saes) or ("Every budget is a run of its own with its own learning-rate schedule, not a snapshot of a longer run.",)
    caption = f"Mean over the arms trained at every budget of a line{_bars(lines)}. Rows share their vertical axis."
    title = _statement(claims, said)
    plot = Plot("budget", title, caption, curve, partial(figures.curves, lines, title, factor="tokens", mixes=mixes))
    return Section("budget", "Token budget", tuple(sentences), claims, (plot,))


def _bars(lines: pd.DataFrame) -> str:
    """What the bars of a figure are, where it has any."""
    return "; bars are intervals over documents and seeds" if lines["low"].notna().any() else ""


def _statement(claims: Claims, described: str) -> str:
    """Title of a figure: the claim it bears on with its verdict, or what the points show where nothing could be tested."""
    tested = [claim for claim in claims if claim.estimate]
    return f"{tested[0].text.rstrip('.')}: {tested[0].word}, {tested[0].estimate}" if tested else described


def _mix_lines(curve: pd.DataFrame) -> pd.DataFrame:
    """The points that have an estimate, one line per mix; the average over all mixes stays in the CSV."""
    known = curve.dropna(subset="estimate")
    return known[known["mix"] != ALL_MIXES]


def _rise(lines: pd.DataFrame, factor: str, shown: Callable[[float], str]) -> str | None:
    """``From ×4 to ×8, explained variance changes by +0.0301 on average (+0.0210 to +0.0412 over 10 curves)``; None without two points."""
    levels = sorted(set(lines[factor]))
    if len(levels) < 2:
        return None
    line = ["layer", "mix", "evaluation_set"]
    ends = lines[lines[factor].isin([levels[0], levels[-1]])].pivot(index=line, columns=factor, values="estimate").dropna()
    if ends.empty:
        return None
    rise = ends[levels[-1]] - ends[levels[0]]
    spread = f"{signed(rise.min(), 4)} to {signed(rise.max(), 4)} over {counted(len(rise), 'curve')}" if len(rise) > 1 else "one curve"
    return f"From {shown(levels[0])} to {shown(levels[-1])}, explained variance changes by {signed(rise.mean(), 4)} on average ({spread})"


# ------------------------------------------------------------------------------------------------ architecture and seed


def architecture_section(tables: StudyTables, claims: Claims) -> Section:
    """Pairs of SAEs that differ in nothing but the architecture."""
    pairs = evidence.architecture_pairs(tables)
    if pairs.empty:
        return Section("architecture", "Architecture", ("No two SAEs of this study differ in nothing but the architecture.",), claims)
    sentences = []
    for (one, other), matched in pairs.groupby(["architecture", "against"], sort=True):
        mean = (matched["estimate"] * matched["pairs"]).sum() / matched["pairs"].sum()
        word = "more" if mean > 0 else "less"
        sentences.append(
            f"{one} explains {decimal(abs(mean), 4)} {word} of the variance than {other}, on average over {counted(int(matched['pairs'].sum()), 'matched comparison')} "
            f"({signed(matched['low'].min(), 4)} to {signed(matched['high'].max(), 4)}), at {decimal(abs(matched['l0_difference']).mean(), 1)} difference in L0."
        )
    sentences.append(
        "These are ranges over pairs, given as description; a difference in L0 that remains is part of the difference in explained variance."
    )
    columns = ("layer", "evaluation set", "architecture", "against", "pairs", "mean difference", "smallest to largest", "difference in L0")
    rows = tuple(
        text_row(
            Cell(layer_name(r.layer), r.layer), r.evaluation_set, r.architecture, r.against, Cell(str(r.pairs), r.pairs),
            Cell(signed(r.estimate, 4), r.estimate), f"{signed(r.low, 4)} to {signed(r.high, 4)}", Cell(signed(r.l0_difference, 1), r.l0_difference),
        ) for r in evidence.rows_of(pairs)
    )  # fmt: skip
    table = Table("Difference of explained variance between architectures, all other settings equal", columns, rows, folded=len(rows) > FOLD_ROWS)
    return Section("architecture", "Architecture", tuple(sentences), claims, (), (table,))


def seed_section(tables: StudyTables, claims: Claims) -> Section:
    """How far seeds lie apart, the yardstick for every other difference."""
    spread = evidence.seed_spread(tables)
    if spread.empty:
        left_out = ", so no interval here holds the noise of training" if len(tables.document_sums) else ""
        return Section("seed", "Seed", (f"Every configuration was trained with one seed{left_out}.",), claims)
    widest = spread.sort_values("max", kind="stable").iloc[-1]
    sentences = (
        f"Between seeds of one configuration, explained variance differs by at most {decimal(widest['max'], 4)} "
        f"({layer_name(widest['layer'])}, {widest['evaluation_set']}; {counted(int(widest['configurations']), 'configuration')} with "
        f"{counted(int(widest['seeds']), 'seed')}); a difference between two SAEs within that range can be luck.",
    )
    columns = ("layer", "evaluation set", "configurations", "seeds", "middle range", "widest range")
    rows = tuple(
        text_row(
            Cell(layer_name(r.layer), r.layer), r.evaluation_set, Cell(str(r.configurations), r.configurations), Cell(str(r.seeds), r.seeds),
            Cell(decimal(r.median, 4), r.median), Cell(decimal(r.max, 4), r.max),
        ) for r in evidence.rows_of(spread)
    )  # fmt: skip
    table = Table("Range of explained variance between seeds of one configuration", columns, rows, folded=len(rows) > FOLD_ROWS)
    return Section("seed", "Seed", sentences, claims, (), (table,))


# ------------------------------------------------------------------------------------------------ trade-off


def tradeoff_section(points: pd.DataFrame, tables: StudyTables, claims: Claims) -> Section:
    """Explained variance against L0, setting by setting."""
    points = points.dropna(subset=["estimate", "l0"])
    title = "Trade-off"
    if points.empty:
        return Section("tradeoff", title, ("No SAE has both figures, so there is no trade-off to show.",), claims)
    ranks = [
        here["l0"].rank().corr(here["estimate"].rank())
        for _, here in points.groupby(["layer", "evaluation_set"], sort=False)
        if min(here["l0"].nunique(), here["estimate"].nunique()) > 2
    ]
    active = f"L0 from {decimal(points['l0'].min(), 1)} to {decimal(points['l0'].max(), 1)} active latents per token"
    spread = f"{decimal(points['estimate'].min())} to {decimal(points['estimate'].max())}"
    if ranks:
        mean = sum(ranks) / len(ranks)
        word = "rises with" if mean > 0.3 else "falls with" if mean < -0.3 else "hardly follows"
        said = f"Explained variance {word} L0 (rank correlation {signed(mean, 2)} on average within a layer and set)"
    else:
        said = f"Explained variance is {spread}: too few settings to see a trade-off"
    settings = points[["mix", "layer", "expansion", "architecture", "sparsity", "tokens"]].drop_duplicates()
    sentences = (f"{said}.", f"{counted(len(settings), 'setting')} with {active}; explained variance {spread}.")
    caption = "One point per setting (its seeds averaged); bars, where drawn, are intervals both ways, often smaller than the marker. Up and to the left is better."
    statement = _statement(claims, said)
    plot = Plot("tradeoff", statement, caption, points, partial(figures.tradeoff, points, statement))
    return Section("tradeoff", title, sentences, claims, (plot,), (sae_table(tables),))


def sae_table(tables: StudyTables) -> Table:
    """One row per SAE: settings, L0, and explained variance on each evaluation set."""
    sets = list(dict.fromkeys(tables.sae_metrics["evaluation_set"]))
    table = tables.sae_metrics.pivot(index="sae_id", columns="evaluation_set", values="explained_variance")
    values = {name: table[name].to_dict() for name in sets}
    l0 = tables.sae_metrics.groupby("sae_id")["l0"].mean()
    rows = tuple(
        text_row(
            r.sae_id, r.mix, Cell(layer_name(r.layer), int(r.layer)), Cell(times(r.expansion), float(r.expansion)), r.architecture,
            Cell(compact(r.tokens), int(r.tokens)), number_cell(l0[r.sae_id], 1),
            *(number_cell(values[name][r.sae_id], 4) for name in sets),
        ) for r in evidence.rows_of(tables.saes) if r.sae_id in l0.index
    )  # fmt: skip
    columns = ("SAE", "mix", "layer", "expansion", "architecture", "tokens", "L0", *(f"explained variance, {name}" for name in sets))
    return Table(f"All {counted(len(rows), 'SAE')}: L0 (mean of the sets) and explained variance", columns, rows, folded=True)


def _value(row: Any, digits: int) -> str:
    bracket = interval(row.low, row.high, digits)
    return decimal(row.estimate, digits) + (f" {bracket}" if bracket != NONE else "")

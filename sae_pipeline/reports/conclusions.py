"""The findings: every claim with its verdict and evidence, and which factor accounts for how much of the variance."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from sae_pipeline.analysis.verdicts import ALL_LAYERS
from sae_pipeline.reports import evidence, figures
from sae_pipeline.reports.blocks import Cell, Claim, Plot, Section, Table, number_cell, text_row
from sae_pipeline.reports.variance import variance_part
from sae_pipeline.reports.wording import (
    NONE,
    VERDICT_WORDS,
    counted,
    decimal,
    digits_for,
    evidence_phrase,
    interval,
    layer_name,
    listed,
    signed,
)

SPREAD = "SEED"
"""Id of the claim about seeds, whose estimate is a standard deviation and no difference: it is printed without a sign, and judged
against the effect of the mix instead of zero."""

IN_DOMAIN = "S0-13"
"""Id of the claim that training text matching the evaluation text helps: the question the study was made for."""


# ------------------------------------------------------------------------------------------------ claims


def claims(findings: pd.DataFrame, confidence: float) -> dict[str, Claim]:
    """The headline of every claim by its id, with its layers as details."""
    said: dict[str, Claim] = {}
    for name, rows in findings.groupby("id", sort=False):
        headlines = rows[rows["scope"] == ALL_LAYERS]
        head = headlines.iloc[0] if len(headlines) else rows.iloc[0]
        layers = rows[rows["scope"].str.fullmatch(r"L\d+") & (rows["verdict"] != "not_testable")]
        shown = _shown(str(name))
        said[str(name)] = Claim(
            id=str(name), text=head["claim"], verdict=head["verdict"], word=VERDICT_WORDS[head["verdict"]],
            estimate="" if head["verdict"] == "not_testable" else _estimate(head, shown),
            evidence=evidence_phrase(dict(head.items()), confidence, shown), note="" if head["verdict"] == "not_testable" else head["note"],
            details=tuple(f"{layer_name(int(r.scope[1:]))}: {_estimate(r, shown)}, {VERDICT_WORDS[r.verdict]}" for r in evidence.rows_of(layers)), place=_place(head),
        )  # fmt: skip
    return said


def _place(row: pd.Series) -> tuple[float, float, float, float] | None:
    """Where low, estimate, high and zero lie on a strip that holds them all, in per cent of its width."""
    values = [row["low"], row["estimate"], row["high"], 0.0]
    if any(value != value for value in values) or max(values) == min(values):
        return None
    low, span = min(values), max(values) - min(values)
    low_at, estimate_at, high_at, zero_at = (round(4 + 92 * (value - low) / span, 2) for value in values)
    return low_at, estimate_at, high_at, zero_at


def _shown(claim: str) -> Callable[[float, int], str]:
    """How the estimates of a claim are printed."""
    return decimal if claim == SPREAD else signed


def _estimate(row: Any, shown: Callable[[float, int], str]) -> str:
    digits = digits_for(row.low, row.high)
    return f"{shown(row.estimate, digits)} {interval(row.low, row.high, digits)}"


def finding_section(findings: pd.DataFrame, confidence: float, variance_shares: pd.DataFrame | None = None) -> Section:
    """Every claim tested, what the evidence says, the in-domain advantage mix pair by mix pair, and the shares of variance.

    Args:
        findings: rows of the warehouse's ``findings``, of one site.
        confidence: level of the intervals.
        variance_shares: rows of ``variance_shares``, of one site.
    """
    title = "Findings"
    parts = () if variance_shares is None or variance_shares.empty else (variance_part(variance_shares, confidence),)
    if findings.empty:
        return Section("finding", title, ("No claim was tested in this study, so nothing is concluded.",), parts=parts)
    heads = claims(findings, confidence)
    by_verdict = {verdict: [claim for claim in heads.values() if claim.verdict == verdict] for verdict in VERDICT_WORDS}
    sentences = [
        f"Of {counted(len(heads), 'claim')}, {listed([f'{len(group)} {VERDICT_WORDS[v]}' for v, group in by_verdict.items() if group])}.",
        f"A claim is supported (contradicted) when its whole {100 * confidence:g} % interval and every single seed lie above (below) zero and its p-value, adjusted "
        f"for the number of claims tested (Holm 1979), is at most {decimal(1 - confidence, 2)}; everything else is inconclusive, which is not evidence of no effect. "
        "Rows that are no headline are adjusted among those of their claim. "
        "The claim about seeds holds two intervals against each other, named in its note, and is supported (contradicted) when the one of the "
        "spread between seeds lies wholly below (above) the one of the difference between mixes. "
        "A cell is one mix, layer and expansion factor.",
    ]
    ordered = tuple(claim for group in by_verdict.values() for claim in group)
    plots: tuple[Plot, ...] = ()
    frame = forest_rows(findings)
    if len(frame):
        clear = int((frame["verdict"] == "supported").sum())
        said = f"{clear} of {counted(len(frame), 'in-domain contrast')} support an advantage of matching training text"
        unit = "in-domain advantage: difference of differences in explained variance (share of 1)"
        caption = "(set A − set B) of the mix that leans to A, minus the same of the mix that leans to B; right of zero favours matching text."
        plots = (Plot("finding", said, caption, frame, partial(figures.forest, frame, said, unit)),)
    columns = ("id", "claim", "scope", "verdict", "estimate", "interval", "p", "p, adjusted", "cells", "documents", "seeds", "note")
    rows = tuple(
        text_row(
            r.id, r.claim, r.scope, Cell(VERDICT_WORDS[r.verdict], mark=r.verdict), number_cell(r.estimate, digits_for(r.low, r.high), _shown(r.id)),
            interval(r.low, r.high), _p_cell(r.p_value), _p_cell(r.p_adjusted), Cell(str(r.cells), r.cells), Cell(str(r.documents), r.documents), Cell(str(r.seeds), r.seeds), r.note,
        ) for r in evidence.rows_of(findings)
    )  # fmt: skip
    table = Table(f"All {counted(len(rows), 'test')}, scope by scope", columns, rows, folded=True)
    return Section("finding", title, tuple(sentences), ordered, plots, (table,), parts=parts)


def forest_rows(findings: pd.DataFrame) -> pd.DataFrame:
    """The rows of the in-domain forest plot, by layer: label, layer (missing for all layers), estimate, low, high, verdict."""
    rows = findings[(findings["id"] == IN_DOMAIN) & (findings["verdict"] != "not_testable")].copy()
    rows["layer"] = pd.to_numeric(rows["scope"].str.extract(r"^L(\d+)", expand=False))
    if rows["layer"].notna().any():
        rows = rows[rows["layer"].notna() | (rows["scope"] == ALL_LAYERS)]
    named = rows["scope"].str.replace(r"^L(\d+)", lambda match: layer_name(int(match[1])), regex=True)
    rows["label"] = [scope if "," in scope else f"{scope}, widest contrast" for scope in named]
    return rows.sort_values("layer", kind="stable", na_position="first")[["label", "layer", "estimate", "low", "high", "verdict"]].reset_index(
        drop=True
    )


def _p_cell(value: float) -> Cell:
    """A p-value, never as zero."""
    return Cell(NONE, float("inf")) if value != value else Cell("< 0.001" if value < 0.001 else decimal(value, 3), float(value))

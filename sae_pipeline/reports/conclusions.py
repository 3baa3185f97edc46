"""The sections that conclude: findings with their evidence, limitations, and the lineage under it all."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from sae_pipeline.analysis.tables import SETTING, StudyTables, design, regime
from sae_pipeline.analysis.verdicts import ALL_LAYERS
from sae_pipeline.reports import evidence, figures
from sae_pipeline.reports.blocks import Cell, Chain, Claim, Plot, Section, Table, text_row
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
from sae_pipeline.study import Study

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


def finding_section(findings: pd.DataFrame, confidence: float) -> Section:
    """Every claim tested, what the evidence says, and the in-domain advantage mix pair by mix pair."""
    title = "Findings"
    if findings.empty:
        return Section("finding", title, ("No claim was tested in this study, so nothing is concluded.",))
    heads = claims(findings, confidence)
    by_verdict = {verdict: [claim for claim in heads.values() if claim.verdict == verdict] for verdict in VERDICT_WORDS}
    sentences = [
        f"Of {counted(len(heads), 'claim')}, {listed([f'{len(group)} {VERDICT_WORDS[v]}' for v, group in by_verdict.items() if group])}.",
        f"A claim is supported (contradicted) when its whole {100 * confidence:g} % interval and every single seed lie above (below) zero; "
        "everything else is inconclusive, which is not evidence of no effect. "
        "The claim about seeds holds two intervals against each other, named in its note, and is supported (contradicted) when the one of the "
        "spread between seeds lies wholly below (above) the one of the difference between mixes. "
        "Documents are those resampled; a cell is one mix, layer and expansion factor.",
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
    columns = ("id", "claim", "scope", "verdict", "estimate", "interval", "cells", "documents", "seeds", "note")
    rows = tuple(
        text_row(
            r.id, r.claim, r.scope, Cell(VERDICT_WORDS[r.verdict], mark=r.verdict), Cell(_shown(r.id)(r.estimate, digits_for(r.low, r.high)), _key(r.estimate)),
            interval(r.low, r.high), Cell(str(r.cells), r.cells), Cell(str(r.documents), r.documents), Cell(str(r.seeds), r.seeds), r.note,
        ) for r in evidence.rows_of(findings)
    )  # fmt: skip
    table = Table(f"All {counted(len(rows), 'test')}, scope by scope", columns, rows, folded=True)
    return Section("finding", title, tuple(sentences), ordered, plots, (table,))


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


# ------------------------------------------------------------------------------------------------ limitations and lineage


def limitations_section(study: Study, tables: StudyTables, findings: pd.DataFrame, subject: dict[str, Any]) -> Section:
    """What the study cannot say, from its own sizes."""
    settings = design(tables.saes).groupby(list(SETTING))["replicate"].nunique()
    alone = int((settings == 1).sum())
    documents = tables.baseline_sums.groupby("evaluation_set")["document"].nunique()
    tested = findings[findings["verdict"] != "not_testable"]
    skipped = findings[(findings["verdict"] == "not_testable") & (findings["scope"] == ALL_LAYERS)]
    shape = ", ".join(f"{name} {subject[name]}" for name in ("d_model", "n_layers") if name in subject)
    points = [
        f"One subject model ({study.subject.model}{', ' + shape if shape else ''}) at {study.activations.site}, "
        f"{listed([layer_name(layer) for layer in study.activations.layers])}: nothing here speaks for other models, sites or layers.",
        f"{alone} of {counted(len(settings), 'setting')} were trained with one seed; where no seeds are averaged, intervals leave out the noise of training."
        if alone
        else f"Every setting was trained with {int(settings.min())} seeds or more; with so few, the spread between seeds is itself uncertain.",
        f"SAEs saw at most {int(tables.saes['tokens'].max()):,} training tokens; effects may shrink or grow with longer training.",
        "Learning rate, warm-up and the other training settings were not tuned per cell, so a factor's effect includes how well those settings suit it.",
    ]
    if len(documents):
        few = documents.idxmin()
        points.append(
            f"Intervals resample held-out documents; the smallest set ({few}) has {counted(int(documents.min()), 'document')}. They describe text like these "
            "documents and no other."
        )
    if len(tested) > 1:
        rate = 1 - study.analysis.confidence
        points.append(
            f"{len(tested)} intervals were drawn at {100 * study.analysis.confidence:g} % each without correction for their number: about "
            f"{decimal(len(tested) * rate, 1)} would miss zero on their own if nothing had an effect."
        )
    if len({regime(expansion) for expansion in tables.saes["expansion"]}) > 1:
        points.append("Undercomplete and overcomplete dictionaries are different tasks; they are never ranked together.")
    points += [f"Not testable here: {row.claim} ({row.note})." for row in evidence.rows_of(skipped)]
    return Section("limitations", "Limitations", points=tuple(points))


def lineage_section(lineage: pd.DataFrame, tables: StudyTables, health: pd.DataFrame, findings: pd.DataFrame) -> Section:
    """Which artifacts every table rests on, and the chain of them back to the text."""
    chain = evidence.lineage_chain(lineage)
    stages = list(dict.fromkeys(link["stage"] for link in chain))
    counts = {stage: sum(link["stage"] == stage for link in chain) for stage in stages}
    sizes = {name: len(getattr(tables, name)) for name in ("saes", "sae_metrics", "document_sums", "baseline_sums", "feature_stats")}
    sizes |= {"health": len(health), "findings": len(findings)}
    rests = tuple(
        text_row(
            name, Cell(f"{size:,}", size), " → ".join(f"{stage} ({counts[stage]})" for stage in evidence.RESTS_ON[name] if stage in counts) or NONE
        )
        for name, size in sizes.items()
    )
    table = Table("Every table and the artifacts it is computed from", ("table", "rows", "computed from: stage (artifacts)"), rests, sortable=False)
    chains = []
    for stage in stages:
        links = [link for link in chain if link["stage"] == stage]
        rows = tuple(
            text_row(
                link["what"], link["fingerprint"], listed(link["sources"], 4) or "the study file", link["created"],
                Cell(decimal(link["seconds"], 1), link["seconds"]), ", ".join(f"{name} {version}" for name, version in sorted(link["libraries"].items())),
            ) for link in links
        )  # fmt: skip
        text = f"{stage}: {counted(len(links), 'artifact')}, {decimal(sum(link['seconds'] for link in links), 1)} s"
        columns = ("what", "fingerprint", "made from", "created", "seconds", "libraries")
        chains.append(Chain(stage, text, Table(f"Artifacts of the stage {stage}", columns, rows)))
    sentences = (
        "A fingerprint names an artifact in the store by everything that went into it; the stages below are in the order they feed each other.",
    )
    if not chain:
        sentences = ("No lineage was handed to this report.",)
    return Section("lineage", "Lineage", sentences, tables=(table,), chains=tuple(chains))


def _key(value: float) -> float:
    """Sort key of a value that may be missing: missing sorts below everything."""
    return float(value) if value == value else float("-inf")

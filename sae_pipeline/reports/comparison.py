"""The page on two studies, or two dates of one: which SAEs are the same, and what changed in metrics, findings and health."""

from __future__ import annotations

from functools import partial
from typing import Any

import pandas as pd

from sae_pipeline.analysis.health.bands import SEVERITY
from sae_pipeline.analysis.study_differences import (
    CHANGED,
    EQUAL,
    HIGHER,
    IN_ONE_ALONE,
    LOWER,
    NO_LONGER_TESTABLE,
    NOW_TESTABLE,
    Answering,
    Measured,
    answering,
    changed_artifacts,
    changed_marks,
    changed_verdicts,
    differences,
)
from sae_pipeline.analysis.tables import REQUIRED, StudyTables
from sae_pipeline.analysis.verdicts import ALL_LAYERS
from sae_pipeline.errors import BadInput
from sae_pipeline.metrics.registry import METRICS
from sae_pipeline.reports import figures
from sae_pipeline.reports.blocks import FOLD_ROWS, Cell, Plot, Report, Section, Table, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.wording import NONE, VERDICT_WORDS, counted, decimal, digits_for, interval, layer_name, listed, signed
from sae_pipeline.study.schema import Analysis


def comparison(before: Measured, after: Measured) -> tuple[Report, dict[str, int]]:
    """The page as data, and the counts behind its headline.

    Raises:
        BadInput: no SAE of one study answers to one of the other.
    """
    found = answering(before.frames["saes"], after.frames["saes"])
    if found.pairs.empty:
        raise BadInput(
            f"expected SAEs that share their settings, found none in {before.warehouse} and {after.warehouse}; compare studies that have mixes, layers and arms in common"
        )
    analysis = Analysis()
    changes = differences(_tables(before), _tables(after), found, analysis)
    verdicts = changed_verdicts(before.frames["findings"], after.frames["findings"])
    marks = changed_marks(before.frames["health"], after.frames["health"], found.pairs)
    names = [f"{side.name} ({side.latest})" for side in (before, after)]
    counts = {
        "saes_same": int(found.pairs["same"].sum()),
        "saes_changed": int((~found.pairs["same"]).sum()),
        "saes_only_before": len(found.only_before),
        "saes_only_after": len(found.only_after),
        "verdicts_changed": int((verdicts["turned"] == CHANGED).sum()),
        "verdicts_now_testable": int((verdicts["turned"] == NOW_TESTABLE).sum()),
        "verdicts_no_longer_testable": int((verdicts["turned"] == NO_LONGER_TESTABLE).sum()),
        "marks_worse": int((marks["turned"] == "worse").sum()),
        "marks_better": int((marks["turned"] == "better").sum()),
    }
    sections = (
        sae_section(found, changed_artifacts(before.frames["lineage"], after.frames["lineage"])),
        metric_section(changes, found, analysis.confidence),
        verdict_section(verdicts),
        mark_section(marks),
    )
    report = Report(
        name=f"{after.name} against {before.name}",
        description=f"Before: {names[0]}. After: {names[1]}. Differences are after minus before, with intervals of {analysis.confidence:.0%} from "
        f"{analysis.bootstrap_samples:,} resamples whatever the studies ask for.",
        headline=None,
        headline_sentence=bottom_line(changes, counts),
        facts=(
            ("before", names[0]),
            ("after", names[1]),
            ("SAEs in both", f"{len(found.pairs):,}"),
            ("of these the same", f"{counts['saes_same']:,}"),
        ),
        heat=(),
        sections=sections,
    )
    return report, counts


def bottom_line(changes: pd.DataFrame, counts: dict[str, int]) -> str:
    """The whole page in one sentence."""
    both = counts["saes_same"] + counts["saes_changed"]
    saes = (
        f"{counts['saes_changed']:,} of the {counted(both, 'SAE')} in both changed"
        if counts["saes_changed"]
        else f"all {counted(both, 'SAE')} in both are the same"
    )
    main = changes[(changes["metric"] == "explained_variance") & changes["layer"].isna()]
    clear = [
        f"{signed(r.estimate, _digits(r))} {interval(r.low, r.high, _digits(r))} on {r.evaluation_set}"
        for r in rows_of(main[main["said"].isin([HIGHER, LOWER])])
    ]
    if len(main) and (main["said"] == EQUAL).all():
        variance = "explained variance is the same"
    else:
        variance = f"explained variance changed by {listed(clear)}" if clear else "explained variance did not clearly change on any evaluation set"
    verdicts = f"{counted(counts['verdicts_changed'], 'finding')} changed the verdict{_testability(counts['verdicts_now_testable'], counts['verdicts_no_longer_testable'])}"
    marks = f"{counted(counts['marks_worse'], 'health mark')} got worse and {counts['marks_better']:,} better"
    line = f"{saes}; {variance}; {verdicts}; {marks}."
    return line[0].upper() + line[1:]


def sae_section(found: Answering, artifacts: pd.DataFrame) -> Section:
    """Which SAEs are the same, and at which stage studies part."""
    pairs = found.pairs
    sentences = [
        f"{counted(int(pairs['same'].sum()), 'SAE')} of {len(pairs):,} with the same settings are the same by their fingerprints; "
        f"{len(found.only_before):,} are in the study before alone and {len(found.only_after):,} in the one after.",
        *(f"The studies differ in {name}: {old} before, {new} after." for name, (old, new) in found.differing.items()),
    ]
    parted = artifacts[artifacts["changed"] > 0]
    if len(parted):
        sentences.append(f"The first stage with artifacts made anew is {parted['stage'].iloc[0]}; what follows from it changed with it.")
    stages = tuple(
        text_row(r.stage, *(Cell(f"{value:,.0f}", float(value)) for value in (r.same, r.changed, r.only_before, r.only_after)))
        for r in rows_of(artifacts)
    )
    saes = tuple(text_row(r.after, r.before if r.before != r.after else "the same name", "same" if r.same else "changed") for r in rows_of(pairs))
    alone = tuple(text_row(name, side) for side, names in (("before", found.only_before), ("after", found.only_after)) for name in names)
    tables = [
        Table("Artifacts by stage", ("stage", "the same", "made anew", "only before", "only after"), stages, sortable=False),
        Table("SAEs of the same settings", ("SAE after", "SAE before", "fingerprint"), saes, folded=len(saes) > FOLD_ROWS),
    ]
    if alone:
        tables.append(Table("SAEs that only one study has", ("SAE", "study"), alone, folded=len(alone) > FOLD_ROWS))
    return Section("saes", "SAEs", tuple(sentences), tables=tuple(tables))


def metric_section(changes: pd.DataFrame, found: Answering, confidence: float) -> Section:
    """Differences of metrics, SAE by SAE of the same settings."""
    title = "Metrics"
    if changes.empty:
        return Section("metrics", title, ("The studies have no evaluation set in common, so no metric can be compared.",))
    kept = "the SAEs that changed" if not found.pairs["same"].all() else "all SAEs, none of which changed"
    sentences = [
        f"Mean differences over {kept}, each against the SAE of the same settings, with {100 * confidence:g} % intervals over documents and seeds. "
        f"{counted(len(changes), 'difference')} are shown without correction for their number.",
        *(f"{note[0].upper()}{note[1:]}." for note in dict.fromkeys(changes.loc[changes["metric"] == "explained_variance", "note"]) if note),
    ]
    rows = tuple(
        text_row(
            *((r.site,) if changes["site"].nunique() > 1 else ()), r.metric, r.evaluation_set, Cell(layer_name(r.layer), -1.0 if r.layer != r.layer else r.layer),
            Cell(str(r.saes), r.saes), decimal(r.before, 4), decimal(r.after, 4), Cell(signed(r.estimate, _digits(r)), r.estimate),
            interval(r.low, r.high, _digits(r)), _said(r), Cell(str(r.documents), r.documents),
        ) for r in rows_of(changes)
    )  # fmt: skip
    site = ("site",) if changes["site"].nunique() > 1 else ()
    columns = (*site, "metric", "evaluation set", "layer", "SAEs", "before", "after", "difference", "interval", "after is", "documents")
    table = Table("Metrics before and after", columns, rows, folded=len(rows) > FOLD_ROWS)
    frame = forest_rows(changes)
    clear = int(frame["verdict"].isin([HIGHER, LOWER]).sum())
    statement = f"Explained variance: {clear} of {counted(len(frame), 'difference')} clear"
    caption = "Explained variance after minus before, mean over SAEs of the same settings; right of zero it is higher after."
    plot = Plot(
        "explained-variance-change",
        statement,
        caption,
        frame,
        partial(figures.forest, frame, statement, "explained variance after minus before (share of 1)"),
    )
    return Section("metrics", title, tuple(sentences), plots=(plot,), tables=(table,))


def forest_rows(changes: pd.DataFrame) -> pd.DataFrame:
    """Rows of the forest plot: explained variance on each set, all layers and layer by layer. Columns as in :func:`figures.forest`."""
    rows = changes[changes["metric"] == "explained_variance"].rename(columns={"said": "verdict"})
    site = rows["site"] + ", " if rows["site"].nunique() > 1 else ""
    labels = site + rows["evaluation_set"] + ", " + rows["layer"].map(layer_name)
    return rows.assign(label=labels)[["label", "layer", "estimate", "low", "high", "verdict"]].reset_index(drop=True)


def verdict_section(verdicts: pd.DataFrame) -> Section:
    """Findings whose verdict is another."""
    turned = verdicts["turned"].value_counts()
    headlines = int(((verdicts["turned"] == CHANGED) & (verdicts["scope"] == ALL_LAYERS)).sum())
    testability = _testability(int(turned.get(NOW_TESTABLE, 0)), int(turned.get(NO_LONGER_TESTABLE, 0)))
    sentences = [
        f"{counted(int(turned.get(CHANGED, 0)), 'finding')} changed the verdict ({headlines} of them for all layers together){testability}; "
        f"{int(turned.get(IN_ONE_ALONE, 0)):,} are in one study alone."
    ]
    rows = tuple(
        text_row(
            r.id, r.claim, r.scope, _verdict(r.verdict_before), f"{signed(r.estimate_before, 4)} {interval(r.low_before, r.high_before)}",
            _verdict(r.verdict_after), f"{signed(r.estimate_after, 4)} {interval(r.low_after, r.high_after)}", r.turned,
        ) for r in rows_of(verdicts)
    )  # fmt: skip
    columns = ("id", "claim", "scope", "verdict before", "estimate before", "verdict after", "estimate after", "turned")
    tables = (Table("Findings with another verdict", columns, rows, folded=len(rows) > FOLD_ROWS),) if rows else ()
    return Section("verdicts", "Findings", tuple(sentences), tables=tables)


def mark_section(marks: pd.DataFrame) -> Section:
    """Health marks that are others."""
    turned = marks["turned"].value_counts()
    sentence = f"{counted(len(marks), 'mark')} changed: {int(turned.get('worse', 0)):,} worse, {int(turned.get('better', 0)):,} better, {int(turned.get('otherwise', 0)):,} not judged on one side."
    rows = tuple(
        text_row(
            r.after, r.evaluation_set, r.rubric, r.metric, _mark(r.mark_before), decimal(r.value_before, 4), _mark(r.mark_after), decimal(r.value_after, 4), r.turned
        ) for r in rows_of(marks)
    )  # fmt: skip
    columns = ("SAE after", "evaluation set", "rubric", "metric", "mark before", "value before", "mark after", "value after", "turned")
    tables = (Table("Health marks that changed", columns, rows, folded=len(rows) > FOLD_ROWS),) if rows else ()
    return Section("marks", "Health", (sentence,), tables=tables)


def _tables(side: Measured) -> StudyTables:
    """The tables that metrics recombine from; those of single latents stay in the warehouse."""
    names = ("saes", "sae_metrics", "document_sums", "baseline_sums")
    return StudyTables(**{name: side.frames[name] for name in names}, feature_stats=pd.DataFrame(columns=list(REQUIRED["feature_stats"])))


def _said(row: Any) -> Cell:
    """Coloured where the metric has a better end and the difference is clear."""
    better = METRICS[row.metric].better
    good = None if row.said not in (HIGHER, LOWER) or better is None else "supported" if row.said == better else "contradicted"
    return Cell(row.said, mark=good)


def _testability(gained: int, lost: int) -> str:
    """Findings that could be tested in one study only: what changed there is the design and not the answer."""
    return (f", {gained:,} could be tested only after" if gained else "") + (f", {lost:,} only before" if lost else "")


def _verdict(verdict: Any) -> Cell:
    return Cell(VERDICT_WORDS[verdict], mark=verdict) if isinstance(verdict, str) else Cell(NONE)


def _mark(mark: str) -> Cell:
    return Cell(mark.replace("_", " "), mark=mark if mark in SEVERITY else None)


def _digits(row: Any) -> int:
    return digits_for(row.low, row.high)

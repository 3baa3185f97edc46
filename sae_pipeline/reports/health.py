"""The section on health: marks by the study's rubrics, where the rubrics disagree, and the tables that follow from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import pandas as pd

from sae_pipeline.analysis.health import tables as health_tables
from sae_pipeline.analysis.health.bands import NOT_JUDGED, SEVERITY
from sae_pipeline.analysis.health.marks import OVERALL, bottom_lines, disagreements, shown
from sae_pipeline.analysis.health.rubrics import Rubric, first_with
from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.reports import figures
from sae_pipeline.reports.blocks import Cell, Plot, Section, Table, text_row
from sae_pipeline.reports.evidence import rows_of
from sae_pipeline.reports.features.choice import DENSE
from sae_pipeline.reports.features.links import ShownLatents
from sae_pipeline.reports.style import MARK_COLOURS
from sae_pipeline.reports.wording import NONE, counted, decimal, layer_name, listed, percent

NO_PAGES = ShownLatents()

DENSE_SHOWN = 60
"""Dense latents listed; ``dense_latents.json`` beside the warehouse names all."""

VERDICT_MARKS = {"good": "good", "variable": "warning", "poor": "poor", NOT_JUDGED: NOT_JUDGED}
"""The mark whose colour stands for a verdict across evaluation sets."""


def health_section(
    health: pd.DataFrame, rubrics: Sequence[Rubric], tables: StudyTables, in_sample: Sequence[str], latents: ShownLatents = NO_PAGES
) -> Section:
    """Marks per metric over all SAEs, one row per SAE with a mark per metric and a bottom line, and the rubrics side by side.

    Args:
        health: the table ``health``: marks by every rubric.
        rubrics: the study's rubrics; the first gives the headline and the bottom lines.
        tables: the metric tables.
        in_sample: the in-sample evaluation sets; where there is none, SAEs are judged over all sets.
        latents: the latents that have a page.
    """
    if health.empty:
        return Section("health", "Health", ("No health marks: the rubric judged no SAE of this study.",))
    rubric = rubrics[0]
    marks = health[health["rubric"] == rubric.name]
    counts = mark_counts(marks, rubric.labels)
    judged = marks[marks["mark"] != NOT_JUDGED]
    low = judged["mark"].isin(["warning", "poor"])
    if judged.empty:
        said = f"None of the {counted(len(marks), 'mark')} could be given"
    else:
        by_metric = low.groupby(judged["metric"]).mean()
        most = f", most often for {rubric.labels.get(str(by_metric.idxmax()), by_metric.idxmax())}" if low.any() else ""
        said = f"{percent(low.mean())} of {counted(len(judged), 'mark')} call for a look (warning or poor){most}"
    plot = Plot(
        "health", said, "Each bar is a metric; the counts are pairs of SAE and evaluation set.", counts, partial(figures.health, counts, said)
    )
    where = f"the in-sample sets ({listed(in_sample)})" if in_sample else "all evaluation sets"
    blocks = [
        _across(health, rubrics),
        _layers(health, rubrics, tables, in_sample),
        _side_by_side(health, rubrics, in_sample, where),
        _disagreements(disagreements(health), rubrics),
        _dense(tables.feature_stats, in_sample, latents),
    ]
    sentences = (
        f"Judged by the rubric {rubric.name}: {said[0].lower()}{said[1:]}.",
        "A mark says in which band of the rubric a figure lies; it is not a test, and it has no interval.",
        *(sentence for block in blocks for sentence in block[0]),
    )
    shown_tables = (result_table(health, rubric, tables.saes, in_sample, where), *(table for block in blocks for table in block[1]))
    about = Table("The rubrics", ("rubric", "what it is"), tuple(text_row(rubric.name, rubric.description) for rubric in rubrics), folded=True)
    return Section("health", "Health", sentences, (), (plot,), (*shown_tables, about, _bands(health, rubrics), *_suspects(rubrics)))


def mark_counts(health: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """Columns metric (its label), mark, count and share of the metric's marks; best mark first."""
    counts = health.groupby(["metric", "mark"], sort=False).size().rename("count").reset_index()
    counts["share"] = counts["count"] / counts.groupby("metric")["count"].transform("sum")
    place = {"mark": list(MARK_COLOURS), "metric": list(dict.fromkeys(health["metric"]))}
    counts = counts.sort_values(["mark", "metric"], key=lambda column: column.map(place[str(column.name)].index), ignore_index=True)
    return counts.assign(metric=[labels.get(metric, metric) for metric in counts["metric"]])


def result_table(health: pd.DataFrame, rubric: Rubric, saes: pd.DataFrame, in_sample: Sequence[str], where: str) -> Table:
    """One row per SAE: per metric the figure with the worst mark over the sets looked at, and the bottom line."""
    worst, width = health_tables.worst_rows(health, rubric, in_sample), dict(zip(saes["sae_id"], saes["d_sae"], strict=True))
    cells = {}
    for row in rows_of(worst):
        judged = rubric.judged(row.metric)
        value = row.value * width[row.sae_id] if judged.unit == "count_of_latents" else row.value
        figure = f"{shown(value, judged.unit)}, " if row.value == row.value else ""
        hint = f"{row.evaluation_set}: {row.band or row.note}"
        cells[row.sae_id, row.metric] = Cell(figure + row.mark.replace("_", " "), sort=int(row.severity), mark=row.mark, hint=hint)
    lines = bottom_lines(health, rubric, in_sample or None)
    rows = tuple(
        (
            Cell(str(r.sae_id)),
            *(cells.get((r.sae_id, metric), Cell(NONE)) for metric in rubric.labels),
            Cell(r.sentence, sort=SEVERITY.get(r.mark, -1)),
        )
        for r in rows_of(lines)
    )
    caption = f"{counted(len(rows), 'SAE')}: figure with the worst mark per metric over {where}, and the bottom line"
    return Table(caption, ("SAE", *(label.split(" (")[0] for label in rubric.labels.values()), "bottom line"), rows)


# ------------------------------------------------------------------------------------------------ sentences and tables by rule

Block = tuple[tuple[str, ...], tuple[Table, ...]]


def _across(health: pd.DataFrame, rubrics: Sequence[Rubric]) -> Block:
    """Who holds up on which evaluation set, by the first rubric with a rule for it."""
    rubric, sets = first_with(rubrics, "across_sets"), list(dict.fromkeys(health["evaluation_set"]))
    if rubric is None or rubric.across_sets is None or len(sets) < 2:
        return (), ()
    verdicts = health_tables.across_sets(health, rubric)
    judged = rubric.judged(rubric.across_sets.metric)
    marks = health[(health["rubric"] == rubric.name) & (health["metric"] == judged.metric)]
    cells = {
        (r.sae_id, r.evaluation_set): Cell(
            shown(r.value, judged.unit) if r.value == r.value else NONE, sort=r.value, mark=r.mark, hint=r.band or r.note
        )
        for r in rows_of(marks)
    }
    rows = tuple(
        (
            Cell(str(r.sae_id)), *(cells.get((r.sae_id, name), Cell(NONE)) for name in sets),
            Cell(f"{r.verdict.replace('_', ' ')} ({r.held} of {counted(int(r.judged), 'set')})", sort=health_tables.VERDICTS.index(r.verdict), mark=VERDICT_MARKS[r.verdict]),
        ) for r in rows_of(verdicts)
    )  # fmt: skip
    number = verdicts["verdict"].value_counts()
    words = listed([f"{number[verdict]} {verdict.replace('_', ' ')}" for verdict in health_tables.VERDICTS if verdict in number])
    sentence = (
        f"Across evaluation sets, of {counted(len(verdicts), 'SAE')} {words}: good where {judged.label} holds up on every set, poor where on none, else variable "
        f"({rubric.name}; {rubric.across_sets.source})."
    )
    return (sentence,), (
        Table(f"{judged.label.capitalize()} on every evaluation set, and the verdict", ("SAE", *sets, "generalisation"), rows, folded=True),
    )


def _layers(health: pd.DataFrame, rubrics: Sequence[Rubric], tables: StudyTables, in_sample: Sequence[str]) -> Block:
    """SAEs that differ in the layer only, beside each other, by the first rubric with a rule for the best."""
    rubric = first_with(rubrics, "best_layer")
    if rubric is None or rubric.best_layer is None:
        return (), ()
    worst = health_tables.worst_rows(health, rubric, in_sample)
    layers = health_tables.layer_rows(health, tables.saes, rubric, in_sample)
    if layers.empty:
        return (), ()
    compared = [step.metric for step in rubric.best_layer.order if step.metric is not None]
    metrics = list(
        dict.fromkeys([*compared, *(name for name in rubric.labels if name in ("explained_variance", "l0", "dead_share", "dead_share_5e4"))])
    )
    ids, width = health_tables.always_on(tables.feature_stats), dict(zip(tables.saes["sae_id"], tables.saes["d_sae"], strict=True))
    by_metric = {(row.sae_id, row.metric): row for row in rows_of(worst)}

    def figure(sae_id: str, metric: str) -> Cell:
        row, unit = by_metric[sae_id, metric], rubric.judged(metric).unit
        value = row.value * width[sae_id] if unit == "count_of_latents" else row.value
        latents = ids.get((sae_id, row.evaluation_set), []) if unit == "count_of_latents" else []
        named = f" ({listed([str(latent) for latent in latents])})" if latents else ""
        return Cell(shown(value, unit) + named if value == value else NONE, sort=value, mark=row.mark, hint=row.band or row.note)

    rows = tuple(
        (
            Cell(r.group), Cell(layer_name(r.layer), int(r.layer)), *(figure(r.sae_id, metric) for metric in metrics),
            Cell(status(r.mark, r.faults, rubric.labels), sort=SEVERITY.get(r.mark, -1), mark=r.mark), Cell("best" if r.best else ""),
        ) for r in rows_of(layers)
    )  # fmt: skip
    best, groups = layers.loc[layers["best"], "layer"].value_counts(), layers["group"].nunique()
    where = listed([f"{layer_name(layer)} in {number}" for layer, number in best.sort_index().items()])
    order = {"lowest": "lowest {}", "highest": "highest {}", "fewest_faults": "fewest metrics marked warning or poor"}
    rule = ", then ".join(order[step.prefer].format(rubric.labels.get(step.metric or "", "")) for step in rubric.best_layer.order)
    sentence = f"Of {counted(groups, 'group')} of SAEs that differ in the layer only, the best is {where or 'nowhere known'}: {rule} ({rubric.name})."
    columns = ("SAEs", "layer", *(rubric.labels[metric].split(" (")[0] for metric in metrics), "status", "best layer")
    caption = (
        "Layer by layer: the figure with the worst mark, always-on latents with their ids. The best layer goes by means over the sets that all layers have a "
        f"figure on. {rubric.best_layer.source}"
    )
    return (sentence,), (Table(caption, columns, rows, folded=True),)


def status(mark: str, faults: Sequence[str], labels: Mapping[str, str]) -> str:
    """A mark and the metrics behind it: ``poor: explained variance, always-on latents``."""
    return mark.replace("_", " ") + (f": {', '.join(labels[metric].split(' (')[0] for metric in faults)}" if faults else "")


def _side_by_side(health: pd.DataFrame, rubrics: Sequence[Rubric], in_sample: Sequence[str], where: str) -> Block:
    """The worst mark of every SAE by every rubric, and the tier it reaches where a rubric has tiers."""
    marks, tiered = health_tables.overall_marks(health, in_sample), first_with(rubrics, "tiers")
    names = [rubric.name for rubric in rubrics if rubric.name in marks.columns]
    cells = {
        sae_id: [Cell(found[name].replace("_", " "), sort=SEVERITY.get(found[name], -1), mark=found[name]) for name in names]
        for sae_id, found in marks.to_dict("index").items()
    }
    sentences: tuple[str, ...] = ()
    columns: tuple[str, ...] = ("SAE", *names)
    if tiered:
        tiers = health_tables.tier_rows(health, tiered, in_sample)
        short = {metric: label.split(" (")[0] for metric, label in tiered.labels.items()}
        for r in rows_of(tiers):
            unknown = f"; not known: {listed([short[metric] for metric in r.unknown])}" if r.unknown else ""
            cells[r.sae_id].append(Cell(status(r.tier, r.decided_by, short) + unknown))
        number = tiers["tier"].value_counts()
        words = listed([f"{number[tier]} {tier.replace('_', ' ')}" for tier in (*tiered.tiers, health_tables.NO_TIER, NOT_JUDGED) if tier in number])
        sentences = (f"By the success criteria of {tiered.name}, which an SAE meets as a whole or not at all: {words}.",)
        columns = (*columns, f"success criteria of {tiered.name}")
    rows = tuple((Cell(str(sae_id)), *found) for sae_id, found in cells.items())
    return sentences, (Table(f"Worst mark by every rubric over {where}", columns, rows, folded=True),)


def _disagreements(found: pd.DataFrame, rubrics: Sequence[Rubric]) -> Block:
    """Where rubrics disagree, counted by what they disagree about, with both bands."""
    if len(rubrics) < 2:
        return (), ()
    if found.empty:
        return ("The rubrics disagree about no metric of any SAE.",), ()
    labels = {OVERALL: "worst mark"} | {name: label for rubric in reversed(rubrics) for name, label in rubric.labels.items()}
    keys = ["metric", "rubric", "mark", "other_rubric", "other_mark"]
    counts = found.groupby(keys, sort=False).agg(cases=("sae_id", "size"), band=("band", "first"), other_band=("other_band", "first"))
    rows = tuple(
        text_row(
            labels[r.metric], Cell(f"{r.cases:,}", r.cases), r.rubric, Cell(r.mark, mark=r.mark), r.band, r.other_rubric, Cell(r.other_mark, mark=r.other_mark), r.other_band
        ) for r in rows_of(counts.reset_index().sort_values("cases", ascending=False, kind="stable"))
    )  # fmt: skip
    on_metrics = int((found["metric"] != OVERALL).sum())
    sentence = (
        f"Two rubrics disagree about a figure {on_metrics:,} times and about the worst mark of an SAE on a set {len(found) - on_metrics:,} times; "
        "good and acceptable count as one opinion. The table rubric_disagreements of the warehouse names every case."
    )
    columns = ("metric", "cases", "rubric", "mark", "band, of the first case", "other rubric", "mark", "band, of the first case")
    return (sentence,), (Table("Where two rubrics disagree", columns, rows, folded=True),)


def _dense(stats: pd.DataFrame, in_sample: Sequence[str], latents: ShownLatents) -> Block:
    """The latents that fire on most tokens, each leading to its page."""
    looked_at = stats[stats["evaluation_set"].isin(in_sample)] if in_sample else stats
    found = looked_at[looked_at["density"] > DENSE].sort_values("density", ascending=False, kind="stable").drop_duplicates(["sae_id", "latent"])
    if found.empty:
        return (), ()
    rows = tuple(
        text_row(r.sae_id, latents.cell(r.sae_id, int(r.latent)), r.evaluation_set, Cell(decimal(100 * r.density, 1), r.density), latents.text(r.sae_id, int(r.latent)))
        for r in rows_of(found.head(DENSE_SHOWN))
    )  # fmt: skip
    sentence = (
        f"{counted(len(found), 'latent')} of {counted(found['sae_id'].nunique(), 'SAE')} fire on more than {percent(DENSE)} of the tokens of a set."
    )
    caption = f"Latents that fire most, {len(rows)} of {len(found)} above {percent(DENSE)}; a number leads to the latent's page"
    return (sentence,), (Table(caption, ("SAE", "latent", "evaluation set", "fires on (% of tokens)", "strongest token"), rows, folded=True),)


def _bands(health: pd.DataFrame, rubrics: Sequence[Rubric]) -> Table:
    labels = {rubric.name: rubric.labels for rubric in rubrics}
    bands = health[health["mark"] != NOT_JUDGED][["rubric", "metric", "mark", "note"]].drop_duplicates()
    rows = tuple(text_row(r.rubric, labels[r.rubric][r.metric], Cell(r.mark, mark=r.mark), r.note) for r in rows_of(bands))
    return Table("Bands the marks come from", ("rubric", "metric", "mark", "band and its source"), rows, folded=True)


def _suspects(rubrics: Sequence[Rubric]) -> tuple[Table, ...]:
    """Printed marks that contradict their source's own bands, as the rubrics declare them."""
    rows = tuple(
        text_row(rubric.name, figure.of, rubric.labels[figure.metric], f"{figure.value:g}", figure.sign, figure.suspect)
        for rubric in rubrics
        for figure in rubric.printed
        if figure.suspect
    )
    if not rows:
        return ()
    columns = ("rubric", "printed for", "metric", "figure", "printed sign", "why it is suspect")
    return (Table("Marks printed by the sources against their own bands; the bands stand", columns, rows, folded=True),)

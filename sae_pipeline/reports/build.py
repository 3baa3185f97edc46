"""Writing a report: the page, its Markdown twin, every figure with the data behind it, and the findings as JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from sae_pipeline.analysis.tables import StudyTables
from sae_pipeline.reports.content import gather
from sae_pipeline.reports.html import render_html
from sae_pipeline.reports.markdown import render_markdown
from sae_pipeline.reports.style import figure_png
from sae_pipeline.study import Study


def build_report(
    folder: Path,
    *,
    study: Study,
    tables: StudyTables,
    subject: dict[str, Any],
    findings: pd.DataFrame,
    matrix: pd.DataFrame,
    expansion_curve: pd.DataFrame,
    budget_curve: pd.DataFrame,
    tradeoff: pd.DataFrame,
    generalisation: pd.DataFrame,
    root_causes: pd.DataFrame,
    proposals: pd.DataFrame,
    health: pd.DataFrame,
    lineage: pd.DataFrame,
    text: Mapping[str, pd.DataFrame],
    positions: Mapping[str, pd.DataFrame] | None = None,
    activation_statistics: pd.DataFrame,
    massive_tokens: pd.DataFrame,
    training: pd.DataFrame,
    diverged: pd.DataFrame,
) -> dict[str, Any]:
    """Write ``index.html``, ``report.md``, ``findings.json`` and ``figures/<name>.png`` and ``.csv`` into ``folder``.

    Equal arguments give equal bytes: nothing written knows the time, the host or the folder.

    Args:
        folder: an existing folder.
        study: the study as declared; its name, description, mixes and confidence are stated.
        tables: the metric tables.
        subject: the record of the subject model; ``d_model`` and ``n_layers`` are stated where it has them.
        findings: rows of :class:`sae_pipeline.analysis.hypotheses.Finding`.
        matrix, expansion_curve, budget_curve, tradeoff: frames of :mod:`sae_pipeline.analysis.summaries`.
        generalisation, root_causes, proposals: as in the warehouse.
        health: rows of marks: sae_id, evaluation_set, rubric, metric, value, mark, band, note; may be empty.
        text: the text tables by name: corpus_statistics, left_out, duplicates, adequacy, token_ranks.
        positions: the position tables by name, or None where the study does not ask for them.
        activation_statistics, massive_tokens: what the raw activations are like, as in the warehouse.
        training: the monitored steps of every SAE, as in the warehouse.
        diverged: the arms that were stopped, as in the warehouse.
        lineage: one row per artifact: artifact_stage, what, fingerprint, content, inputs, created, seconds, libraries.

    Returns:
        The headline sentence and its verdict, the number of SAEs, figures and findings, and findings per verdict.
    """
    report = gather(
        study=study, tables=tables, findings=findings, health=health, lineage=lineage, matrix=matrix, expansion_curve=expansion_curve,
        budget_curve=budget_curve, tradeoff=tradeoff, generalisation=generalisation, root_causes=root_causes, proposals=proposals,
        subject=subject, text=text, positions=positions,
        activation_statistics=activation_statistics, massive_tokens=massive_tokens, training=training,
        diverged=diverged,
    )  # fmt: skip
    figures = folder / "figures"
    figures.mkdir(parents=True, exist_ok=True)
    pictures = {plot.name: figure_png(plot.draw()) for plot in report.plots}
    for plot in report.plots:
        (figures / f"{plot.name}.png").write_bytes(pictures[plot.name])
        plot.frame.to_csv(figures / f"{plot.name}.csv", index=False, lineterminator="\n")
    (folder / "index.html").write_text(render_html(report, pictures), encoding="utf-8")
    (folder / "report.md").write_text(render_markdown(report), encoding="utf-8")
    rows = [{name: _json_value(value) for name, value in row.items()} for row in findings.to_dict("records")]
    (folder / "findings.json").write_text(json.dumps({"findings": rows}, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    verdicts = findings["verdict"].value_counts().sort_index()
    return {
        "headline": report.headline_sentence,
        "verdict": report.headline.word if report.headline else "no claim tested",
        "saes": len(tables.saes),
        "figures": len(pictures),
        "findings": len(findings),
        **{str(verdict): int(count) for verdict, count in verdicts.items()},
    }


def _json_value(value: Any) -> Any:
    """A cell of a frame as JSON has it: numpy numbers become Python's, what is not finite becomes null."""
    value = value.item() if hasattr(value, "item") else value
    return None if isinstance(value, float) and not math.isfinite(value) else value

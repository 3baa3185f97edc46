"""Improving a study: its proposed arms beside those they answer to, compared, and a study file with those that are kept.

Nothing here changes the user's study file. What is written lies beside the report, in ``studies/<name>/improvements``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sae_pipeline.stages import activations, corpora, evaluation, findings, saes, tables
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import storage_errors, write_atomically, write_json
from sae_pipeline.study import cells
from sae_pipeline.study.fragments import PROPOSED_FILE, as_yaml

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from sae_pipeline.analysis.contrasts import Evidence
    from sae_pipeline.analysis.improving.proposals import Plan, Proposal
    from sae_pipeline.analysis.tables import StudyTables
    from sae_pipeline.study import Cell

KEPT_FILE, TABLE_FILE, JSON_FILE = "kept.yaml", "improvements.csv", "improvements.json"


@dataclass(frozen=True)
class Improvement:
    """What came of comparing the proposed arms."""

    table: pd.DataFrame
    """Rows of :data:`sae_pipeline.analysis.improving.verdicts.COLUMNS`."""
    folder: Path
    kept: Path | None
    """The study with the arms that are kept; None where none is."""


def folder(ctx: StudyContext) -> Path:
    """Where a study's proposed arms and the verdicts on them lie."""
    return ctx.home.study(ctx.study.name) / "improvements"


def write_proposed(ctx: StudyContext) -> Path | None:
    """Write the proposed study of a finished one; None where the rules propose nothing that can be compared."""
    from sae_pipeline.analysis.improving.proposals import comments

    plan = findings.proposed(ctx)
    if not _possible(plan):
        return None
    path = folder(ctx) / PROPOSED_FILE
    _write(path, as_yaml(plan.study, comments(plan)))
    return path


def judge(ctx: StudyContext, proposed: StudyContext) -> Improvement:
    """Compare every proposed arm with the one that it answers to, and write the verdicts and the arms that are kept.

    Args:
        ctx: the study.
        proposed: its proposed study, which must have been run.
    """
    import pandas as pd

    from sae_pipeline.analysis.improving.proposals import with_kept
    from sae_pipeline.analysis.improving.verdicts import KEPT, compare, judged_together

    plan = findings.proposed(ctx)
    study_tables = tables.study_tables(tables.need(proposed))
    compared = []
    for site in study_tables.sites:
        here = study_tables.at_site(site)
        chosen = [proposal for proposal in _possible(plan) if set(proposal.old) & set(here.saes["sae_id"])]
        compared.append(compare(_evidence(proposed, here, chosen), chosen))
    table = judged_together(pd.concat(compared, ignore_index=True), 1 - proposed.study.analysis.confidence)
    target = folder(ctx)
    _write(target / TABLE_FILE, table.to_csv(index=False, lineterminator="\n"))
    with storage_errors(target):
        write_json(target / JSON_FILE, {"study": ctx.study.name, "improvements": findings.records(table)})
    kept = {sae_id for row in table.loc[table["verdict"] == KEPT, "proposed"] for sae_id in row.split(", ")}
    path = target / KEPT_FILE
    path.unlink(missing_ok=True)
    if kept:
        head = [f"{ctx.study.name} with the proposed arms that were kept; nothing of your own study file was changed.", *sorted(kept)]
        _write(path, as_yaml(with_kept(ctx.study, plan, kept), head))
    return Improvement(table, target, path if kept else None)


def _possible(plan: Plan) -> list[Proposal]:
    return [proposal for proposal in plan.proposals if proposal.answers]


def _write(path: Path, text: str) -> None:
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, text.encode())


def _evidence(ctx: StudyContext, study_tables: StudyTables, proposals: list[Proposal]) -> Evidence:
    """Evidence with the firings per document of the SAEs and sets that proposals need them for."""
    from sae_pipeline.analysis.contrasts import Evidence
    from sae_pipeline.analysis.firing_resamples import FiringResamples, needs_firings

    place = {here.sae_id(label): (here, label) for here in cells(ctx.study) for label in here.arms}
    trained = set(study_tables.saes["sae_id"])
    asked = {
        (sae_id, name)
        for proposal in proposals
        if needs_firings(proposal.rule.improve.metric)
        for pair in proposal.answers.items()
        for sae_id in pair
        for name in proposal.evaluation_sets
        if sae_id in trained
    }
    settings = ctx.study.analysis
    counts = {key: firings(ctx, *place[key[0]], key[1]) for key in sorted(asked)}
    return Evidence(study_tables, FiringResamples(study_tables, settings.bootstrap_samples, settings.seed, counts), settings.confidence)


def firings(ctx: StudyContext, cell: Cell, label: str, held_out: str) -> np.ndarray:
    """(n_documents, d_sae) firings of one SAE per document of a set, in the order of the documents' hashes."""
    from sae_pipeline.corpora.corpus import Corpus
    from sae_pipeline.metrics.baselines import Baseline
    from sae_pipeline.metrics.latents.document_firing import firings_per_document

    lane = f"held_out/{held_out}"
    baseline = Baseline.load(evaluation.need_baseline(ctx, held_out, cell.point))
    stored = activations.shards(activations.need(ctx, lane, cell.point))
    rows = baseline.rows(len(Corpus.load(corpora.need(ctx, lane)).documents))
    trained = saes.need(ctx, cell.mix, cell.point, cell.expansion)
    with ctx.compute.lease() as device:
        sae = evaluation.load_sae(trained.saes[label], device)
        counts = firings_per_document(sae, stored, rows, len(baseline.documents)).numpy()
    return counts[baseline.documents.sort_values(["document_hash", "document"]).index.to_numpy()]

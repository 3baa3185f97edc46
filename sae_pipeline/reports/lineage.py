"""The section on lineage: which artifacts every table rests on, and the chain of them back to the text."""

from __future__ import annotations

import pandas as pd

from sae_pipeline.reports import evidence
from sae_pipeline.reports.blocks import Cell, Chain, Section, Table, text_row
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.reports.wording import NONE, counted, decimal, listed


def lineage_section(lineage: pd.DataFrame, frames: StudyFrames) -> Section:
    """What every table is computed from, stage by stage.

    Args:
        lineage: rows of the warehouse's ``lineage``: one per artifact.
        frames: the tables of the study.
    """
    chain = evidence.lineage_chain(lineage)
    stages = list(dict.fromkeys(link["stage"] for link in chain))
    counts = {stage: sum(link["stage"] == stage for link in chain) for stage in stages}
    sizes = {name: len(getattr(frames.tables, name)) for name in ("saes", "sae_metrics", "document_sums", "baseline_sums", "feature_stats")}
    sizes |= {"health": 0 if frames.health is None else len(frames.health), "findings": len(frames.findings)}
    rests_on = dict(evidence.RESTS_ON)
    for asked, upstream in evidence.ASKED_FOR.items():
        tables = getattr(frames, asked) or {}
        sizes |= {name: len(frame) for name, frame in tables.items()}
        rests_on = dict.fromkeys(tables, upstream) | rests_on
    rests = tuple(
        text_row(name, Cell(f"{size:,}", size), " → ".join(f"{stage} ({counts[stage]})" for stage in rests_on[name] if stage in counts) or NONE)
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

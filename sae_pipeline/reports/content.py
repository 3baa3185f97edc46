"""What a report says: the study's frames in, a :class:`Report` out, every sentence made from the numbers it states."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pandas as pd

from sae_pipeline.analysis.health.rubrics import load_rubrics
from sae_pipeline.analysis.tables import StudyTables, evaluation_sets
from sae_pipeline.reports import conclusions, factors
from sae_pipeline.reports.activations import activations_section
from sae_pipeline.reports.blocks import Claim, Report, Section
from sae_pipeline.reports.corpora import corpora_section
from sae_pipeline.reports.generalisation import generalisation_section
from sae_pipeline.reports.health import health_section
from sae_pipeline.reports.positions import position_section
from sae_pipeline.reports.recommendations import recommendations_section
from sae_pipeline.reports.training import training_section
from sae_pipeline.reports.wording import compact, counted, listed
from sae_pipeline.study import Study

SECTION_OF = {
    "matrix": ("S0-13",),
    "layer": ("S0-17",),
    "expansion": ("S0-14",),
    "budget": ("S0-15", "S0-16", "S0-21"),
    "seed": ("SEED",),
    "tradeoff": ("S0-19",),
}
"""Claims shown beside the factor they are about; every claim is in the findings as well."""


def gather(
    *,
    study: Study,
    tables: StudyTables,
    findings: pd.DataFrame,
    health: pd.DataFrame,
    lineage: pd.DataFrame,
    matrix: pd.DataFrame,
    expansion_curve: pd.DataFrame,
    budget_curve: pd.DataFrame,
    tradeoff: pd.DataFrame,
    generalisation: pd.DataFrame,
    root_causes: pd.DataFrame,
    proposals: pd.DataFrame,
    subject: dict[str, Any],
    text: Mapping[str, pd.DataFrame],
    positions: Mapping[str, pd.DataFrame] | None = None,
    activation_statistics: pd.DataFrame,
    massive_tokens: pd.DataFrame,
    training: pd.DataFrame,
    diverged: pd.DataFrame,
) -> Report:
    """The report of a study as data; see :func:`sae_pipeline.reports.build.build_report` for the frames."""
    confidence = study.analysis.confidence
    frames = {"matrix": matrix, "expansion": expansion_curve, "budget": budget_curve, "tradeoff": tradeoff}
    sections: list[Section] = []
    for site in tables.sites:
        here = {name: in_study_order(_at(site, frame), study) for name, frame in frames.items()}
        sections += _of_site(site, tables, _factor_sections(study, tables.at_site(site), _at(site, findings), here))
    sections += [
        training_section(training, tables.saes, diverged),
        corpora_section(
            text["corpus_statistics"],
            text["duplicates"],
            text["adequacy"],
            text["token_ranks"],
            text["left_out"],
            mixes=list(study.mixes),
            sources=list(study.sources),
        ),
        activations_section(
            activation_statistics,
            massive_tokens,
            corpora=[*study.mixes, *(f"held_out/{name}" for name in study.held_out)],
            control=study.subject.weights == "randomised",
        ),
        *(
            section
            for site in tables.sites
            if positions is not None
            for section in _of_site(site, tables, [position_section({name: _at(site, frame) for name, frame in positions.items()}, tables.saes)])
        ),
        health_section(health, load_rubrics(study.analysis.rubrics), tables, evaluation_sets(tables, "in_sample")),
        *(section for site in tables.sites for section in _of_site(site, tables, [generalisation_section(_at(site, generalisation), confidence)])),
        recommendations_section(root_causes, proposals),
        *(section for site in tables.sites for section in _of_site(site, tables, [conclusions.finding_section(_at(site, findings), confidence)])),
        conclusions.limitations_section(study, tables, findings, subject),
        conclusions.lineage_section(lineage, tables, health, findings),
    ]
    said = conclusions.claims(_at(tables.sites[0], findings), confidence)
    main = headline(said)
    return Report(
        name=study.name,
        description=study.description,
        headline=main,
        headline_sentence=f"{main.text} {main.word.capitalize()}: {main.evidence}." if main else "No claim was tested in this study.",
        facts=_facts(study, tables, subject),
        heat=factors.heat_tables(in_study_order(_at(tables.sites[0], matrix), study)),
        sections=tuple(sections),
    )


def _at(site: str, frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of one site; all of them in a frame that knows of none."""
    return frame[frame["site"] == site].reset_index(drop=True) if "site" in frame.columns else frame


def _factor_sections(study: Study, tables: StudyTables, findings: pd.DataFrame, frames: dict[str, pd.DataFrame]) -> list[Section]:
    """The sections that compare SAEs, all of one site."""
    confidence = study.analysis.confidence
    said = conclusions.claims(findings, confidence)
    beside = {section: tuple(said[name] for name in names if name in said) for section, names in SECTION_OF.items()}
    return [
        factors.matrix_section(frames["matrix"], beside["matrix"], confidence),
        factors.expansion_section(frames["expansion"], beside["expansion"], list(study.mixes)),
        factors.budget_section(frames["budget"], beside["budget"], list(study.mixes)),
        factors.architecture_section(tables, ()),
        factors.seed_section(tables, beside["seed"]),
        Section("layer", "Layer", (_layers(study),), beside["layer"]),
        factors.tradeoff_section(frames["tradeoff"], tables, beside["tradeoff"]),
    ]


def _of_site(site: str, tables: StudyTables, sections: list[Section]) -> list[Section]:
    """Where a study has several sites, titles say which, and from the second site on so do anchors and figures."""
    if len(tables.sites) == 1:
        return sections
    suffix = "" if site == tables.sites[0] else f"-{site}"
    return [
        replace(
            section,
            id=section.id + suffix,
            title=f"{section.title} ({site})",
            plots=tuple(replace(plot, name=plot.name + suffix) for plot in section.plots),
        )
        for section in sections
    ]


def headline(said: dict[str, Claim]) -> Claim | None:
    """The main finding: the in-domain advantage where it could be tested, otherwise the first claim that could, otherwise the first."""
    in_order = sorted(said.values(), key=lambda claim: (claim.verdict == "not_testable", claim.id != conclusions.IN_DOMAIN))
    return in_order[0] if in_order else None


def in_study_order(frame: pd.DataFrame, study: Study) -> pd.DataFrame:
    """Rows by layer, then mixes and evaluation sets in the order of the study file (what it does not name comes last)."""
    rank = {"mix": list(study.mixes), "evaluation_set": list(study.held_out)}
    keys = [name for name in ("layer", "mix", "evaluation_set", "expansion", "tokens") if name in frame.columns]

    def key(column: pd.Series) -> pd.Series:
        names = rank.get(str(column.name))
        return column.map({name: n for n, name in enumerate(names)}).fillna(len(names)) if names else column

    return frame.sort_values(keys, key=key, kind="stable", ignore_index=True)


def _layers(study: Study) -> str:
    layers = study.activations.layers
    if len(layers) == 1:
        return f"The study has one layer ({layers[0]}), so nothing here is an effect of depth."
    return f"Layers {listed([str(layer) for layer in layers])} of the subject model; explained variance is a share of each layer's own variance."


def _facts(study: Study, tables: StudyTables, subject: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    documents = tables.baseline_sums[["evaluation_set", "document"]].drop_duplicates()
    seeds = tables.saes[["init_seed", "data_seed"]].drop_duplicates()
    model = str(study.subject.model).rstrip("/").rsplit("/", 1)[-1]
    width = f", width {subject['d_model']}" if "d_model" in subject else ""
    return (
        ("SAEs", f"{len(tables.saes):,}"),
        ("training mixes", listed(list(study.mixes), 5)),
        ("evaluation sets", f"{listed(list(study.held_out), 5)} ({counted(len(documents), 'document')})"),
        ("layers", listed([str(layer) for layer in study.activations.layers], 8)),
        ("expansion factors", listed([f"×{e:g}" for e in study.saes.expansions], 8)),
        ("token budgets", listed([compact(t) for t in sorted(set(tables.saes["tokens"]))], 6)),
        ("architectures", listed(sorted(set(tables.saes["architecture"])), 6)),
        ("seeds", str(len(seeds))),
        ("subject model", f"{model}{width}"),
    )

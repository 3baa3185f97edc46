"""What a report says: the study's frames in, a :class:`Report` out, every sentence made from the numbers it states."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace

import pandas as pd

from sae_pipeline.analysis.amounts import compact
from sae_pipeline.analysis.health.rubrics import load_rubrics
from sae_pipeline.analysis.tables import StudyTables, evaluation_sets
from sae_pipeline.reports import conclusions, factors
from sae_pipeline.reports.activations import activations_section
from sae_pipeline.reports.blocks import Claim, Report, Section
from sae_pipeline.reports.concepts import concepts_section
from sae_pipeline.reports.corpora import corpora_section
from sae_pipeline.reports.features.links import ShownLatents
from sae_pipeline.reports.features.pages import feature_pages
from sae_pipeline.reports.frames import StudyFrames
from sae_pipeline.reports.generalisation import generalisation_section
from sae_pipeline.reports.health import health_section
from sae_pipeline.reports.limitations import limitations_section
from sae_pipeline.reports.lineage import lineage_section
from sae_pipeline.reports.matching.section import matching_section
from sae_pipeline.reports.positions import position_section
from sae_pipeline.reports.recommendations import recommendations_section
from sae_pipeline.reports.remedies import remedies_section
from sae_pipeline.reports.training import training_section
from sae_pipeline.reports.wording import counted, listed, times
from sae_pipeline.study import Study

SECTION_OF = {
    "matrix": ("S0-13",),
    "layer": ("S0-17",),
    "expansion": ("S0-14",),
    "budget": ("S0-15", "S0-16", "S0-21"),
    "seed": ("SEED",),
    "tradeoff": ("S0-19",),
    "matching": ("S3-39", "S2-6", "S3-30", "S3-40", "S3-38"),
}
"""Claims shown beside the factor they are about; every claim is in the findings as well."""


SLUG_LENGTH = 60
"""Characters of a site's name that are kept in names of files."""


def gather(study: Study, frames: StudyFrames) -> Report:
    """The report of a study as data: the summary, then what :func:`_sections` says; a section whose frames are None is left out."""
    first = frames.at_site(frames.tables.sites[0])
    said = conclusions.claims(first.findings, study.analysis.confidence)
    main = headline(said)
    pages = feature_pages(frames)
    return Report(
        name=study.name,
        description=study.description,
        headline=main,
        headline_sentence=f"{main.text} {main.word.capitalize()}: {main.evidence}." if main else "No claim was tested in this study.",
        facts=_facts(study, frames),
        heat=factors.heat_tables(in_study_order(first.matrix, study)),
        heat_notes=factors.unmatched(first.matrix),
        sections=tuple(_sections(study, frames, ShownLatents(pages))),
        pages=pages,
    )


def _sections(study: Study, frames: StudyFrames, shown: ShownLatents) -> Iterator[Section]:
    """Factor by factor, the trade-off, health, what the latents are, conclusions with their limits, and at the end what they rest on."""
    tables, confidence = frames.tables, study.analysis.confidence
    sites = {site: frames.at_site(site) for site in tables.sites}
    for site, here in sites.items():
        yield from _of_site(site, tables, _factor_sections(study, here))
    if frames.health is not None:
        yield health_section(frames.health, load_rubrics(study.analysis.rubrics), tables, evaluation_sets(tables, "in_sample"), shown)
    for site, here in sites.items():
        yield from _of_site(site, tables, list(_latent_sections(study, here, shown)))
    yield from frames.sections
    for site, here in sites.items():
        yield from _of_site(site, tables, [conclusions.finding_section(here.findings, confidence, here.variance_shares)])
    for site, here in sites.items():
        if here.recommendations is not None:
            yield from _of_site(site, tables, [recommendations_section(here.recommendations)])
    if frames.root_causes is not None and frames.proposals is not None:
        yield remedies_section(frames.root_causes, frames.proposals)
    yield limitations_section(study, frames)
    yield from _what_went_in(study, frames)
    if frames.lineage is not None:
        yield lineage_section(frames.lineage, frames)


def _factor_sections(study: Study, frames: StudyFrames) -> list[Section]:
    """The sections that compare SAEs, all of one site."""
    confidence, mixes = study.analysis.confidence, list(study.mixes)
    beside = _claims_beside(frames.findings, confidence)
    matrix, expansion, budget, tradeoff = (
        in_study_order(frame, study) for frame in (frames.matrix, frames.expansion_curve, frames.budget_curve, frames.tradeoff)
    )
    return [
        factors.matrix_section(matrix, beside["matrix"], confidence),
        factors.expansion_section(expansion, beside["expansion"], mixes),
        factors.budget_section(budget, beside["budget"], mixes, frames.tables.saes),
        factors.architecture_section(frames.tables, ()),
        factors.seed_section(frames.tables, beside["seed"]),
        Section("layer", "Layer", (_layers(frames.tables),), beside["layer"]),
        factors.tradeoff_section(tradeoff, frames.tables, beside["tradeoff"]),
    ]


def _claims_beside(findings: pd.DataFrame, confidence: float) -> dict[str, tuple[Claim, ...]]:
    """The claims shown in each section."""
    said = conclusions.claims(findings, confidence)
    return {section: tuple(said[name] for name in names if name in said) for section, names in SECTION_OF.items()}


def _latent_sections(study: Study, frames: StudyFrames, shown: ShownLatents) -> Iterator[Section]:
    """What SAEs do on other text, and what their latents are: shared or their own, concepts, positions; all of one site."""
    saes, confidence = frames.tables.saes, study.analysis.confidence
    if frames.generalisation is not None:
        yield generalisation_section(frames.generalisation, confidence)
    if frames.matching is not None:
        yield matching_section(frames.matching, saes, _claims_beside(frames.findings, confidence)["matching"], shown)
    if frames.concepts is not None:
        yield concepts_section(frames.concepts, saes, confidence, study.concepts.keywords if study.concepts else ())
    if frames.positions is not None:
        yield position_section(frames.positions, saes)


def _what_went_in(study: Study, frames: StudyFrames) -> Iterator[Section]:
    """Training, text and activations: what every figure rests on."""
    if frames.training is not None and frames.diverged is not None:
        yield training_section(frames.training, frames.tables.saes, frames.diverged)
    if frames.text is not None:
        yield corpora_section(
            frames.text["corpus_statistics"],
            frames.text["duplicates"],
            frames.text["adequacy"],
            frames.text["token_ranks"],
            frames.text["left_out"],
            mixes=list(study.mixes),
            sources=list(study.sources),
        )
    if frames.activation_statistics is not None and frames.massive_tokens is not None:
        yield activations_section(
            frames.activation_statistics,
            frames.massive_tokens,
            corpora=[*study.mixes, *(f"held_out/{name}" for name in study.held_out)],
            control=study.subject.weights == "randomised",
        )


def _of_site(site: str, tables: StudyTables, sections: list[Section]) -> list[Section]:
    """Where a study has several sites, titles say which, and from the second site on so do anchors and figures."""
    if len(tables.sites) == 1:
        return sections
    suffix = "" if site == tables.sites[0] else f"-{_slugs(tables.sites)[site]}"
    return [replace(section.suffixed(suffix), title=f"{section.title} ({site})") for section in sections]


def _slugs(sites: list[str]) -> dict[str, str]:
    """A name for each site that is safe in anchors, links and names of files; tables from elsewhere call a site anything."""
    slugs: dict[str, str] = {}
    for site in sites:
        plain = re.sub(r"[^A-Za-z0-9_]+", "-", site).strip("-")[:SLUG_LENGTH] or "site"
        taken, number = {slug.lower() for slug in slugs.values()}, 1  # some file systems do not tell case
        while (slug := plain if number == 1 else f"{plain}-{number}").lower() in taken:
            number += 1
        slugs[site] = slug
    return slugs


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


def _layers(tables: StudyTables) -> str:
    layers = sorted(set(tables.saes["layer"]))
    if len(layers) == 1:
        return f"The study has one layer ({layers[0]}), so nothing here is an effect of depth."
    return f"Layers {listed([str(layer) for layer in layers])} of the subject model; explained variance is a share of each layer's own variance."


def _facts(study: Study, frames: StudyFrames) -> tuple[tuple[str, str], ...]:
    saes = frames.tables.saes
    documents = frames.tables.baseline_sums[["evaluation_set", "document"]].drop_duplicates()
    seeds = saes[["init_seed", "data_seed"]].drop_duplicates()
    read = f" ({counted(len(documents), 'document')})" if len(documents) else ""
    facts = [
        ("SAEs", f"{len(saes):,}"),
        ("training mixes", listed(list(study.mixes), 5)),
        ("evaluation sets", f"{listed(list(study.held_out), 5)}{read}"),
        ("layers", listed([str(layer) for layer in sorted(set(saes["layer"]))], 8)),
        ("expansion factors", listed([times(e) for e in sorted(set(saes["expansion"]))], 8)),
        ("token budgets", listed([compact(t) for t in sorted(set(saes["tokens"]))], 6)),
        ("architectures", listed(sorted(set(saes["architecture"])), 6)),
        ("seeds", str(len(seeds))),
    ]
    if frames.subject is not None:
        model = str(study.subject.model).rstrip("/").rsplit("/", 1)[-1]
        facts.append(("subject model", model + (f", width {frames.subject['d_model']}" if "d_model" in frames.subject else "")))
    return tuple(facts)

"""Which analyses the columns of a table allow, and what each of the others lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sae_pipeline.foreign_tables.declared import Shares
from sae_pipeline.foreign_tables.results import Results


@dataclass(frozen=True)
class Analysis:
    """An analysis of a study's report, and whether a table allows it."""

    name: str
    lacks: str
    """What it would need and the table does not have; empty where it is possible."""

    @property
    def possible(self) -> bool:
        """Whether the table allows it."""
        return not self.lacks


OUT_OF_REACH = (
    ("intervals over documents", "sums per document, which no table of metrics holds; intervals come from paired cells instead"),
    ("generalisation gaps with intervals", "sums per document"),
    ("health marks", "the evaluation of the SAEs themselves: sae-pipeline evaluate"),
    ("features shared by two SAEs (matching), orphans, concepts", "the weights of the SAEs"),
    ("positions, text and training curves", "the text, the subject model and the training runs"),
)
"""Analyses that no table of metrics allows, and what they need."""


def analyses(results: Results, shares: Shares) -> list[Analysis]:
    """Every analysis, in the order of the report."""
    checks: list[tuple[str, Iterator[str]]] = [
        ("training mix against evaluation set (matrix)", _columns(results, "mix", "evaluation_set")),
        ("in-domain advantage (S0-13)", _in_domain(results, shares)),
        ("expansion factor (S0-14)", _levels(results, "expansion", 2)),
        ("token budget (S0-15)", _levels(results, "tokens", 2)),
        ("diminishing returns of the token budget (S0-16)", _levels(results, "tokens", 3)),
        ("layer (S0-17)", _levels(results, "layer", 2)),
        ("effects alike at every layer (S0-18)", _levels(results, "layer", 2)),
        ("explained variance against sparsity (S0-19)", _both(_levels(results, "sparsity", 2), _l0(results))),
        ("active latents by width (S0-20)", _both(_levels(results, "expansion", 2), _l0(results))),
        ("matching text against more tokens (S0-21)", _both(_in_domain(results, shares), _levels(results, "tokens", 2))),
        ("mixes between their ends (S0-22)", _both(_in_domain(results, shares), _levels(results, "mix", 3))),
        (
            "composition among all choices (S0-23)",
            _both(_levels(results, "mix", 2), _factors(results, "another setting than the mix"), _seeds(results)),
        ),
        ("little data (S2-1)", _levels(results, "tokens", 2)),
        ("architecture", _levels(results, "architecture", 2)),
        ("spread between seeds (SEED)", _seeds(results)),
        ("trade-off of explained variance and L0", _l0(results)),
        ("share of variance per factor", _factors(results, "a setting", "mix")),
    ]
    return [Analysis(name, "; ".join(lacking)) for name, lacking in checks] + [Analysis(name, lacks) for name, lacks in OUT_OF_REACH]


def _both(*parts: Iterator[str]) -> Iterator[str]:
    for part in parts:
        yield from part


def _columns(results: Results, *names: str) -> Iterator[str]:
    for name in names:
        if name not in results.given:
            yield f"the column {name}"


def _levels(results: Results, name: str, least: int) -> Iterator[str]:
    """What is missing for a comparison of levels; a level of SAEs that no other SAE matches is found by the claim itself."""
    if name not in results.given:
        yield f"the column {name}"
    elif (found := results.saes[name].nunique()) < least:
        yield f"{least} values of {name} (found {found})"


def _l0(results: Results) -> Iterator[str]:
    if results.sae_metrics["l0"].isna().all():
        yield "the column l0, or l0_fraction with d_sae" if "l0_fraction" not in results.given else "the column d_sae, to make l0 of l0_fraction"


def _seeds(results: Results) -> Iterator[str]:
    if "init_seed" not in results.given:
        yield "the column init_seed"
    elif (found := results.saes["init_seed"].nunique()) < 2:
        yield f"2 values of init_seed (found {found})"


def _in_domain(results: Results, shares: Shares) -> Iterator[str]:
    """Two sets and two mixes that lean opposite ways, as the user declares them."""
    lacking = [*_columns(results, "mix", "evaluation_set")]
    yield from lacking
    if not lacking and not _lean_apart(shares, sorted(set(results.sae_metrics["evaluation_set"]))):
        yield "two mixes that are declared to lean to different evaluation sets (--in-domain MIX=SET)"


def _lean_apart(shares: Shares, sets: list[str]) -> bool:
    leans = [(one, other) for one in shares.values() for other in shares.values() if one and other]
    return any(
        one.get(a, 0.0) > other.get(a, 0.0) and other.get(b, 0.0) > one.get(b, 0.0) for one, other in leans for a in sets for b in sets if a != b
    )


def _factors(results: Results, lacking: str, *more: str) -> Iterator[str]:
    if all(results.saes[name].nunique() < 2 for name in (*more, "layer", "expansion", "architecture", "sparsity", "tokens", "variant")):
        yield f"SAEs that differ in {lacking}"

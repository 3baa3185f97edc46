"""What testing a claim needs: its scopes, the comparisons the study allows, the row it ends in and the rule for the verdict."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import isfinite
from typing import Any

import pandas as pd

from sae_pipeline.analysis.amounts import compact
from sae_pipeline.analysis.bootstrap import SingleValues
from sae_pipeline.analysis.contrasts import Contrast, Evidence, averaged, combined
from sae_pipeline.analysis.significance import holm
from sae_pipeline.analysis.tables import evaluation_sets
from sae_pipeline.study.schema import Study

ALL_LAYERS = "all layers"

Verdict = str
VERDICTS = ("supported", "contradicted", "inconclusive", "not_testable")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One tested hypothesis in one scope: a row of the table ``findings``."""

    id: str
    claim: str
    """The hypothesis in one plain sentence."""
    scope: str
    """``all layers`` for the headline of a claim, ``L03`` for one layer, with further words for a detail."""
    estimate: float
    low: float
    high: float
    p_value: float
    """Two-sided, against zero, of this row alone."""
    p_adjusted: float
    """The same after Holm (1979): of a headline among the headlines tested, of any other row among those of its claim."""
    verdict: Verdict
    """By the adjusted p-value, the interval and every single seed."""
    cells: int
    """(mix, layer, expansion) cells compared."""
    documents: int
    seeds: int
    note: str


@dataclass(frozen=True)
class InDomainPair:
    """Two single-source evaluation sets, and the mixes that lean most to either source."""

    sets: tuple[str, str]
    mixes: list[tuple[str, str]]
    """Every (mix heavier in the first source, mix heavier in the second), most extreme first."""


@dataclass(frozen=True)
class Test:
    """What a claim's function works with."""

    id: str
    evidence: Evidence
    study: Study
    matching: Mapping[str, pd.DataFrame] | None = None
    """Tables of which SAEs share how many features, by name; None where none were made."""

    __test__ = False  # not a test class of pytest's

    @property
    def layers(self) -> list[int]:
        """Layers of the study's SAEs, shallow first."""
        return sorted(self.evidence.design["layer"].unique().tolist())

    def scopes(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """All layers together, then each on its own where there are several, with the restriction each one means."""
        yield ALL_LAYERS, {}
        if len(self.layers) > 1:
            for layer in self.layers:
                yield f"L{layer:02d}", {"layer": layer}

    def levels(self, factor: str) -> list[Any]:
        """Values of a setting among the SAEs, ascending."""
        return sorted(self.evidence.design[factor].unique().tolist())

    def in_sample(self) -> tuple[list[str], str]:
        """The in-sample evaluation sets, and what to note where there is none and all sets stand in."""
        sets = evaluation_sets(self.evidence.tables, "in_sample")
        return (sets, "") if sets else (evaluation_sets(self.evidence.tables), "no evaluation set is in_sample, so all are averaged")

    def not_testable(self, claim: str, reason: str, scope: str = ALL_LAYERS) -> Finding:
        """The row of a claim that this study cannot test."""
        nan = float("nan")
        return Finding(
            id=self.id, claim=claim, scope=scope, estimate=nan, low=nan, high=nan, p_value=nan, p_adjusted=nan, verdict="not_testable",
            cells=0, documents=0, seeds=0, note=reason,
        )  # fmt: skip

    def measured(self) -> Test:
        """The same test on the figures that the tables state for whole SAEs, which no document sums recombine to."""
        return replace(self, evidence=replace(self.evidence, resamples=SingleValues(self.evidence.tables, self.evidence.resamples.documents)))

    def row(self, claim: str, scope: str, averages: Sequence[Contrast], *notes: str, metric: str = "explained_variance") -> Finding:
        """Estimate the sum of some averages over matched SAEs and judge it."""
        contrast = combined(*averages)
        spread = self.evidence.spread(contrast, metric)
        figure, p = self.evidence.figure(contrast, spread), spread.p_value
        by_seed = self.evidence.by_seed(averages, metric)
        remarks = [note for note in notes if note]
        if figure.seeds > 1:
            figures = ", ".join(f"{name} {value:+.4f}" for name, value in by_seed.items())
            remarks.append(f"per seed, over settings with every seed: {figures}" if figures else "no setting has every seed, so none is judged alone")
        if not self.evidence.resamples.holds_seeds(contrast):
            remarks.append(self._about_seeds(contrast, figure.seeds))
        if not isfinite(figure.low) or figure.low == figure.high:
            p = nan = float("nan")
            figure = replace(figure, low=nan, high=nan)
            remarks.append("nothing that could be resampled varies, so there is no interval and no verdict")
        else:
            remarks.append(self.evidence.resamples.caution(contrast))
        return Finding(
            id=self.id, claim=claim, scope=scope, estimate=figure.estimate, low=figure.low, high=figure.high, p_value=p, p_adjusted=p,
            verdict=verdict_of(figure.low, figure.high, list(by_seed.values())),
            cells=self.evidence.cells(contrast), documents=figure.documents, seeds=figure.seeds, note="; ".join(filter(None, remarks)),
        )  # fmt: skip

    def _about_seeds(self, contrast: Contrast, seeds: int) -> str:
        """What the interval leaves out of the noise between seeds."""
        if seeds == 1:
            return "one seed, so the interval leaves out the noise of training"
        alone = self.evidence.settings_without_replicates(contrast)
        return f"{alone} of the settings averaged have one seed and add no seed noise to the interval" if alone else ""

    def all_of(self, claim: str, scope: str, parts: Sequence[tuple[str, Finding]]) -> Finding:
        """The row of a claim with several parts, which holds where every part does: the part that speaks loudest against it.

        An intersection-union test (Berger 1982): all parts must hold at the full level, so nothing is corrected for their
        number. The reverse, that some part fails, is looked for in every one of them, and its p-value is multiplied by
        their number.

        Args:
            claim: the claim in a sentence.
            scope: of the row.
            parts: rows of single parts, at least one, each with its name.
        """
        against = [part for part in parts if part[1].verdict == "contradicted"]
        name, row = min(against, key=lambda part: part[1].p_value) if against else max(parts, key=lambda part: _doubt(part[1]))
        p = min(row.p_value * len(parts), 1.0) if against else row.p_value
        others = ", ".join(f"{other} {_estimate(part)}" for other, part in parts if other != name)
        note = f"of {len(parts)} parts, the one that speaks most against the claim: {name}; {row.note}" if len(parts) > 1 else f"{name}; {row.note}"
        return replace(
            row, id=self.id, claim=claim, scope=scope, p_value=p, p_adjusted=p,
            cells=max(part.cells for _, part in parts), documents=max(part.documents for _, part in parts), seeds=min(part.seeds for _, part in parts),
            note=note + (f"; the others: {others}" if others else ""),
        )  # fmt: skip

    def in_domain_pairs(self) -> list[InDomainPair]:
        """Pairs of single-source sets of different sources for which two mixes lean opposite ways."""
        source_of = {
            name: next(source for source, share in declared.shares.items() if share > 0)
            for name, declared in sorted(self.study.held_out.items())
            if sum(share > 0 for share in declared.shares.values()) == 1 and name in self.evidence.resamples.documents
        }
        pairs = []
        for (first, a), (second, b) in combinations(source_of.items(), 2):
            if a == b:
                continue
            leaning = []
            for one, other in ((m, o) for m in self.study.mixes for o in self.study.mixes if m != o):
                mine, theirs = self.study.mixes[one], self.study.mixes[other]
                towards, away = mine.get(a, 0.0) - theirs.get(a, 0.0), theirs.get(b, 0.0) - mine.get(b, 0.0)
                if towards > 0 and away > 0 and len(self.evidence.matched("mix", [one, other], [first, second])):
                    leaning.append((-(towards + away), one, other))
            if leaning:
                pairs.append(InDomainPair((first, second), [(one, other) for _, one, other in sorted(leaning)]))
        return pairs

    def in_domain_contrast(self, pair: InDomainPair, mixes: tuple[str, str], **where: Any) -> Contrast | None:
        """(EV on A − EV on B) of the A-heavy mix minus the same of the B-heavy mix; None where no SAEs match."""
        (a, b), (heavy_a, heavy_b) = pair.sets, mixes
        units = self.evidence.matched("mix", [heavy_a, heavy_b], [a, b], **where)
        return averaged(units, {(heavy_a, a): 1, (heavy_a, b): -1, (heavy_b, a): -1, (heavy_b, b): 1}) if len(units) else None


def listed(values: Sequence[Any]) -> str:
    """Levels of a setting as a sentence has them."""
    return ", ".join(f"{value:g}" if isinstance(value, (int, float)) else str(value) for value in values) or "none"


def told(factor: str, levels: Sequence[float]) -> str:
    """Levels of a numeric setting as a sentence has them; a budget or sparsity of 0 stands for one that a table does not tell."""
    known = [level for level in levels if level or factor not in ("tokens", "sparsity")]
    return ", ".join(level_name(factor, level) for level in known) or "none that is known"


def level_name(factor: str, level: float) -> str:
    """A level of a numeric setting: token budgets as ``4M``."""
    return compact(level) if factor == "tokens" else f"{level:g}"


def verdict_of(low: float, high: float, by_seed: Sequence[float]) -> Verdict:
    """Supported (contradicted) where the interval and every single seed that can be judged lie above (below) zero."""
    if low > 0 and all(value > 0 for value in by_seed):
        return "supported"
    if high < 0 and all(value < 0 for value in by_seed):
        return "contradicted"
    return "inconclusive"


def judged_together(rows: Sequence[Finding], level: float) -> list[Finding]:
    """The rows with their p-values adjusted for how many were looked at, and the verdicts that follow.

    The headlines of all claims are one family; the further rows of each claim are a family of their own. A row whose own
    interval lies beside zero, but whose adjusted p-value is above the level, becomes inconclusive and says why.
    """
    families: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        families.setdefault("" if row.scope == ALL_LAYERS else row.id, []).append(place)
    judged = list(rows)
    for family in families.values():
        tested = sum(isfinite(rows[place].p_value) for place in family)
        for place, adjusted in zip(family, holm([rows[place].p_value for place in family]), strict=True):
            row = replace(rows[place], p_adjusted=adjusted)
            if row.verdict in ("supported", "contradicted") and not adjusted <= level:
                among = f"its interval leaves out zero (p = {row.p_value:.2g}), but among {tested} rows tested together that is no rarity (adjusted {adjusted:.2g})"
                row = replace(row, verdict="inconclusive", note=f"{among}; {row.note}")
            judged[place] = row
    return judged


def _estimate(part: Finding) -> str:
    """Estimate and interval of a part, as far as it has them."""
    if not isfinite(part.estimate):
        return "without an estimate"
    return f"{part.estimate:+.4f}" + (f" [{part.low:+.4f}, {part.high:+.4f}]" if isfinite(part.low) and isfinite(part.high) else "")


def _doubt(row: Finding) -> tuple[bool, bool, float]:
    """How little a part holds its claim up: most where it has no interval, then where it does not hold (a single seed may disagree), then by p."""
    return not isfinite(row.p_value), row.verdict != "supported", row.p_value / 2 if row.estimate > 0 else 1 - row.p_value / 2

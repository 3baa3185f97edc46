"""What changed between two studies, or between two dates of one: SAEs, metrics, verdicts and health marks, setting by setting.

An SAE answers to the one of the other study that shares its settings. A setting that every SAE of a study shares, and that
differs between the two, is what the studies differ in: it is named, and SAEs answer to each other across it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from sae_pipeline.analysis.bootstrap import Array, DocumentResamples, Resamples, SingleValues, without_width
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.health.bands import SEVERITY
from sae_pipeline.analysis.tables import DESIGN, StudyTables, design
from sae_pipeline.study.schema import Analysis

SUMMED = ("explained_variance", "nmse", "cosine_similarity", "l0", "ce_loss_recovered_zero", "ce_delta", "kl_divergence")
"""Metrics compared with intervals over documents."""

STATED = ("dead_share", "dense_share@0.1", "decoder_top100_pair_cos")
"""Metrics of whole SAEs: their intervals hold the noise between seeds alone."""

HIGHER, LOWER, UNCLEAR, EQUAL = "higher", "lower", "no clear change", "the same"
"""What is said of a difference: its interval lies above zero, below it, across it, or nothing differs at all."""

CHANGED, NOW_TESTABLE, NO_LONGER_TESTABLE, IN_ONE_ALONE = "another verdict", "testable only after", "testable only before", "in one study alone"
"""What became of a finding whose row differs."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What was measured and found in one study at one date."""

    name: str
    """The study, as its folder or file is called."""
    warehouse: Path
    latest: str
    """When its last artifact was made."""
    frames: Mapping[str, pd.DataFrame]
    """Tables of its warehouse by name."""


@dataclass(frozen=True, eq=False)
class Answering:
    """Which SAEs of two studies answer to each other.

    pairs: one row per pair: ``before``, ``after`` (ids), ``site``, ``layer``, ``same`` (equal fingerprints).
    """

    pairs: pd.DataFrame
    differing: Mapping[str, tuple[str, str]]
    """Settings that all SAEs of a study share and in which the studies differ: (before, after)."""
    only_before: tuple[str, ...]
    only_after: tuple[str, ...]


def answering(before: pd.DataFrame, after: pd.DataFrame) -> Answering:
    """Pair the SAEs of two tables ``saes`` by their settings; columns that only one of them has count for nothing."""
    shared = [name for name in after.columns if name in before.columns]
    settings = [design(table[shared]).merge(table[["sae_id", "site", "fingerprint"]], on="sae_id") for table in (before, after)]
    keys = ["site", *DESIGN]
    constant = [name for name in keys if all(table[name].nunique() == 1 for table in settings)]
    differing = {name: (str(settings[0][name].iloc[0]), str(settings[1][name].iloc[0])) for name in constant}
    differing = {name: values for name, values in differing.items() if values[0] != values[1]}
    on = [name for name in keys if name not in differing]
    both = settings[0].merge(settings[1], on=on, suffixes=("_before", "_after"))
    where = {name: both[name if name in both.columns else f"{name}_after"] for name in ("site", "layer")}
    pairs = pd.DataFrame(
        {"before": both["sae_id_before"], "after": both["sae_id_after"], **where, "same": both["fingerprint_before"] == both["fingerprint_after"]}
    )
    alone = [tuple(sorted(set(table["sae_id"]) - set(pairs[name]))) for table, name in zip(settings, ("before", "after"), strict=True)]
    return Answering(pairs, differing, *alone)


class PairedDifferences(Resamples):
    """Every metric of the SAEs after minus the same of those they answer to before.

    Where both were measured on the same documents the draws are the same on both sides, so what the SAEs have in common
    cancels; elsewhere the documents of each side are drawn on their own.

    Args:
        before, after: resamples of either study, drawn with one seed and in one number.
        pairs: id before by id after.
        same_documents: evaluation sets whose documents are the same on both sides.
    """

    def __init__(self, before: Resamples, after: Resamples, pairs: Mapping[str, str], same_documents: Iterable[str]) -> None:
        self._before, self._after, self._pairs, self._same = before, after, pairs, frozenset(same_documents)
        sets = [name for name in after.documents if name in before.documents]
        self.documents = {name: after.documents[name] + (0 if name in self._same else before.documents[name]) for name in sets}

    def values(self, metric: str) -> tuple[dict[tuple[str, str], int], Array]:
        """Row of each (id after, evaluation_set), and the differences (rows, 1 + samples)."""
        (rows_before, before), (rows_after, after) = self._before.values(metric), self._after.values(metric)
        keys = [key for key in rows_after if key[0] in self._pairs and (self._pairs[key[0]], key[1]) in rows_before]
        found = [rows_before[self._pairs[sae_id], name] for sae_id, name in keys]
        return {key: row for row, key in enumerate(keys)}, after[[rows_after[key] for key in keys]] - before[found]

    def caution(self, keys: Iterable[tuple[str, str]]) -> str:
        """Which sets held other documents before, and what there is to know of either side."""
        keys = list(keys)
        other = sorted({name for _, name in keys} - self._same)
        apart = f"other documents before and after in {', '.join(other)}, so each side's are resampled on their own" if other else ""
        sides = self._before.caution([(self._pairs[sae_id], name) for sae_id, name in keys]), self._after.caution(keys)
        return "; ".join(dict.fromkeys(filter(None, (apart, *sides))))


def differences(before: StudyTables, after: StudyTables, found: Answering, analysis: Analysis) -> pd.DataFrame:
    """Mean difference of each metric on each evaluation set that both studies have, after minus before.

    The mean is over the SAEs that changed, or over all where none did. Columns: ``site``, ``metric``, ``evaluation_set``,
    ``layer`` (nan for all together; layers apart for explained variance alone), ``saes``, ``before``, ``after`` (means),
    ``estimate``, ``low``, ``high``, ``said``, ``documents``, ``seeds``, ``note``.
    """
    compared = found.pairs[~found.pairs["same"]] if not found.pairs["same"].all() else found.pairs
    rows: list[dict[str, Any]] = []
    for site, pairs in compared.groupby("site", sort=False):
        rows += _of_site(str(site), before.at_site(str(site)), after.at_site(str(site)), pairs, analysis, "replicate" in found.differing)
    columns = [
        "site",
        "metric",
        "evaluation_set",
        "layer",
        "saes",
        "before",
        "after",
        "estimate",
        "low",
        "high",
        "said",
        "documents",
        "seeds",
        "note",
    ]
    return pd.DataFrame(rows, columns=columns)


def _of_site(site: str, before: StudyTables, after: StudyTables, pairs: pd.DataFrame, analysis: Analysis, other_seed: bool) -> list[dict[str, Any]]:
    answers = dict(zip(pairs["after"], pairs["before"], strict=True))
    drawn = [DocumentResamples(tables, analysis.bootstrap_samples, analysis.seed) for tables in (before, after)]
    stated = [SingleValues(tables, resamples.documents) for tables, resamples in zip((before, after), drawn, strict=True)]
    same = same_documents(before, after)
    rows = []
    for metrics, sides in ((SUMMED, drawn), (STATED, stated)):
        resamples = PairedDifferences(sides[0], sides[1], answers, same)
        evidence = Evidence(after, resamples, analysis.confidence)
        for metric in metrics:
            if not all(_has(tables, metric) for tables in (before, after)):
                continue
            valued = resamples.values(metric)[0]
            for name in sorted(resamples.documents):
                for layer in [np.nan, *(sorted(set(pairs["layer"])) if metric == SUMMED[0] and pairs["layer"].nunique() > 1 else ())]:
                    chosen = pairs if layer != layer else pairs[pairs["layer"] == layer]
                    used = [sae_id for sae_id in chosen["after"] if (sae_id, name) in valued]
                    if used:
                        means = [_mean(side, ids, name, metric) for side, ids in ((sides[0], [answers[i] for i in used]), (sides[1], used))]
                        place = {"site": site, "metric": metric, "evaluation_set": name, "layer": layer, "saes": len(used)}
                        rows.append(place | dict(zip(("before", "after"), means, strict=True)) | _figure(evidence, used, name, metric, other_seed))
    return rows


def _figure(evidence: Evidence, sae_ids: list[str], name: str, metric: str, other_seed: bool) -> dict[str, Any]:
    """Difference, interval and what is said of them.

    Args:
        other_seed: the studies have one seed each, and not the same: SAEs of equal settings differ by the noise of training
            alone, of which one seed says nothing, so that no interval makes their difference clear.
    """
    contrast = {(sae_id, name): 1 / len(sae_ids) for sae_id in sae_ids}
    figure = evidence.estimate(contrast, metric)
    rows, values = evidence.resamples.values(metric)
    unchanged = bool((values[[rows[key] for key in contrast], 0] == 0).all())
    low, high, notes = figure.low, figure.high, [] if unchanged else [evidence.resamples.caution(contrast)]
    if without_width(low, high) and not unchanged:
        low = high = float("nan")
        notes = [f"{'one seed, and nothing else to resample' if figure.seeds == 1 else 'nothing that was resampled varies'}, so there is no interval"]
    elif figure.seeds == 1 and not unchanged:
        notes.append("one seed, so the interval leaves out the noise of training")
    clear = not (other_seed and figure.seeds == 1)
    said = EQUAL if unchanged else HIGHER if low > 0 and clear else LOWER if high < 0 and clear else UNCLEAR
    note = "; ".join(filter(None, notes))
    return {"estimate": figure.estimate, "low": low, "high": high, "said": said, "documents": figure.documents, "seeds": figure.seeds, "note": note}


def _mean(resamples: Resamples, sae_ids: list[str], name: str, metric: str) -> float:
    rows, values = resamples.values(metric)
    return float(np.mean([values[rows[sae_id, name], 0] for sae_id in sae_ids]))


def _has(tables: StudyTables, metric: str) -> bool:
    """Whether a metric can be had; studies of other versions may lack its sums."""
    return metric in tables.sae_metrics.columns and bool(tables.sae_metrics[metric].notna().any())


def same_documents(before: StudyTables, after: StudyTables) -> list[str]:
    """Evaluation sets that hold the same documents in both studies."""
    hashes = [tables.baseline_sums.groupby("evaluation_set")["document_hash"].agg(frozenset) for tables in (before, after)]
    return [str(name) for name in hashes[1].index if name in hashes[0].index and hashes[0][name] == hashes[1][name]]


def changed_verdicts(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Findings whose verdict differs, or that only one study has.

    Columns: ``id``, ``claim``, ``scope``, ``site``, ``verdict_before``, ``verdict_after`` (missing where there is no such
    finding), ``estimate``, ``low`` and ``high`` of both, and ``turned``: another verdict is one thing, a study that can or cannot
    test the claim at all is another.
    """
    figures = ["verdict", "estimate", "low", "high"]
    kept = ["id", "scope", "site"]
    both = before[[*kept, "claim", *figures]].merge(
        after[[*kept, "claim", *figures]], on=kept, how="outer", suffixes=("_before", "_after"), sort=False
    )
    both["claim"] = both.pop("claim_after").fillna(both.pop("claim_before"))
    changed = both[both["verdict_before"].fillna("") != both["verdict_after"].fillna("")].reset_index(drop=True)
    one, other = changed["verdict_before"], changed["verdict_after"]
    kinds = [one.isna() | other.isna(), one == "not_testable", other == "not_testable"]
    changed["turned"] = np.select(kinds, [IN_ONE_ALONE, NOW_TESTABLE, NO_LONGER_TESTABLE], CHANGED)
    return changed


def changed_marks(before: pd.DataFrame, after: pd.DataFrame, pairs: pd.DataFrame) -> pd.DataFrame:
    """Health marks that differ between SAEs that answer to each other.

    Columns: ``before``, ``after`` (SAE ids), ``evaluation_set``, ``rubric``, ``metric``, ``value_before``, ``value_after``,
    ``mark_before``, ``mark_after``, ``turned`` (``worse``, ``better``, or ``otherwise`` where one side is not judged).
    """
    kept = ["evaluation_set", "rubric", "metric"]
    marks = [table[["sae_id", *kept, "value", "mark"]] for table in (before, after)]
    both = marks[0].merge(pairs[["before", "after"]], left_on="sae_id", right_on="before").drop(columns="sae_id")
    both = both.merge(marks[1], left_on=["after", *kept], right_on=["sae_id", *kept], suffixes=("_before", "_after")).drop(columns="sae_id")
    changed = both[both["mark_before"] != both["mark_after"]].reset_index(drop=True)
    steps = changed["mark_after"].map(SEVERITY) - changed["mark_before"].map(SEVERITY)
    changed["turned"] = np.select([steps > 0, steps < 0], ["worse", "better"], "otherwise")
    return changed


def changed_artifacts(before: pd.DataFrame, after: pd.DataFrame) -> pd.DataFrame:
    """Artifacts of each stage that are the same in both studies, made anew, or in one of them only, upstream first.

    Columns: ``stage``, ``same``, ``changed``, ``only_before``, ``only_after``.
    """
    kept = ["artifact_stage", "what"]
    both = before[[*kept, "fingerprint"]].merge(after[[*kept, "fingerprint"]], on=kept, how="outer", suffixes=("_before", "_after"), sort=False)
    one, other = both["fingerprint_before"], both["fingerprint_after"]
    both = both.assign(same=one == other, changed=one.notna() & other.notna() & (one != other), only_before=other.isna(), only_after=one.isna())
    counts = both.groupby("artifact_stage", sort=False)[["same", "changed", "only_before", "only_after"]].sum()
    order = list(dict.fromkeys([*after["artifact_stage"], *before["artifact_stage"]]))
    return counts.reindex(order).rename_axis("stage").reset_index()

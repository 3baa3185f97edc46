"""Whether a proposed arm is kept: it has to be better in what it was proposed for, and not worse in what the rule guards."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.improving.proposals import Proposal
from sae_pipeline.analysis.tables import evaluation_sets
from sae_pipeline.analysis.verdicts import verdict_of

KEPT, NOT_KEPT, INCONCLUSIVE, NOT_COMPARED = ("kept", "not_kept", "inconclusive", "not_compared")

COLUMNS: dict[str, Any] = (
    dict.fromkeys(("cause", "remedy", "change", "answers_to", "proposed", "metric", "better", "evaluation_sets"), "string")
    | dict.fromkeys(("before", "after", "gain", "gain_low", "gain_high"), float)
    | {"guard_sets": "string"}
    | dict.fromkeys(("guard", "guard_low", "guard_high", "tolerance"), float)
    | {"documents": int, "seeds": int, "verdict": "string", "note": "string"}
)
"""Columns of the comparison and their types. ``gain`` is positive where the proposed arm is better; ``guard`` is the change of explained
variance on ``guard_sets``."""


def compare(evidence: Evidence, proposals: Sequence[Proposal]) -> pd.DataFrame:
    """Each proposed arm against the arm that it answers to, over their seeds, on the same documents; columns as :data:`COLUMNS`.

    Args:
        evidence: the SAEs of both, of one site, with every metric that the proposals are judged by.
        proposals: those that are possible.
    """
    rows = [_compared(evidence, proposal) for proposal in proposals]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def verdict(low: float, high: float, by_seed: Sequence[float], guard_high: float, tolerance: float) -> tuple[str, str]:
    """The verdict on a gain and why.

    Kept where the gain's whole interval and every single seed lie above zero, and the guarded metric does not fall
    significantly (its whole interval below minus the tolerance). Not kept where the gain lies wholly below zero or the guarded
    metric falls.
    """
    if guard_high < -tolerance:
        return NOT_KEPT, "explains significantly less variance" + (f", by more than {tolerance:g}" if tolerance else "")
    said = verdict_of(low, high, by_seed)
    if said == "supported":
        return KEPT, ""
    if said == "contradicted":
        return NOT_KEPT, "is worse in what it was proposed for"
    return INCONCLUSIVE, "the interval of the gain holds zero, or seeds disagree"


def _compared(evidence: Evidence, proposal: Proposal) -> dict[str, Any]:
    rule, sets = proposal.rule, proposal.evaluation_sets
    metric, sign = rule.improve.metric, 1 if rule.improve.better == "higher" else -1
    guarded = sets if rule.guard.sets == "triggering" else tuple(evaluation_sets(evidence.tables, "in_sample") or sets)
    about = {
        "cause": rule.id,
        "remedy": proposal.remedy.says,
        "change": proposal.change,
        "answers_to": ", ".join(proposal.answers),
        "proposed": ", ".join(proposal.answers.values()),
        "metric": metric,
        "better": rule.improve.better,
        "evaluation_sets": ", ".join(sets),
        "guard_sets": ", ".join(guarded),
        "tolerance": rule.guard.tolerance,
    }
    pairs = [
        (old, new)
        for old, new in proposal.answers.items()
        if _valued(evidence, metric, (old, new), sets) and _valued(evidence, rule.guard.metric, (old, new), guarded)
    ]
    if not pairs:
        return about | {"documents": 0, "seeds": 0, "verdict": NOT_COMPARED, "note": f"no pair of SAEs has a value of {metric} on these sets"}
    before, after = ({(pair[place], name): 1 / len(pairs) / len(sets) for pair in pairs for name in sets} for place in (0, 1))
    gain = {key: sign * share for key, share in after.items()} | {key: -sign * share for key, share in before.items()}
    figure, by_seed = evidence.estimate(gain, metric), evidence.by_seed([gain], metric)
    cost = evidence.estimate(_difference(pairs, guarded), rule.guard.metric)
    said, note = verdict(figure.low, figure.high, list(by_seed.values()), cost.high, rule.guard.tolerance)
    notes = [note]
    if figure.low == figure.high and figure.seeds == 1 and said != NOT_KEPT:
        said, notes = INCONCLUSIVE, [f"{metric} depends on no document, and one seed says nothing of the noise of training; give the arm two seeds"]
    if len(pairs) < len(proposal.answers):
        notes.append(f"{len(proposal.answers) - len(pairs)} of {len(proposal.answers)} seeds have no value, for example because one diverged")
    return about | {
        "before": evidence.estimate(before, metric).estimate,
        "after": evidence.estimate(after, metric).estimate,
        "gain": figure.estimate,
        "gain_low": figure.low,
        "gain_high": figure.high,
        "guard": cost.estimate,
        "guard_low": cost.low,
        "guard_high": cost.high,
        "documents": figure.documents,
        "seeds": figure.seeds,
        "verdict": said,
        "note": "; ".join(part for part in notes if part),
    }


def _valued(evidence: Evidence, metric: str, pair: tuple[str, str], sets: Sequence[str]) -> bool:
    rows = evidence.resamples.values(metric)[0]
    return all((sae_id, name) in rows for sae_id in pair for name in sets)


def _difference(pairs: Sequence[tuple[str, str]], sets: Sequence[str]) -> dict[tuple[str, str], float]:
    """Proposed minus old, averaged over pairs and sets."""
    share = 1 / len(pairs) / len(sets)
    return {(pair[place], name): coefficient * share for pair in pairs for name in sets for place, coefficient in ((1, 1.0), (0, -1.0))}

"""Whether a proposed arm is kept: it has to be better in what it was proposed for, and not worse in what the rule guards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any

import pandas as pd

from sae_pipeline.analysis.bootstrap import Estimate, without_width
from sae_pipeline.analysis.contrasts import Contrast, Evidence
from sae_pipeline.analysis.improving.proposals import Proposal
from sae_pipeline.analysis.significance import holm
from sae_pipeline.analysis.tables import evaluation_sets
from sae_pipeline.analysis.verdicts import verdict_of

KEPT, NOT_KEPT, INCONCLUSIVE, NOT_COMPARED = ("kept", "not_kept", "inconclusive", "not_compared")

COLUMNS: dict[str, Any] = (
    dict.fromkeys(("cause", "remedy", "change", "answers_to", "proposed", "metric", "better", "evaluation_sets"), "string")
    | dict.fromkeys(("before", "after", "gain", "gain_low", "gain_high", "p_value", "p_adjusted"), float)
    | {"guard_sets": "string"}
    | dict.fromkeys(("guard", "guard_low", "guard_high", "tolerance"), float)
    | {"documents": int, "seeds": int, "verdict": "string", "note": "string"}
)
"""Columns of the comparison and their types. ``gain`` is positive where the proposed arm is better; ``p_value`` is that of the gain, two-sided
and against zero, nan where it cannot be tested; ``guard`` is the change of explained variance on ``guard_sets``."""

CHOSEN = "the setting was chosen for being worst on these same figures, so a part of the gain may be regression to the mean"


@dataclass(frozen=True)
class Change:
    """A metric of the proposed arm minus that of the arm that it answers to: mean over seeds, interval, and every seed."""

    estimate: float
    low: float
    high: float
    by_seed: Sequence[float]

    @property
    def varies(self) -> bool:
        """Whether there is an interval."""
        return isfinite(self.low) and isfinite(self.high) and not without_width(self.low, self.high)

    @classmethod
    def of(cls, evidence: Evidence, contrast: Contrast, metric: str, figure: Estimate) -> Change:
        """The change that a contrast states, with its figure."""
        return cls(figure.estimate, figure.low, figure.high, list(evidence.by_seed([contrast], metric).values()))


def compare(evidence: Evidence, proposals: Sequence[Proposal]) -> pd.DataFrame:
    """Each proposed arm against the arm that it answers to, over their seeds, on the same documents; columns as :data:`COLUMNS`.

    Every row is judged by itself; :func:`judged_together` looks at all of them.

    Args:
        evidence: the SAEs of both, of one site, with every metric that the proposals are judged by.
        proposals: those that are possible.
    """
    rows = [_compared(evidence, proposal) for proposal in proposals]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def judged_together(table: pd.DataFrame, level: float) -> pd.DataFrame:
    """All comparisons of one improvement with their p-values adjusted for how many there are, and only those kept that stand.

    Args:
        table: rows of :func:`compare`, of all sites.
        level: at most which an adjusted p-value lets an arm be kept: one minus the confidence of the intervals.
    """
    adjusted = holm(table["p_value"].tolist())
    tested = sum(map(isfinite, adjusted))
    rows = []
    for row, value in zip(table.to_dict("records"), adjusted, strict=True):
        row["p_adjusted"] = value
        if row["verdict"] == KEPT and value > level:  # nan where the gain is exact
            among = f"the interval of the gain leaves out zero (p = {row['p_value']:.2g}), but among {tested} arms compared together that is no rarity (adjusted {value:.2g})"
            row |= {"verdict": INCONCLUSIVE, "note": f"{among}; {row['note']}"}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def verdict(gain: Change, guard: Change, tolerance: float, *, exact: bool = False) -> tuple[str, str]:
    """The verdict on a gain by itself, and why.

    Kept where the gain's whole interval and every single seed lie above zero, and neither the mean nor any seed of the guarded
    metric falls by more than the tolerance: few seeds make its interval so wide that it would let any fall pass. Not kept where
    the gain, or the guarded metric beyond the tolerance, lies wholly below. One seed is never enough for either.

    Args:
        gain: change of the metric that the arm was proposed for, positive where it is better.
        guard: change of the guarded metric.
        tolerance: by which the guarded metric may fall.
        exact: whether the metric is what the arms were set to, so that a gain without an interval is no chance.
    """
    if len(gain.by_seed) < 2:
        return INCONCLUSIVE, "one seed says nothing of the noise of training; give the arm two seeds"
    less = "explains less variance" + (f", by more than {tolerance:g}" if tolerance else "")
    if guard.varies and guard.high < -tolerance:
        return NOT_KEPT, less
    known = gain.varies or exact
    said = verdict_of(gain.low, gain.high, gain.by_seed) if known else "inconclusive"
    if said == "contradicted":
        return NOT_KEPT, "is worse in what it was proposed for"
    if not all(value >= -tolerance for value in (guard.estimate, *guard.by_seed)):
        return INCONCLUSIVE, f"{less}, in the mean or with one of the seeds, though its interval does not lie wholly below that"
    if not known:
        return INCONCLUSIVE, "nothing that was resampled varies, so the gain has no interval"
    if said == "supported":
        return KEPT, CHOSEN if gain.varies else "what the arms are set to needs no interval"
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
    spread, cost = evidence.spread(gain, metric), _difference(pairs, guarded)
    figure, fallen = evidence.figure(gain, spread), evidence.estimate(cost, rule.guard.metric)
    change = Change.of(evidence, gain, metric, figure)
    exact = metric == "l0" and set(evidence.design.loc[[sae_id for pair in pairs for sae_id in pair], "architecture"]) == {"topk"}
    said, note = verdict(change, Change.of(evidence, cost, rule.guard.metric, fallen), rule.guard.tolerance, exact=exact)
    notes = [note]
    if change.varies:
        notes.append(evidence.resamples.caution(gain))
    p = spread.p_value if change.varies and figure.seeds > 1 else nan
    if len(pairs) < len(proposal.answers):
        notes.append(f"{len(proposal.answers) - len(pairs)} of {len(proposal.answers)} seeds have no value, for example because one diverged")
    return about | {
        "before": evidence.estimate(before, metric).estimate,
        "after": evidence.estimate(after, metric).estimate,
        "gain": figure.estimate,
        "gain_low": figure.low if change.varies else nan,
        "gain_high": figure.high if change.varies else nan,
        "p_value": p,
        "p_adjusted": p,
        "guard": fallen.estimate,
        "guard_low": fallen.low,
        "guard_high": fallen.high,
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

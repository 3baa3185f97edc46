"""What an SAE loses on text of another kind than it was trained on, against what is to be expected of such text.

The expected bands are data (``generalisation.v1.yaml``). A drop outside its band is told both ways: losing more says that
the SAE fits its training text alone, losing less that the evaluation set is nearer to that text than its kind claims.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any

import numpy as np
import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sae_pipeline.analysis.bootstrap import FEW_DOCUMENTS, Array, percentile_interval
from sae_pipeline.analysis.contrasts import Evidence
from sae_pipeline.analysis.tables import evaluation_sets, in_sample
from sae_pipeline.study.section import Kind

FILE = "generalisation.v1.yaml"

MORE, AS_EXPECTED, LESS, BETTER, UNCERTAIN, UNDEFINED = VERDICTS = (
    "more_than_expected",
    "as_expected",
    "less_than_expected",
    "better_than_in_sample",
    "uncertain",
    "undefined",
)
"""What is said of a relative drop: above the band, inside it, below it, below zero as well, across an edge, or without a value."""

COLUMNS: dict[str, Any] = (
    dict.fromkeys(("sae_id", "evaluation_set", "kind", "in_sample_sets"), "string")
    | dict.fromkeys(
        ("explained_variance_in_sample", "explained_variance", "generalisation_gap", "generalisation_gap_low", "generalisation_gap_high"), float
    )
    | dict.fromkeys(("relative_drop", "relative_drop_low", "relative_drop_high", "expected_low", "expected_high"), float)
    | {"verdict": "string"}
    | dict.fromkeys(("l0_in_sample", "l0", "l0_shift", "l0_shift_low", "l0_shift_high"), float)
    | dict.fromkeys(("relative_l0_shift", "relative_l0_shift_low", "relative_l0_shift_high"), float)
    | {"documents": int, "note": "string"}
)
"""Columns of the table ``generalisation`` and their types, which an empty table has too. ``generalisation_gap`` is the absolute drop of explained
variance, in-sample minus found."""


class Band(BaseModel):
    """The relative drops to be expected of one kind of set, both edges included."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: float
    high: float
    source: str = Field(min_length=1)

    @model_validator(mode="after")
    def _is_a_band(self) -> Band:
        if self.low > self.high:
            raise ValueError(f"expected low to be at most high, found {self.low:g} and {self.high:g}")
        return self


class Bands(BaseModel):
    """The expected bands, by the kind of the evaluation set."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^.+\.v\d+$")
    bands: dict[Kind, Band]


@cache
def expected() -> dict[Kind, Band]:
    """The expected bands that come with the package, by kind."""
    text = (resources.files("sae_pipeline.analysis") / FILE).read_text(encoding="utf-8")
    return Bands.model_validate(yaml.safe_load(text)).bands


def gaps(evidence: Evidence) -> pd.DataFrame:
    """Every SAE on every set that is not in-sample for it, against its mean over those that are; columns as :data:`COLUMNS`.

    Intervals resample documents, with the same draw for every SAE. Where the in-sample explained variance is at most zero
    there is no relative drop, and where its own interval reaches zero there is none that could be judged. A set of the kind
    in_sample that is so for other mixes only is held to the band of a domain shift. SAEs without an in-sample set have no
    rows. All SAEs must be of one site.
    """
    tables = evidence.tables
    own = tables.sae_metrics[in_sample(tables.sae_metrics)].groupby("sae_id")["evaluation_set"].agg(sorted).to_dict()
    kinds = tables.sae_metrics.drop_duplicates("evaluation_set").set_index("evaluation_set")["kind"]
    rows = [
        row
        for sae_id in evidence.design["sae_id"]
        for name in evaluation_sets(tables)
        if name not in own.get(sae_id, [name]) and (row := _gap(evidence, sae_id, name, str(kinds[name]), own[sae_id])) is not None
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def verdict(low: float, high: float, band: Band) -> str:
    """What an interval of the relative drop says about a band.

    ``better_than_in_sample`` needs the whole interval below zero, the other flags the whole interval outside the band.
    """
    if low > band.high:
        return MORE
    if high < band.low:
        return BETTER if high < 0 else LESS
    return AS_EXPECTED if band.low <= low and high <= band.high else UNCERTAIN


def _gap(evidence: Evidence, sae_id: str, name: str, kind: str, own: list[str]) -> dict[str, Any] | None:
    """One row, or None where the SAE has no finite figures on one of the sets."""
    rows, values = evidence.resamples.values("explained_variance")
    if any((sae_id, place) not in rows for place in (name, *own)):
        return None
    l0_rows, l0_values = evidence.resamples.values("l0")
    inside = values[[rows[sae_id, place] for place in own]].mean(0)
    found = values[rows[sae_id, name]]
    l0_inside = l0_values[[l0_rows[sae_id, place] for place in own]].mean(0)
    l0 = l0_values[l0_rows[sae_id, name]]
    of_others = kind == "in_sample"
    kind = "domain_shift" if of_others else kind
    band = expected().get(kind)  # type: ignore[call-overload]
    relative, note = relative_drop(inside, found, evidence.confidence)
    documents = evidence.resamples.documents
    few = [place for place in (*own, name) if documents[place] < FEW_DOCUMENTS]
    alone = [place for place in (name, *own) if documents[place] < 2]
    notes = [
        "of the kind in_sample, but this SAE's mix has too little of its text, so it counts as a domain shift" if of_others else "",
        note,
        f"one document in {', '.join(alone)}, which tells nothing of others" if alone else "",
        f"fewer than {FEW_DOCUMENTS} documents in {', '.join(few)}, so the intervals may be too narrow" if few else "",
    ]
    edges = (band.low, band.high) if band else (np.nan, np.nan)
    if not np.isfinite(relative[0]) or band is None:
        said = UNDEFINED
    else:
        said = verdict(relative[1], relative[2], band) if np.isfinite(relative[1]) and not alone else UNCERTAIN
    return (
        {"sae_id": sae_id, "evaluation_set": name, "kind": kind, "in_sample_sets": ", ".join(own)}
        | {"explained_variance_in_sample": inside[0], "explained_variance": found[0]}
        | _figures("generalisation_gap", inside - found, evidence.confidence)
        | dict(zip(("relative_drop", "relative_drop_low", "relative_drop_high"), relative, strict=True))
        | dict(zip(("expected_low", "expected_high"), edges, strict=True))
        | {"verdict": said, "l0_in_sample": l0_inside[0], "l0": l0[0]}
        | _figures("l0_shift", l0 - l0_inside, evidence.confidence)
        | _figures("relative_l0_shift", (l0 - l0_inside) / np.where(l0_inside > 0, l0_inside, np.nan), evidence.confidence)
        | {"documents": sum(documents[place] for place in (*own, name)), "note": "; ".join(part for part in notes if part)}
    )


def relative_drop(inside: Array, found: Array, confidence: float) -> tuple[tuple[float, float, float], str]:
    """The relative drop (estimate, low, high), nan where there is none, and why there is none.

    Args:
        inside: (1 + samples,) in-sample explained variance: on the documents as they are, then resampled.
        found: (1 + samples,) the same on the set looked at.
        confidence: level of the interval.
    """
    nan = float("nan")
    if inside[0] <= 0:
        return (nan, nan, nan), f"the in-sample explained variance is {inside[0]:.3f}, and a drop from nothing has no size"
    ratio = (inside - found) / np.where(inside > 0, inside, nan)
    if percentile_interval(inside[1:], confidence)[0] <= 0:
        return (float(ratio[0]), nan, nan), "the in-sample explained variance is not clearly above zero, so the relative drop has no interval"
    return (float(ratio[0]), *percentile_interval(ratio[1:], confidence)), ""


def _figures(name: str, resampled: Array, confidence: float) -> dict[str, float]:
    low, high = percentile_interval(resampled[1:], confidence)
    return {name: float(resampled[0]), f"{name}_low": low, f"{name}_high": high}

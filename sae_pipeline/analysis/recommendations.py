"""What the sources recommend, said only where the claims it rests on are supported by this study with more than one seed.

The recommendations are data (``recommendations.v1.yaml``): a sentence and the ids of the claims that carry it.
"""

from __future__ import annotations

from functools import cache
from importlib import resources

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field

from sae_pipeline.analysis.verdicts import ALL_LAYERS

FILE = "recommendations.v1.yaml"
COLUMNS = ("id", "text", "rests_on", "evidence")


class Recommendation(BaseModel):
    """A sentence and what must be supported for it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    id: str
    text: str = Field(min_length=1)
    rests_on: tuple[str, ...] = Field(min_length=1)
    """Claims whose headlines must all be supported."""
    source: str = Field(min_length=1)


@cache
def known() -> tuple[Recommendation, ...]:
    """The recommendations that come with the package."""
    text = (resources.files("sae_pipeline.analysis") / FILE).read_text(encoding="utf-8")
    return tuple(Recommendation.model_validate(entry) for entry in yaml.safe_load(text)["recommendations"])


def recommend(findings: pd.DataFrame) -> pd.DataFrame:
    """The recommendations that the findings carry; none where a claim is anything but supported, or is supported by one seed alone.

    Args:
        findings: of one site, as :func:`sae_pipeline.analysis.claims.find` gives them.

    Returns:
        Columns ``id``, ``text``, ``rests_on`` (ids of claims) and ``evidence`` (their estimates with intervals, in words).
    """
    supported = findings[(findings["scope"] == ALL_LAYERS) & (findings["verdict"] == "supported") & (findings["seeds"] > 1)]
    figures = {str(row["id"]): f"{row['estimate']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]" for _, row in supported.iterrows()}
    rows = []
    for advice in known():
        if all(name in figures for name in advice.rests_on):
            evidence = "; ".join(f"{name}: {figures[name]}" for name in advice.rests_on)
            rows.append({"id": advice.id, "text": advice.text, "rests_on": ", ".join(advice.rests_on), "evidence": evidence})
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype("string")

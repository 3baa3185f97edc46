"""Whether a corpus is large and varied enough to train on, against a table of requirements kept as versioned data.

The table (``adequacy.v1.yaml`` beside this module) gives a minimum, an optimal range and a maximum for contexts, tokens,
context length and domains, and rules of thumb for training settings by size. Nothing here changes a study: the check
says where a corpus stands and what follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import inf, nan
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sae_pipeline.corpora.statistics import CorpusText

REQUIREMENTS_FILE = Path(__file__).with_name("adequacy.v1.yaml")

BELOW, ADEQUATE, OPTIMAL, ABOVE = "below minimum", "adequate", "optimal", "above maximum"

ADEQUACY_COLUMNS = {
    "quantity": ("contexts, tokens, context_length or domains", ""),
    "unit": ("unit of the figures of the row", ""),
    "found": ("what the corpus has", "unit of the row"),
    "minimum": ("least that the requirements ask for", "unit of the row"),
    "optimal_low": ("lower end of the optimal range, itself optimal", "unit of the row"),
    "optimal_high": ("upper end of the optimal range, itself optimal", "unit of the row"),
    "maximum": ("most that the requirements foresee", "unit of the row"),
    "verdict": ("below minimum, adequate (between the limits but outside the optimal range), optimal, or above maximum", ""),
    "follows": ("what follows from the verdict; empty where nothing does", ""),
    "requirements": ("name and version of the table of requirements", ""),
}
"""Columns of :func:`check`: name, meaning, unit."""

SIZE_COLUMNS = {
    "size_class": ("small, medium or large", ""),
    "contexts": ("contexts the class holds, in words", ""),
    "applies": ("whether the corpus is in this class", ""),
    "learning_rate": ("suggested multiplier on the learning rate", "1"),
    "batch_size": ("suggested multiplier on the batch size", "1"),
    "epochs": ("suggested multiplier on the passes over the text", "1"),
    "regularisation": ("suggested multiplier on the sparsity penalty", "1"),
    "dead_share_low": ("lower end of the expected share of dead latents; null where none is given", "share"),
    "dead_share_high": ("upper end of the expected share of dead latents; null where none is given", "share"),
    "reconstruction": ("expected reconstruction: lower, balanced or higher", ""),
}
"""Columns of :func:`size_adjustments`: name, meaning, unit."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Requirement(_Section):
    """Limits on one quantity of a corpus."""

    quantity: Literal["contexts", "tokens", "context_length", "domains"]
    unit: str
    minimum: int
    optimal: tuple[int, int]
    maximum: int
    below: str = Field(description="what follows below the minimum")
    above: str = Field(description="what follows above the maximum")

    @model_validator(mode="after")
    def _limits_rise(self) -> Requirement:
        if not self.minimum <= self.optimal[0] <= self.optimal[1] <= self.maximum:
            raise ValueError(f"{self.quantity}: expected minimum <= optimal range <= maximum, found {self.minimum}, {self.optimal}, {self.maximum}")
        return self

    def verdict(self, found: float) -> tuple[str, str]:
        """The verdict on a figure and what follows from it."""
        if found < self.minimum:
            return BELOW, self.below
        if found > self.maximum:
            return ABOVE, self.above
        return (OPTIMAL if self.optimal[0] <= found <= self.optimal[1] else ADEQUATE), ""


class SizeClass(_Section):
    """Rules of thumb for corpora of one size; ``below`` excludes its number of contexts, ``up_to`` includes it."""

    name: str
    below: float = inf
    up_to: float = inf
    learning_rate: float
    batch_size: float
    epochs: float
    regularisation: float
    dead_share: tuple[float, float] | None = None
    reconstruction: Literal["lower", "balanced", "higher"]

    def holds(self, contexts: float) -> bool:
        """Whether a number of contexts is within the upper limit of the class."""
        return contexts < self.below and contexts <= self.up_to


class Requirements(_Section):
    """A named, versioned table of requirements."""

    name: str = Field(pattern=r"^.+\.v\d+$")
    source: str
    requirements: tuple[Requirement, ...]
    size_classes: tuple[SizeClass, ...]


@cache
def load_requirements() -> Requirements:
    """The requirements that come with the package."""
    return Requirements.model_validate(yaml.safe_load(REQUIREMENTS_FILE.read_text(encoding="utf-8")))


def corpus_figures(corpus: CorpusText) -> dict[str, int]:
    """The figures of a corpus that are checked. Tokens are contexts x context length, BOS included; each source that has a context is a domain."""
    contexts, context_length = corpus.tokens.shape
    used = set(corpus.documents["source"])
    return {"contexts": contexts, "tokens": contexts * context_length, "context_length": context_length, "domains": len(used)}


def check(figures: Mapping[str, float], requirements: Requirements | None = None) -> pd.DataFrame:
    """Where a corpus stands against each requirement; columns :data:`ADEQUACY_COLUMNS`.

    Args:
        figures: what the corpus has, by quantity, from :func:`corpus_figures`.
        requirements: None: those of the package.
    """
    rules = requirements or load_requirements()
    rows: list[dict[str, Any]] = []
    for rule in rules.requirements:
        found = figures[rule.quantity]
        verdict, follows = rule.verdict(found)
        rows.append(
            {
                "quantity": rule.quantity,
                "unit": rule.unit,
                "found": found,
                "minimum": rule.minimum,
                "optimal_low": rule.optimal[0],
                "optimal_high": rule.optimal[1],
                "maximum": rule.maximum,
                "verdict": verdict,
                "follows": follows,
                "requirements": rules.name,
            }
        )
    return pd.DataFrame(rows, columns=list(ADEQUACY_COLUMNS))


def size_adjustments(contexts: int, requirements: Requirements | None = None) -> pd.DataFrame:
    """The rules of thumb by size of corpus, with the class that applies marked; columns :data:`SIZE_COLUMNS`."""
    classes = (requirements or load_requirements()).size_classes
    applies = next(size.name for size in classes if size.holds(contexts))
    rows = []
    for size, before in zip(classes, [None, *classes[:-1]], strict=True):
        low, high = size.dead_share or (nan, nan)
        settings = size.model_dump(include={"learning_rate", "batch_size", "epochs", "regularisation", "reconstruction"})
        words = _limits(size, before)
        rows.append(
            {"size_class": size.name, "contexts": words, "applies": size.name == applies, **settings, "dead_share_low": low, "dead_share_high": high}
        )
    return pd.DataFrame(rows, columns=list(SIZE_COLUMNS))


def _limits(size: SizeClass, before: SizeClass | None) -> str:
    """``below 1,000,000``, ``1,000,000 to 10,000,000``, ``above 10,000,000``."""
    low = None if before is None else f"{int(min(before.below, before.up_to)):,}"
    high = min(size.below, size.up_to)
    if high == inf:
        return f"above {low}"
    return f"below {int(high):,}" if low is None else f"{low} to {int(high):,}"

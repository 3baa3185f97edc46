"""Rules that name the cause of a health problem and what to train instead: data (``root_causes.v1.yaml``) and its schema.

- ``name`` ends in a version; changing a number means a new version. ``settings_per_remedy``: how many settings a remedy is
  proposed for, those with the largest problem first.
- A rule has an ``id``, a ``cause`` in words and its ``source``; ``sets`` says which evaluation sets are looked at
  (``in_sample`` or ``shifted``), ``when`` holds conditions that must all be met there, ``improve`` names the metric
  that the remedies are judged by, and ``guard`` what they must not cost, where that differs from the ``guard`` of all.
- A condition compares a ``fact`` of an SAE on a set: a metric, a column of ``saes``, or one of :data:`DERIVED`. ``mark`` asks for the
  health mark of a metric under the study's first rubric. ``says`` is what evidence calls the fact.
- A remedy ``change``\\ s settings of the arm, each ``set`` to a value or multiplied (``times``), or names a training ``mix``.
  ``sparsity`` stands for ``k`` or ``target_l0``, whichever the architecture has; ``expansion`` for the width.
"""

from __future__ import annotations

from functools import cache
from importlib import resources
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from sae_pipeline.study.section import Name

FILE = "root_causes.v1.yaml"

DERIVED = ("always_on_latents", "l0_over_asked", "depth", "shared_text", "generalisation")
"""Facts that are no column of ``saes`` or ``sae_metrics``: latents firing on more than 80 % of tokens (a number of latents), L0 over
the L0 asked for, place of the layer among the subject's blocks (the last is 1), share of the set's text whose source the training mix has
too, and the verdict of the generalisation table."""

CHANGEABLE = (
    "sparsity",
    "expansion",
    "tokens",
    "learning_rate",
    "batch_size",
    "auxk_coefficient",
    "l1_coefficient",
    "diversity_coefficient",
    "tilt",
)
"""Settings that a remedy can change."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Condition(_Section):
    """What must hold of one fact."""

    fact: str
    says: str = Field(min_length=1)
    above: float | None = None
    below: float | None = None
    at_least: float | None = None
    equals: float | None = None
    one_of: tuple[str, ...] | None = None
    mark: tuple[Literal["acceptable", "warning", "poor"], ...] | None = None

    @model_validator(mode="after")
    def _one_test(self) -> Condition:
        given = sorted(self.model_fields_set - {"fact", "says"})
        if len(given) != 1:
            raise ValueError(f"{self.fact}: expected one of above, below, at_least, equals, one_of or mark, found {', '.join(given) or 'none'}")
        return self


class Change(_Section):
    """What becomes of one setting."""

    set: float | None = None
    times: float | None = Field(None, gt=0)

    @model_validator(mode="after")
    def _one_way(self) -> Change:
        if (self.set is None) == (self.times is None):
            raise ValueError("expected either 'set' or 'times'")
        return self


class Remedy(_Section):
    """What to train instead: one arm with some settings changed, or the same arm on another mix."""

    name: Name
    """Becomes part of the labels of the proposed arms."""
    says: str
    source: str
    change: dict[str, Change] = Field(default_factory=dict)
    mix: Literal["evaluation_set"] | None = None
    """``evaluation_set``: on a mix with the token shares of the set that showed the problem."""

    @model_validator(mode="after")
    def _changes_something(self) -> Remedy:
        if unknown := sorted(set(self.change) - {*CHANGEABLE}):
            raise ValueError(f"{self.name}: a remedy cannot change {', '.join(unknown)}; it can change: {', '.join(CHANGEABLE)}")
        if bool(self.change) == (self.mix is not None):
            raise ValueError(f"{self.name}: expected either 'change' or 'mix'")
        return self


class Improve(_Section):
    """The metric that shows whether a remedy helped."""

    metric: str
    better: Literal["higher", "lower"]


class Guard(_Section):
    """What a remedy must not cost: the metric may not fall by significantly more than the tolerance."""

    metric: Literal["explained_variance"]
    sets: Literal["in_sample", "triggering"]
    """The in-sample sets, or those that showed the problem."""
    tolerance: float = Field(ge=0)


class Rule(_Section):
    """A cause, how it is told, and its remedies."""

    id: Name
    cause: str
    source: str
    sets: Literal["in_sample", "shifted"]
    when: tuple[Condition, ...] = Field(min_length=1)
    improve: Improve
    guard: Guard
    remedies: tuple[Remedy, ...] = Field(min_length=1)


class RootCauses(_Section):
    """All rules of one version."""

    name: str = Field(pattern=r"^.+\.v\d+$")
    settings_per_remedy: int = Field(ge=1)
    guard: Guard
    """Of every rule, but for what its own says."""
    rules: tuple[Rule, ...] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _guards_of_rules(cls, data: dict[str, Any]) -> dict[str, Any]:
        """Every rule with its guard written out."""
        rules = [{**rule, "guard": {**data["guard"], **rule.get("guard", {})}} for rule in data["rules"]]
        return {**data, "rules": rules}


@cache
def root_causes() -> RootCauses:
    """The rules that come with the package."""
    data: Any = yaml.safe_load((resources.files("sae_pipeline.analysis.improving") / FILE).read_text(encoding="utf-8"))
    return RootCauses.model_validate(data)

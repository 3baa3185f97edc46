"""Health rubrics: data files that say which values of a metric are good. Reading and checking them; marks are given elsewhere.

A rubric is a YAML file (``rubrics/<name>.yaml`` beside this module, or a user's own) of the schema :class:`Rubric`;
``docs/rubrics.md`` explains it. What a source leaves open, where it gives two marks and where a mark it prints
contradicts its own bands is part of the data, and a rubric that hides one of them is refused.

Without pandas, because Dagster asks for a rubric's checks while it loads the definitions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError, model_validator

from sae_pipeline.analysis.health.bands import SIGN_OF, JudgedMetric, Mark, RubricSection, Sign, When
from sae_pipeline.analysis.health.intervals import Interval
from sae_pipeline.analysis.health.rubric_files import rubric_path
from sae_pipeline.errors import StudyError
from sae_pipeline.safety.yaml_limits import check_yaml

YAML_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml reads a rubric ten times as fast, and is not in every build of PyYAML."""


class Printed(RubricSection):
    """A figure that the source prints with a mark, by which the bands are tested when the rubric is read."""

    of: str = Field(min_length=1, description="whose figure it is")
    metric: str
    value: float = Field(description="in the unit of the bands")
    sign: Sign
    size_class: str | None = None
    use_case: str | None = None
    suspect: str | None = Field(None, description="how the printed mark contradicts the source's own bands; only where it does")


class AcrossSets(RubricSection):
    """When an SAE is said to generalise: good where a figure holds up on every set, variable on some, poor on none."""

    metric: str
    holds_up: tuple[Mark, ...] = Field(min_length=1, description="marks with which the figure counts as holding up")
    source: str = Field(min_length=1)


class Preference(RubricSection):
    """One step by which the better of two SAEs is chosen; equals are told apart by the next."""

    prefer: Literal["lowest", "highest", "fewest_faults"]
    metric: str | None = Field(None, description="the metric compared; absent for fewest_faults, which counts warnings and worse")

    @model_validator(mode="after")
    def _names_a_metric_or_counts_faults(self) -> Preference:
        if (self.metric is None) != (self.prefer == "fewest_faults"):
            raise ValueError(
                f"best_layer: 'metric' goes with lowest and highest and with nothing else, found prefer {self.prefer}, metric {self.metric}"
            )
        return self


class BestLayer(RubricSection):
    """The rule by which one layer is called the best."""

    source: str = Field(min_length=1)
    order: tuple[Preference, ...] = Field(min_length=1)


class Rubric(RubricSection):
    """A named set of health bands; the part of the name after the dot is its version or edition."""

    name: str = Field(pattern=r"^[^.\s]+\.[^.\s]+$")
    description: str
    size_classes: dict[str, Interval] = Field(default_factory=dict, description="name to a range of subject parameters; the first that fits counts")
    use_cases: dict[str, Interval] = Field(
        default_factory=dict, description="name to a range of the sparsity an SAE was set to (k or target L0); the first that fits counts"
    )
    check_severity: dict[Literal["warning", "poor"], Literal["warn", "error"]] = Field(
        default={"warning": "warn", "poor": "error"},
        description="what a failed asset check is, by the worst mark behind it; an absent mark fails none",
    )
    tiers: tuple[str, ...] = Field((), description="words of the bands that are success criteria an SAE must meet as a whole, best first")
    across_sets: AcrossSets | None = None
    best_layer: BestLayer | None = None
    metrics: tuple[JudgedMetric, ...] = Field(min_length=1)
    printed: tuple[Printed, ...] = ()

    @model_validator(mode="after")
    def _names_stand_for_one_thing(self) -> Rubric:
        judged, checks = [metric.metric for metric in self.metrics], [metric.check for metric in self.metrics if metric.check]
        for name in judged:
            if judged.count(name) > 1:
                raise ValueError(f"metrics: {name} is judged twice; give it one entry with several profiles")
        for check in checks:
            if checks.count(check) > 1:
                raise ValueError(f"metrics: the check {check} is named twice; give each metric's check its own name")
        return self

    @model_validator(mode="after")
    def _names_are_declared(self) -> Rubric:
        called = {band.called for metric in self.metrics for profile in metric.profiles for band in profile.bands}
        for tier in self.tiers:
            if tier not in called:
                raise ValueError(f"tiers: no band is called {tier}; name the bands that make the tier with 'called'")
        kinds = [(metric.metric, profile.when) for metric in self.metrics for profile in metric.profiles]
        kinds += [(f"printed figure of {figure.of}", When(size_class=figure.size_class, use_case=figure.use_case)) for figure in self.printed]
        for where, kind in kinds:
            for value, known in ((kind.size_class, self.size_classes), (kind.use_case, self.use_cases)):
                if value is not None and value not in known:
                    raise ValueError(f"{where}: 'when' names {value}, which is not declared; declared are: {', '.join(known) or 'none'}")
        named = [(f"printed figure of {figure.of}", figure.metric) for figure in self.printed]
        named += [("across_sets", self.across_sets.metric)] if self.across_sets else []
        named += [("best_layer", step.metric) for step in self.best_layer.order if step.metric is not None] if self.best_layer else []
        for where, metric in named:
            if metric not in self.labels:
                raise ValueError(f"{where}: names {metric}, which the rubric does not judge; it judges: {', '.join(self.labels)}")
        return self

    @model_validator(mode="after")
    def _printed_marks_are_met_or_suspect(self) -> Rubric:
        for figure in self.printed:
            mark = self.judged(figure.metric).read(figure.value, figure.size_class, figure.use_case).mark
            if (SIGN_OF.get(mark) == figure.sign) == (figure.suspect is not None):
                says = "meets its bands, so it is not suspect" if figure.suspect else f"contradicts the bands, which say {mark}: say why in 'suspect'"
                raise ValueError(f"the sign printed for {figure.of}, {figure.metric} {figure.value:g} ({figure.sign}) {says}")
        return self

    def judged(self, metric: str) -> JudgedMetric:
        """The entry of a metric that the rubric judges."""
        return next(entry for entry in self.metrics if entry.metric == metric)

    @property
    def labels(self) -> dict[str, str]:
        """Metric to its name in words, in the rubric's order."""
        return {entry.metric: entry.label for entry in self.metrics}

    def size_class(self, parameters: int | None) -> str | None:
        """The class of a subject model; None where its size is not known or fits none."""
        return next((name for name, sizes in self.size_classes.items() if parameters is not None and parameters in sizes), None)

    def use_case(self, sparsity: float) -> str | None:
        """What an SAE set to that many active latents is for; None where none fits."""
        return next((name for name, sparsities in self.use_cases.items() if sparsity in sparsities), None)


def load_rubric(name: str) -> Rubric:
    """Read and check a rubric by name or path; the same bytes are checked once per process.

    Raises:
        StudyError: no such rubric, not YAML, or not a rubric; the sentence names the file, the place and what is wrong.
    """
    path = rubric_path(name)
    try:
        return _checked(path, path.read_bytes())
    except OSError as error:
        raise StudyError(f"{path}: expected a rubric file that can be read, found: {error.strerror}; check its permissions") from None


@lru_cache(maxsize=32)
def _checked(path: Path, written: bytes) -> Rubric:
    """The rubric in the bytes of a file; a file that changed has other bytes, and a rubric cannot be changed."""
    try:
        text = written.decode("utf-8")
        check_yaml(text, YAML_LOADER)
        data = yaml.load(text, Loader=YAML_LOADER)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        found = getattr(error, "problem", "other bytes" if isinstance(error, UnicodeDecodeError) else error)
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise StudyError(f"{where}: expected YAML, found {str(found).removeprefix('found ')}; correct the indentation or quoting there") from None
    try:
        return Rubric.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise StudyError(f"{path}: {where or 'rubric'}: {first['msg'].removeprefix('Value error, ')}; correct the rubric file") from None


def load_rubrics(names: Iterable[str]) -> tuple[Rubric, ...]:
    """The rubrics of a study, in its order.

    Raises:
        StudyError: one cannot be used (see :func:`load_rubric`), or two call themselves the same.
    """
    rubrics = tuple(load_rubric(name) for name in names)
    for one, other in pairwise(sorted(rubric.name for rubric in rubrics)):
        if one == other:
            raise StudyError(f"analysis.rubrics: expected rubrics of different names, found '{one}' twice; rename one in its file, or list it once")
    return rubrics


def first_with(rubrics: Sequence[Rubric], part: Literal["tiers", "across_sets", "best_layer"]) -> Rubric | None:
    """The first rubric that states a rule."""
    return next((rubric for rubric in rubrics if getattr(rubric, part)), None)

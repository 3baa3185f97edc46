"""The bands of a rubric: which values of one metric earn which mark, what the source leaves open, and where it gives two marks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from sae_pipeline.analysis.health.intervals import Interval, pieces

Mark = Literal["good", "acceptable", "warning", "poor"]
SEVERITY = {"good": 0, "acceptable": 1, "warning": 2, "poor": 3}
NOT_JUDGED = "not_judged"

Sign = Literal["tick", "warning", "cross"]
SIGN_OF: dict[str, Sign] = {"good": "tick", "acceptable": "tick", "warning": "warning", "poor": "cross"}
"""The sign that stands for a mark in print: nothing to do, look into it, do not rely on it."""

Unit = Literal["percent", "number", "latents", "count_of_latents"]
STRICTER, MILDER = "the stricter", "the milder"


class RubricSection(BaseModel):
    """A part of a rubric file: no key it does not know, and nothing changes once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Band(RubricSection):
    """A mark, the values that earn it, and where the numbers come from."""

    mark: Mark
    range: Interval
    source: str = Field(min_length=1)
    called: str | None = Field(None, description="the source's own word for the band, where it is not the mark's")


class Gap(RubricSection):
    """Values that a source leaves open."""

    range: Interval
    reason: str = Field(min_length=1, description="what the source says instead, and why the mark below follows")
    mark: Mark | None = Field(None, description="a mark that the source gives in print to a value in here; without it there is none")
    called: str | None = Field(None, description="the source's own word for such a value")


class When(RubricSection):
    """Which SAEs a profile is for; an absent key leaves it open."""

    size_class: str | None = None
    use_case: str | None = None


class Profile(RubricSection):
    """The bands that one statement of the source gives for one kind of SAE."""

    statement: str = Field("", description="which statement of the source this is, where it makes several on one metric")
    when: When
    bands: tuple[Band, ...] = Field(min_length=1)
    gaps: tuple[Gap, ...] = Field((), description="values the statement leaves open; an undeclared gap between bands is an error")

    @model_validator(mode="after")
    def _gaps_are_declared(self) -> Profile:
        edges = [edge for band in self.bands for edge in (band.range.low, band.range.high)]
        for value, words in pieces([*(band.range for band in self.bands), *(gap.range for gap in self.gaps)]):
            held, open_ = any(value in band.range for band in self.bands), any(value in gap.range for gap in self.gaps)
            if held and open_:
                raise ValueError(f"a gap is declared where a band lies, {words}; move an edge or exclude it with ( or )")
            if not held and not open_ and min(edges) <= value <= max(edges):
                raise ValueError(f"no band holds the values {words}; add a band, or declare the gap with its reason in 'gaps'")
        return self


class TwoMarks(RubricSection):
    """Which mark is taken where the source gives two."""

    take: str = Field(description=f"'{STRICTER}', '{MILDER}', or the statement that decides")
    reason: str = Field(min_length=1)


@dataclass(frozen=True)
class Reading:
    """What a rubric makes of one value."""

    mark: str
    """One of :data:`SEVERITY`, or :data:`NOT_JUDGED`."""
    taken: Band | Gap | None
    """What the mark comes from."""
    bands: tuple[Band, ...] = ()
    """Every band that holds the value; several where the source gives several marks."""


class JudgedMetric(RubricSection):
    """How one metric is marked."""

    metric: str
    label: str
    unit: Unit
    """``percent``: a share, shown times 100. ``count_of_latents``: a share of the dictionary, judged as a number of latents."""
    direction: Literal["higher_is_better", "lower_is_better", "within_range"]
    check: str | None = Field(None, pattern=r"^[a-z][a-z0-9_]*$", description="name of the asset check that tells of warnings; None: no check")
    two_marks: TwoMarks | None = Field(None, description="needed where bands that can apply together overlap with different marks")
    profiles: tuple[Profile, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _marks_run_in_the_stated_direction(self) -> JudgedMetric:
        for profile in self.profiles:
            steps = [SEVERITY[band.mark] for band in sorted(profile.bands, key=lambda band: (band.range.low, band.range.high))]
            if self.direction != "within_range" and steps != sorted(steps, reverse=self.direction == "higher_is_better"):
                raise ValueError(
                    f"{self.metric} is declared {self.direction}, but its marks do not run that way; order the bands or use within_range"
                )
        return self

    @model_validator(mode="after")
    def _two_marks_are_declared(self) -> JudgedMetric:
        statements = {profile.statement for profile in self.profiles}
        if self.two_marks is not None and self.two_marks.take not in {STRICTER, MILDER, *statements} - {""}:
            raise ValueError(
                f"{self.metric}: two_marks.take must be '{STRICTER}', '{MILDER}' or a statement ({', '.join(sorted(statements - {''})) or 'none named'}), "
                f"found '{self.two_marks.take}'"
            )
        for profiles in self._selections():
            bands = [band for profile in profiles for band in profile.bands]
            for value, words in pieces([band.range for band in bands]):
                marks = {band.mark for band in bands if value in band.range}
                if len(marks) > 1 and self.two_marks is None:
                    raise ValueError(
                        f"{self.metric}: two bands overlap {words} ({' and '.join(sorted(marks, key=SEVERITY.__getitem__))}); move an edge, exclude it "
                        "with ( or ), or say in two_marks which mark is taken"
                    )
        return self

    def _selections(self) -> Iterator[tuple[Profile, ...]]:
        """The profiles that apply together, for every kind of SAE the profiles tell apart."""
        sizes = {profile.when.size_class for profile in self.profiles} | {None}
        uses = {profile.when.use_case for profile in self.profiles} | {None}
        yield from {self.chosen(size, use) for size, use in product(sizes, uses)}

    def chosen(self, size_class: str | None, use_case: str | None) -> tuple[Profile, ...]:
        """Of each statement the first profile that fits such an SAE."""
        first: dict[str, Profile] = {}
        for profile in self.profiles:
            if profile.when.size_class in (None, size_class) and profile.when.use_case in (None, use_case):
                first.setdefault(profile.statement, profile)
        return tuple(first.values())

    def read(self, value: float, size_class: str | None, use_case: str | None) -> Reading:
        """What the bands say of a value, in the unit the bands are in; ``not_judged`` where they say nothing."""
        profiles = self.chosen(size_class, use_case)
        held = [(profile, band) for profile in profiles for band in profile.bands if value in band.range]
        if not held:
            gaps = sorted((gap for profile in profiles for gap in profile.gaps if value in gap.range), key=lambda gap: gap.mark is None)
            return Reading(gaps[0].mark or NOT_JUDGED, gaps[0]) if gaps else Reading(NOT_JUDGED, None)
        bands = tuple(sorted((band for _, band in held), key=lambda band: SEVERITY[band.mark]))
        taken = bands[0]
        if self.two_marks is not None and self.two_marks.take != MILDER:
            decided = [band for profile, band in held if profile.statement == self.two_marks.take] or bands
            taken = max(decided, key=lambda band: SEVERITY[band.mark])
        return Reading(taken.mark, taken, bands)

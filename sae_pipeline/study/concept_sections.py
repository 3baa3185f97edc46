"""Sections of a study file about concepts: which are looked for in the SAEs' latents, and which directions are written with them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sae_pipeline.study.section import Name, Section

Text = Annotated[str, Field(min_length=1)]
Texts = Annotated[tuple[Text, ...], Field(min_length=2)]


class Direction(Section):
    """A direction between two sets of prompts: written ones, or the documents of two evaluation sets."""

    positive: Texts | None = Field(None, description="prompts the direction points to")
    negative: Texts | None = Field(None, description="prompts it points away from")
    position: Literal["last", "mean"] = Field("last", description="of written prompts: their last token, or the mean of their tokens")
    positive_set: Name | None = Field(None, description="instead of written prompts: evaluation set whose documents the direction points to")
    negative_set: Name | None = Field(None, description="evaluation set whose documents it points away from; documents are means of their tokens")

    @property
    def sets(self) -> tuple[str, ...]:
        """The two evaluation sets; none where the prompts are written."""
        return (self.positive_set, self.negative_set) if self.positive_set and self.negative_set else ()

    @model_validator(mode="after")
    def _two_sides_of_one_kind(self) -> Direction:
        given = {name for name in self.model_fields_set if getattr(self, name) is not None}
        if given not in ({"positive", "negative"}, {"positive", "negative", "position"}, {"positive_set", "negative_set"}):
            raise ValueError(
                f"a direction needs either 'positive' and 'negative' (and may have 'position') or 'positive_set' and 'negative_set', found {', '.join(sorted(given)) or 'none'}"
            )
        if self.sets and self.positive_set == self.negative_set:
            raise ValueError(f"a direction needs two different evaluation sets, found '{self.positive_set}' on both sides")
        return self


class Concepts(Section):
    """Which concepts have a latent, against how often they occur, and directions written with few latents; `concepts: {}` asks for it.

    At every hook point the first arm of every mix and expansion factor is looked at.
    """

    evaluation_sets: tuple[Name, ...] | None = Field(
        None, min_length=1, description="evaluation sets whose text is read, documents that they share in the first; None: all"
    )
    tokens: int = Field(16_384, ge=1_000, le=1_048_576, description="tokens read of each set, in whole contexts")
    token_concepts: int = Field(300, ge=0, le=20_000, description="tokens of the vocabulary looked for, drawn log-uniformly over frequency ranks")
    keywords: dict[Name, Annotated[tuple[Text, ...], Field(min_length=1)]] = Field(
        {}, description="concepts as lists of words and phrases by name: `{chemistry: [acid, chemical, molecules]}`"
    )
    min_occurrences: int = Field(5, ge=1, description="least occurrences of a concept in either half of the documents; rarer ones are not judged")
    f1_cut: float = Field(0.5, gt=0, lt=1, description="a concept has a feature when the F1 of its latent, on the judged half, is at least this")
    directions: dict[Name, Direction] | None = Field(
        None, description="directions by name; None: from the first evaluation set that is read to the second"
    )

    @field_validator("keywords")
    @classmethod
    def _words(cls, keywords: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        for name, words in keywords.items():
            for word in words:
                if not word.strip() or not (word.strip()[0].isalnum() and word.strip()[-1].isalnum()):
                    raise ValueError(f"{name}: expected words or phrases that begin and end with a letter or digit, found '{word}'")
        return keywords

    def read_sets(self, held_out: Collection[str]) -> tuple[str, ...]:
        """The evaluation sets that are read, of those the study has."""
        return self.evaluation_sets or tuple(held_out)

    def asked_directions(self, held_out: Collection[str]) -> dict[str, Direction]:
        """The directions by name, the default one included."""
        if self.directions is not None:
            return self.directions
        sets = self.read_sets(held_out)
        if len(sets) < 2:
            return {}
        return {f"{sets[1]}_from_{sets[0]}": Direction(positive_set=sets[1], negative_set=sets[0])}

    def check(self, held_out: Collection[str]) -> None:
        """Refuse evaluation sets that the study does not have, or that a direction needs and are not read (ValueError)."""
        known = ", ".join(held_out)
        for name in self.evaluation_sets or ():
            if name not in held_out:
                raise ValueError(f"concepts.evaluation_sets names {name}, which the study does not have; it has: {known}")
        read = self.read_sets(held_out)
        for direction, declared in (self.directions or {}).items():
            for name in declared.sets:
                if name not in read:
                    raise ValueError(
                        f"concepts.directions.{direction} names the evaluation set {name}, which is not read; read are: {', '.join(read)}"
                    )

"""The study file as typed, frozen models: the only thing a user edits.

A study says *what to compare*: text sources, mixes of them, a subject model, layers, dictionary widths and the
arms (architecture x sparsity x budget x seed) trained in every cell. Unknown keys are errors. Reading a file with
line numbers in the messages is the business of :mod:`sae_pipeline.study.loading`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, field_validator, model_validator

from sae_pipeline.study.concept_sections import Concepts
from sae_pipeline.study.hook_points import HookPoint
from sae_pipeline.study.matching_section import MatchedLayers, Matching
from sae_pipeline.study.section import Device, Name, Section, Seed, as_tuple
from sae_pipeline.study.text_sections import Corpus, External, HeldOut, Retrieved, Shares, Source, Subject, sum_to_one
from sae_pipeline.study.training_sections import Activations, Saes


def _five_fields(value: str) -> str:
    if len(value.split()) != 5:
        raise ValueError(f"expected a cron expression of five fields such as '0 3 * * 1', found '{value}'")
    return value


# ------------------------------------------------------------------------------------------------ evaluation and analysis


class Evaluation(Section):
    """How much of each held-out set the metrics that need the whole model are computed on."""

    ce_tokens: int = Field(8_192, ge=100, description="tokens of each set used for cross-entropy and KL; the rest uses all")
    batch_size: int = Field(16, ge=1, description="contexts per forward pass")
    window: int = Field(0, ge=0, description="which of corpus.held_out_windows the evaluation sets are drawn from, counted from 0")
    outlier_norm_ratio: float = Field(10.0, gt=1, description="tokens above this multiple of the median norm are outliers")
    random_tokens: int = Field(4_096, ge=0, description="random token ids that latents are held against, for `fake_feature_ratio`; 0 for none")
    spelling_words: int = Field(
        2_000, ge=0, description="most words that the subject is asked to spell, for `first_letter_absorption`, if it can; 0 for none"
    )
    top_contexts: int = Field(
        5,
        ge=0,
        le=100,
        description="strongest activations of each latent that are kept, with the text around them for the first in-sample set; 0 for none",
    )


class Positions(Section):
    """What a token's position does to activations, latents and losses; `positions: {}` asks for it.

    At every hook point the first arm of each architecture of one cell is looked at, while the model reads with its position
    embeddings as they are, zeroed and shuffled.
    """

    evaluation_set: Name | None = Field(None, description="held-out set that is read; None: the first of kind in_sample")
    mix: Name | None = Field(None, description="training mix of the SAEs; None: the first")
    expansion: float | None = Field(None, description="expansion factor of the SAEs; None: the first. Of each architecture the first arm is taken")
    tokens: int = Field(16_384, ge=1_000, le=262_144, description="tokens read, in whole contexts; their activations at a site are held in memory")


class Analysis(Section):
    """How findings are drawn from the tables."""

    bootstrap_samples: int = Field(2_000, ge=100, description="resamples of the documents")
    confidence: float = Field(0.95, gt=0.5, lt=1, description="level of every interval")
    seed: Seed = Field(0, ge=0, description="draws the resamples")
    rubrics: tuple[str, ...] = Field(
        ("house.v1", "seed1.v1", "seed4.tiers", "seed4.alerts"),
        min_length=1,
        description="health rubrics: names in sae_pipeline/analysis/health/rubrics or paths to YAML files; the first gives the bottom lines and the asset checks, "
        "the others are shown beside it",
    )


Cron = Annotated[str, AfterValidator(_five_fields)]


class Schedules(Section):
    """What the daemon does on its own; times are UTC. What is named here runs from the start, the rest waits to be switched on in the UI."""

    report: Cron = Field("0 3 * * 1", description="when tables, findings and report are refreshed, as a cron expression (Monday 03:00)")
    evaluation: Cron | None = Field(
        None,
        description="when all SAEs are evaluated on a fresh window of held-out text and the figures recorded for good, for example '0 4 * * 1'; wants "
        "corpus.held_out_windows above 1. None: no history is kept",
    )
    versions: Cron | None = Field(
        None,
        description="when the study is compared with its last kept version and a copy of its warehouse is kept, for example '0 5 1 * *' (the first of each "
        "month, 05:00); a run that changes its tables does so too. None: no copies are kept",
    )
    rubric_review: Cron | None = Field(
        None, description="when a page on how the rubrics' marks fall is written for their revision, for example '0 6 1 1,4,7,10 *'. None: none is"
    )
    tolerance: float = Field(0.01, ge=0, description="fall of explained variance between recorded evaluations that counts as none")
    rerun_stale: bool = Field(False, description="switch the sensor on from the start that recomputes what an edit or new text made stale")
    watch_minutes: int = Field(
        0, ge=0, description="look every so many minutes whether a source's files or hub revision changed; 0: only when a run begins"
    )


class Compute(Section):
    """Where the work runs. Not part of any identity: the same study gives the same artifacts' names on every device."""

    device: Device = Field("auto", description="auto, cpu, cuda, cuda:N or mps")
    threads: int | None = Field(None, ge=1, le=4096, description="CPU threads of torch; None keeps torch's default")
    memory_gib: float | None = Field(
        None,
        gt=0,
        description="memory for arms that are trained side by side; None: half of what is free on the machine or device when training starts",
    )


class Study(Section):
    """One study file."""

    name: Name = Field(description="first part of asset keys and folder of the results: a letter, then letters, digits and _")
    description: str = Field("", description="shown in the report")
    subject: Subject
    sources: dict[Name, Source] = Field(min_length=1, description="texts by name, see the kinds of sources below")
    corpus: Corpus = Field(default_factory=lambda: Corpus())
    mixes: dict[Name, Shares] = Field(min_length=1, description="name: {source: token share}; the shares of a mix sum to one")
    held_out: dict[Name, HeldOut] = Field(min_length=1, description="evaluation sets by name")
    activations: Activations
    saes: Saes
    evaluation: Evaluation = Field(default_factory=lambda: Evaluation())
    positions: Positions | None = None
    matching: Matching | None = None
    concepts: Concepts | None = None
    analysis: Analysis = Field(default_factory=lambda: Analysis())
    schedules: Schedules = Field(default_factory=lambda: Schedules())
    compute: Compute = Field(default_factory=lambda: Compute())

    @property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Every site of every layer, in the study's order."""
        return tuple(HookPoint(layer, site) for site in self.activations.sites for layer in self.activations.layers)

    @property
    def in_sample(self) -> list[str]:
        """Names of the evaluation sets of the kind in_sample, in the study's order; there may be none."""
        return [name for name, declared in self.held_out.items() if declared.kind == "in_sample"]

    def shared_text(self, mix: str, evaluation_set: str) -> float:
        """Sum over sources of the smaller of the mix's and the set's token share: 1 for a mix like the set, 0 where they have no source in common."""
        trained, evaluated = self.mixes[mix], self.held_out[evaluation_set].shares
        return sum(min(share, trained.get(source, 0.0)) for source, share in evaluated.items())

    @property
    def read_for_positions(self) -> tuple[str, str, float]:
        """(evaluation set, mix, expansion factor) of the position study."""
        asked = self.positions or Positions()
        evaluation_set = asked.evaluation_set or [*self.in_sample, *self.held_out][0]
        return evaluation_set, asked.mix or next(iter(self.mixes)), asked.expansion or self.saes.expansions[0]

    @property
    def read_for_matching(self) -> str:
        """The evaluation set on which a latent that fires is alive, and over which activations are correlated."""
        asked = self.matching.evaluation_set if self.matching else None
        return asked or [*self.in_sample, *self.held_out][0]

    @property
    def matched_across_layers(self) -> tuple[str, float]:
        """(mix, expansion factor) of the SAEs that are matched across layers."""
        asked = self.matching.layers if self.matching else MatchedLayers()
        return asked.mix or next(iter(self.mixes)), asked.expansion or self.saes.expansions[0]

    @field_validator("mixes")
    @classmethod
    def _mix_shares(cls, mixes: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for name, shares in mixes.items():
            try:
                sum_to_one(shares)
            except ValueError as error:
                raise ValueError(f"mixes.{name}: {error}") from None
        return mixes

    @model_validator(mode="after")
    def _references_exist(self) -> Study:
        known = ", ".join(self.sources)
        for where, shares in [(f"mixes.{m}", s) for m, s in self.mixes.items()] + [
            (f"held_out.{h}.shares", s.shares) for h, s in self.held_out.items()
        ]:
            for source in shares:
                if source not in self.sources:
                    raise ValueError(f"{where} names the source '{source}', which is not declared; declared are: {known}")
        for source in self.subject.bundled.sources or ():
            if source not in self.sources:
                raise ValueError(f"subject.bundled.sources names '{source}', which is not declared; declared are: {known}")
        for name, declared in self.sources.items():
            if isinstance(declared, Retrieved) and not isinstance(self.sources.get(declared.source), External):
                raise ValueError(
                    f"sources.{name}.source must name a source of text that is not retrieved or generated itself, found '{declared.source}'; declared are: {known}"
                )
        for name in self.subject.bundled.sources or ():
            if not isinstance(self.sources[name], External):
                raise ValueError(f"subject.bundled.sources names '{name}', which is made from the subject or from another source; name its origin")
        if not any(isinstance(declared, External) for declared in self.sources.values()):
            raise ValueError("sources must hold at least one source of text that is not generated")
        if self.evaluation.window >= self.corpus.held_out_windows:
            raise ValueError(
                f"evaluation.window counts from 0 to corpus.held_out_windows - 1 = {self.corpus.held_out_windows - 1}, found {self.evaluation.window}"
            )
        length = self.activations.context_length
        for key, tokens in [("activations", self.activations.tokens), *((f"held_out.{name}", s.tokens) for name, s in self.held_out.items())]:
            if tokens < length:
                raise ValueError(
                    f"{key}.tokens: expected at least one context of {length} tokens, found {tokens}; raise it or lower activations.context_length"
                )
        for taken in sorted({"held_out", "sources", "subject", "reports", "positions", "matching", "concepts"} & set(self.mixes)):
            raise ValueError(f"mixes.{taken}: this name is taken by a group of the asset graph; choose another")
        asked = self.positions or Positions()
        for key, wanted, declared_here in (
            ("evaluation_set", asked.evaluation_set, tuple(self.held_out)),
            ("mix", asked.mix, tuple(self.mixes)),
            ("expansion", asked.expansion, self.saes.expansions),
        ):
            if wanted is not None and wanted not in declared_here:
                raise ValueError(f"positions.{key} names {wanted}, which the study does not have; it has: {', '.join(map(str, declared_here))}")
        if self.matching is not None:
            self.matching.check(self.held_out, self.mixes, self.saes.expansions)
        if self.concepts is not None:
            self.concepts.check(self.held_out)
        for number, group in enumerate(self.saes.arms):
            for field, allowed in (
                ("mixes", self.mixes),
                ("layers", self.activations.layers),
                ("sites", self.activations.sites),
                ("expansions", self.saes.expansions),
            ):
                for value in getattr(group.only, field) or ():
                    if value not in allowed:
                        raise ValueError(
                            f"saes.arms[{number}].only.{field} names {value}, which the study does not have; it has: {', '.join(map(str, allowed))}"
                        )
            section = group if group.tokens is not None else self.saes.defaults
            budgets = as_tuple(section.tokens)
            if max(budgets) > self.activations.tokens and not self.corpus.repeat:
                adjusted = f" (adjust {section.adjust})" if section.adjust else ""
                raise ValueError(
                    f"saes.arms[{number}] asks for {max(budgets)} training tokens{adjusted} but activations.tokens is {self.activations.tokens}; "
                    "raise activations.tokens, lower the budget, or set corpus.repeat: true to pass over the text again"
                )
        return self

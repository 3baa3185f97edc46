"""The study file as typed, frozen models: the only thing a user edits.

A study says *what to compare*: text sources, mixes of them, a subject model, layers, dictionary widths and the
arms (architecture x sparsity x budget x seed) trained in every cell. Unknown keys are errors. Reading a file with
line numbers in the messages is the business of :mod:`sae_pipeline.study.loading`.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from sae_pipeline.saes.arm import READ_BY, WITH_K
from sae_pipeline.study.hook_points import HookPoint

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=40)]
"""A name that becomes part of asset keys, file names and column values."""

Dtype = Literal["float32", "bfloat16", "float16"]
Site = Literal["resid_post", "resid_pre", "mlp_out", "attn_out"]
Kind = Literal["in_sample", "domain_shift", "task_shift", "distribution_shift"]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Device = Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]


class Section(BaseModel):
    """Base of all sections: unknown keys are errors and values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _true_is_no_number(cls, data: object) -> object:
        """YAML's true would otherwise pass for 1."""
        for name, value in data.items() if isinstance(data, dict) else ():
            field = cls.model_fields.get(str(name))
            if field is not None and "bool" not in str(field.annotation) and any(isinstance(v, bool) for v in _as_tuple(value)):
                raise ValueError(f"{name}: expected a value other than true or false, found {value}")
        return data


# ------------------------------------------------------------------------------------------------ subject


class BundledSubject(Section):
    """Shape and training budget of the small GPT-2-shaped model that ``model: bundled`` trains on the study's text."""

    d_model: int = Field(128, ge=16, le=1024, description="residual width")
    n_layers: int = Field(4, ge=1, le=24, description="transformer blocks")
    n_heads: int = Field(4, ge=1, le=32, description="attention heads; must divide d_model")
    vocab_size: int = Field(4096, ge=300, le=65536, description="size of the byte-level BPE vocabulary")
    tokens: int = Field(1_500_000, ge=1_000, description="training tokens, drawn evenly from the sources it is trained on")
    sources: tuple[str, ...] | None = Field(None, min_length=1, description="sources it is trained on; None: all of the study's")
    batch_size: int = Field(8, ge=1, description="contexts per step; small, so that a step stays in cache")
    learning_rate: float = Field(1.5e-3, gt=0, description="peak rate of AdamW; linear warm-up, then cosine")
    seed: Seed = Field(0, ge=0, description="initial weights and order of the contexts")

    @model_validator(mode="after")
    def _heads_divide_width(self) -> BundledSubject:
        if self.d_model % self.n_heads:
            raise ValueError(f"n_heads must divide d_model, found {self.n_heads} heads for width {self.d_model}")
        return self


class Subject(Section):
    """The language model whose activations are studied."""

    model: str = Field(description="'bundled', a Hugging Face hub id, or the path of a local checkpoint folder")
    revision: str | None = Field(None, description="hub revision; resolved to a commit and recorded")
    dtype: Dtype = Field("float32", description="dtype of the forward pass")
    weights: Literal["trained", "randomised"] = Field(
        "trained", description="randomised: a control with the same architecture and tokenizer whose weights are drawn anew (Heap et al. 2025)"
    )
    seed: Seed = Field(0, description="draws the weights of the randomised control")
    bundled: BundledSubject = Field(default_factory=BundledSubject, description="read only when model is 'bundled'")

    @model_validator(mode="after")
    def _bundled_only_when_used(self) -> Subject:
        if self.model != "bundled" and "bundled" in self.model_fields_set:
            raise ValueError(f"the section 'bundled' needs model: bundled, found model: {self.model}")
        if self.model == "bundled" and self.revision is not None:
            raise ValueError("revision applies to hub models; the bundled subject has none")
        if self.weights == "trained" and "seed" in self.model_fields_set:
            raise ValueError("the subject's seed draws randomised weights; it needs weights: randomised")
        return self


# ------------------------------------------------------------------------------------------------ sources


class InstalledText(Section):
    """Text that is on every machine: objects of installed Python packages, parsed and never imported."""

    kind: Literal["installed_docs", "installed_code", "installed_instructions"] = Field(description="kind of source; decides the keys beside it")
    packages: tuple[str, ...] | None = Field(None, min_length=1, description="import names; None takes the default list")


class Chat(Section):
    """Chat data: which column holds the turns, and how they are written out as text."""

    field: str = Field(
        "auto", description="column of the turns; auto looks for messages, conversations, conversation, prompt/completion, instruction/input/output"
    )
    template: Literal["auto", "tokenizer", "plain", "chatml", "alpaca"] = Field(
        "auto", description="tokenizer: the subject's own chat template; auto: that one when it has one, else plain"
    )


class Filter(Section):
    """Keeps the records whose column fits; a record without the column does not."""

    field: str = Field(description="column looked at; dots reach into nested records")
    equals: str | int | float | None = Field(None, description="kept when the value is this")
    one_of: tuple[str | int | float, ...] | None = Field(None, min_length=1, description="kept when the value is one of these")
    matches: str | None = Field(None, description="kept when this regular expression is found in the value")
    minimum: float | None = Field(None, description="kept when the value is at least this")
    maximum: float | None = Field(None, description="kept when the value is at most this")

    @model_validator(mode="after")
    def _one_condition(self) -> Filter:
        if not (self.model_fields_set - {"field"}):
            raise ValueError("a filter needs a condition: equals, one_of, matches, minimum or maximum")
        if self.matches is not None:
            try:
                re.compile(self.matches)
            except re.error as error:
                raise ValueError(f"matches: expected a regular expression, found '{self.matches}' ({error})") from None
        return self


class Window(Section):
    """A stretch of a source, in its own order; several local files follow one another by their names (``part-10`` after ``part-9``)."""

    skip: int = Field(0, ge=0, description="records passed over at the start")
    take: int | None = Field(None, ge=1, description="records read after those; None: all")


class Records(Section):
    """How the records of a data set become documents; the same for files and for hub data sets."""

    text_field: str | tuple[str, ...] = Field("text", description="column that holds the text; several are joined by a blank line")
    chat: Chat | None = Field(None, description="read turns of a conversation instead of a text column")
    filters: tuple[Filter, ...] = Field((), description="records that fit all of them are kept")
    window: Window = Field(default_factory=lambda: Window(), description="which records are read at all")
    min_characters: int = Field(1, ge=1, description="shorter documents are left out")
    max_characters: int = Field(1_000_000, ge=1, description="longer documents are left out or cut, see over_length")
    over_length: Literal["skip", "cut"] = Field("skip", description="what happens to documents above max_characters")
    malformed: Literal["refuse", "skip"] = Field(
        "refuse", description="records that cannot be read (not UTF-8, broken JSON, text that is no text): stop with an error, or leave out and count"
    )
    shuffle_buffer: int = Field(10_000, ge=1, description="documents held while shuffling")

    @model_validator(mode="after")
    def _lengths(self) -> Records:
        if self.min_characters > self.max_characters:
            raise ValueError(f"min_characters must not exceed max_characters, found {self.min_characters} and {self.max_characters}")
        if self.chat is not None and "text_field" in self.model_fields_set:
            raise ValueError("a source reads either 'text_field' or 'chat', found both")
        return self


class Files(Records):
    """Local text files, also compressed (gz, zst, bz2, xz); one record (line, row or file for txt) is one document."""

    kind: Literal["files"] = Field(description="kind of source; decides the keys beside it")
    paths: tuple[str, ...] = Field(
        min_length=1, description="paths or globs, relative to the study file's folder; a path that exists as it is written is no glob"
    )
    format: Literal["auto", "jsonl", "parquet", "csv", "txt"] = Field(
        "auto",
        description="auto goes by the file's ending; a csv file with a quote that is closed rows too late or never is refused whatever malformed says",
    )


class HuggingFace(Records):
    """A Hugging Face data set, streamed, with its revision pinned to a commit."""

    kind: Literal["huggingface"] = Field(description="kind of source; decides the keys beside it")
    dataset: str = Field(description="hub id or the path of a local hub-shaped folder")
    config: str | None = Field(None, description="configuration (subset) of the data set")
    split: str = Field("train", description="split to stream")
    revision: str | None = Field(None, description="branch, tag or commit; resolved to a commit and recorded")


class SelfGenerated(Section):
    """Text that the subject model writes by itself, from BOS alone (FaithfulSAE, Cho et al. 2025)."""

    kind: Literal["self_generated"] = Field(description="kind of source; decides the keys beside it")
    tokens: int = Field(ge=1_000, description="tokens to sample, in documents of up to the study's context length")
    temperature: float = Field(1.0, gt=0, description="1 samples the model's own distribution")
    top_p: float = Field(1.0, gt=0, le=1, description="nucleus; 1 keeps the whole distribution")
    batch_size: int = Field(32, ge=1, description="documents sampled side by side")
    seed: Seed = Field(0, description="draws the tokens")


class TracIn(Section):
    """Re-ranking of retrieved documents by how much training on them would move an SAE as the best of them would (TracIn, Pruthi et al. 2020)."""

    sae: str = Field(description="folder of the general SAE, in any format of docs/interchange.md, relative to the study file's folder")
    keep: int = Field(ge=1, description="documents kept, of those retrieved")
    exemplars: int = Field(16, ge=1, description="documents ranked first whose mean gradient is the direction looked for")


class Retrieved(Section):
    """The documents of another source that are about something, found by keywords (specialised SAEs, Muhamed et al. 2024)."""

    kind: Literal["retrieved"] = Field(description="kind of source; decides the keys beside it")
    source: Name = Field(description="source whose documents are ranked")
    keywords: tuple[str, ...] = Field(min_length=1, description="words and phrases that describe the subdomain")
    method: Literal["bm25", "dense"] = Field("bm25", description="by words, or by cosine of embeddings")
    encoder: str = Field("subject", description="for dense: 'subject' (its mean-pooled activations) or a sentence-transformers model")
    layer: int | None = Field(None, ge=0, description="for dense by the subject: block whose output is pooled; None: the middle one")
    pool: int = Field(20_000, ge=1, description="documents of the source that are ranked")
    top: int | None = Field(None, ge=1, description="documents taken, best first")
    threshold: float | None = Field(None, description="or: all documents with at least this score (BM25 score or cosine)")
    rerank: TracIn | None = Field(None, description="a second ranking of what was found, by gradients of an SAE")

    @model_validator(mode="after")
    def _cut(self) -> Retrieved:
        if (self.top is None) == (self.threshold is None):
            raise ValueError("a retrieved source needs either 'top' or 'threshold'")
        if self.method == "bm25" and self.model_fields_set & {"encoder", "layer"}:
            raise ValueError("'encoder' and 'layer' belong to method: dense")
        return self


External = InstalledText | Files | HuggingFace
"""Sources whose text comes from outside; the others are made from the subject model or from another source."""

Source = Annotated[External | SelfGenerated | Retrieved, Field(discriminator="kind")]


class Corpus(Section):
    """How documents are split and drawn; the same for every mix, so that mixes differ by composition alone."""

    seed: Seed = Field(0, ge=0, description="order of the documents of each source")
    held_out_share: float = Field(0.1, gt=0, lt=1, description="share of documents kept for evaluation, by document hash")
    held_out_windows: int = Field(1, ge=1, le=1_000, description="parts that the held-out documents are dealt to; an evaluation reads one of them")
    repeat: bool = Field(False, description="start a source again when it runs out, instead of stopping with an error")


Shares = Annotated[dict[Name, Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]


def _sum_to_one(shares: dict[str, float]) -> dict[str, float]:
    total = sum(shares.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"token shares must sum to 1, found {total:g} ({', '.join(f'{k}: {v:g}' for k, v in shares.items())})")
    return shares


class HeldOut(Section):
    """A named evaluation set, packed from held-out documents only."""

    shares: Shares = Field(description="token shares over sources, as in a mix")
    kind: Kind = Field(description="how the set relates to the training text; decides the expected drop")
    tokens: int = Field(20_000, ge=100, description="tokens of the set, BOS included")

    _shares = field_validator("shares")(_sum_to_one)


# ------------------------------------------------------------------------------------------------ activations and SAEs


class Activations(Section):
    """Which activations are cached, from how much text."""

    layers: tuple[int, ...] = Field(min_length=1, description="block numbers, counted from 0")
    site: Site | tuple[Site, ...] = Field("resid_post", description="which activation of a block; a list captures several in the same forward pass")
    context_length: int = Field(128, ge=8, description="tokens per context, BOS included")
    tokens: int = Field(ge=100, description="tokens per mix, BOS included")
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        "auto", description="contexts per forward pass; auto: as many as memory and speed allow"
    )
    storage_dtype: Dtype = Field("bfloat16", description="dtype on disk")
    shard_tokens: int = Field(65_536, ge=128, description="tokens per shard; a killed harvest resumes at the shard")
    shuffle_tokens: int = Field(1_048_576, ge=128, description="tokens shuffled together; a smaller set is shuffled as a whole")
    cache: bool = Field(True, description="false: activations of the mixes are computed anew while training instead of being stored")

    @property
    def sites(self) -> tuple[Site, ...]:
        """The sites as a tuple, however they were written."""
        return _as_tuple(self.site)

    @field_validator("site")
    @classmethod
    def _distinct_sites(cls, site: Site | tuple[Site, ...]) -> Site | tuple[Site, ...]:
        if not _as_tuple(site) or len(set(_as_tuple(site))) != len(_as_tuple(site)):
            raise ValueError(f"site must name one or several distinct sites, found {site}")
        return site

    @field_validator("layers")
    @classmethod
    def _distinct(cls, layers: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(layers)) != len(layers) or any(layer < 0 for layer in layers):
            raise ValueError(f"layers must be distinct block numbers from 0 upwards, found {list(layers)}")
        return layers


class TrainingDefaults(Section):
    """How an SAE is trained; every field can be overridden in an arm."""

    preset: str | None = Field(
        None, exclude=True, description="ready-made settings, see training presets below; keys beside it win. Also gives arms what they do not say"
    )
    adjust: str | None = Field(None, exclude=True, description="ready-made factors on the settings of this section, see training presets below")
    tokens: int | tuple[int, ...] = Field(200_000, description="training tokens of the SAE; a list makes one arm each")
    batch_size: int = Field(1024, ge=1, description="activations per step")
    accumulate: int = Field(1, ge=1, description="equal parts that a step's batch is processed in, to need less memory; gradients are summed (S4-10)")
    learning_rate: float | None = Field(None, gt=0, description="None: 2e-4 / sqrt(d_sae / 2**14) (Gao et al. 2024)")
    learning_rate_scaling: Literal["fixed", "inverse_sqrt_width"] = Field(
        "fixed", description="fixed: learning_rate as it is; inverse_sqrt_width: it is the rate at 2**14 latents, scaled as 1 / sqrt(d_sae)"
    )
    warmup_share: float = Field(0.05, ge=0, lt=1, description="share of the steps spent raising the rate linearly from 0")
    decay_share: float = Field(0.2, ge=0, lt=1, description="share of the steps, at the end, spent lowering it to 0; 0 keeps it constant")
    decay: Literal["linear", "cosine"] = Field("linear", description="how the rate falls over decay_share")
    budgets: Literal["separate", "trunk"] = Field(
        "separate",
        description="separate: a whole schedule for each token budget; trunk: one run at constant rate from which each budget branches off with its own "
        "decay, so that the steps before are taken once (warm-up and dead window are then shares of the smallest budget, so adding a smaller one "
        "trains all of them again; adding a larger one trains that one from its first step)",
    )
    auxk_coefficient: float = Field(1 / 32, ge=0, description="weight of the AuxK loss on dead latents (Gao et al. 2024)")
    l1_coefficient: float = Field(
        0.0, ge=0, description="weight of an extra L1 penalty on the latents, on top of the architecture's own loss (S4-16)"
    )
    diversity_coefficient: float = Field(
        0.0, ge=0, description="weight of the squared cosine similarity between decoder rows of latents that are active together (S4-15)"
    )
    tilt: float = Field(
        0.0, description="t of the tilted empirical risk (1/t) log mean exp(t loss) over a batch's tokens (TERM, S2-17); 0 is the mean"
    )
    matryoshka_shares: tuple[float, ...] = Field(
        (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0), description="matryoshka: shares of the dictionary that must each reconstruct on their own, ending with 1"
    )
    warm_start: str | None = Field(None, description="folder of an SAE to begin with instead of random weights; its widths must fit")
    dead_window_share: float = Field(0.1, gt=0, le=1, description="a latent silent for this share of the budget counts as dead while training")
    b_dec_init: Literal["zero", "mean", "geometric_median"] = Field("mean", description="initial decoder bias, from a sample of the activations")
    normalise: bool = Field(True, description="scale inputs to a root mean square norm of sqrt(d_model); folded into the weights on saving")
    data_seed: Seed = Field(0, ge=0, description="order of the activation stream")

    @field_validator("matryoshka_shares")
    @classmethod
    def _nested(cls, shares: tuple[float, ...]) -> tuple[float, ...]:
        if not shares or shares[0] <= 0 or shares[-1] != 1 or any(a >= b for a, b in pairwise(shares)):
            raise ValueError(f"matryoshka_shares must rise from above 0 to 1, found {list(shares)}")
        return shares

    @field_validator("tokens")
    @classmethod
    def _positive(cls, tokens: int | tuple[int, ...]) -> int | tuple[int, ...]:
        if not _as_tuple(tokens) or any(t < 1 for t in _as_tuple(tokens)):
            raise ValueError(f"tokens must be positive, found {tokens}")
        return tokens


class Only(Section):
    """Restricts an arm to some cells; an absent list means all."""

    mixes: tuple[str, ...] | None = Field(None, min_length=1, description="mixes the arms are trained on")
    layers: tuple[int, ...] | None = Field(None, min_length=1, description="layers the arms are trained on")
    sites: tuple[Site, ...] | None = Field(None, min_length=1, description="sites the arms are trained on")
    expansions: tuple[float, ...] | None = Field(None, min_length=1, description="expansion factors the arms are trained at")


class ArmGroup(Section):
    """Arms of every cell: one architecture at one or more sparsities, budgets and seeds."""

    preset: str | None = Field(None, exclude=True, description="ready-made settings of these arms, see training presets below; keys beside it win")
    adjust: str | None = Field(None, exclude=True, description="ready-made factors on the settings of these arms, instead of the defaults' own")
    name: Name | None = Field(
        None, description="a word appended to the labels of these arms, to tell them from arms that differ in what no label shows"
    )
    architecture: Literal["topk", "batchtopk", "matryoshka", "jumprelu", "gated", "relu"] = Field(description="activation and loss of the SAE")
    k: int | tuple[int, ...] | None = Field(None, description="active latents per token (topk, batchtopk, matryoshka)")
    target_l0: float | tuple[float, ...] | None = Field(None, description="mean active latents per token to steer to (jumprelu, gated, relu)")
    seeds: tuple[Seed, ...] = Field((0,), min_length=1, description="initialisation seeds")
    only: Only = Field(default_factory=Only, description="cells that have these arms")
    tokens: int | tuple[int, ...] | None = None
    batch_size: int | None = Field(None, ge=1)
    accumulate: int | None = Field(None, ge=1)
    learning_rate: float | None = Field(None, gt=0)
    learning_rate_scaling: Literal["fixed", "inverse_sqrt_width"] | None = None
    warmup_share: float | None = Field(None, ge=0, lt=1)
    decay_share: float | None = Field(None, ge=0, lt=1)
    decay: Literal["linear", "cosine"] | None = None
    budgets: Literal["separate", "trunk"] | None = None
    auxk_coefficient: float | None = Field(None, ge=0)
    l1_coefficient: float | None = Field(None, ge=0)
    diversity_coefficient: float | None = Field(None, ge=0)
    tilt: float | None = None
    matryoshka_shares: tuple[float, ...] | None = None
    warm_start: str | None = None
    dead_window_share: float | None = Field(None, gt=0, le=1)
    b_dec_init: Literal["zero", "mean", "geometric_median"] | None = None
    normalise: bool | None = None
    data_seed: Seed | None = None

    _tokens = field_validator("tokens")(lambda tokens: tokens if tokens is None else TrainingDefaults._positive(tokens))
    _shares = field_validator("matryoshka_shares")(lambda shares: shares if shares is None else TrainingDefaults._nested(shares))

    @model_validator(mode="after")
    def _sparsity_fits_architecture(self) -> ArmGroup:
        wanted, other = ("k", "target_l0") if self.architecture in WITH_K else ("target_l0", "k")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"architecture {self.architecture} needs '{wanted}' and takes no '{other}'")
        values = _as_tuple(getattr(self, wanted))
        if not values or any(value <= 0 for value in values):
            raise ValueError(f"{wanted} must be positive, one number or a list of them, found {list(values) if len(values) != 1 else values[0]}")
        return self

    @model_validator(mode="after")
    def _says_what_is_read(self) -> ArmGroup:
        for name, readers in READ_BY.items():
            if getattr(self, name) is not None and self.architecture not in readers:
                raise ValueError(f"{name} is read by {', '.join(readers)} only, found it in an arm of architecture {self.architecture}; remove it")
        return self


class Saes(Section):
    """The SAEs: dictionary widths (a partition dimension) and the arms trained in every cell."""

    expansions: tuple[float, ...] = Field(min_length=1, description="d_sae / d_model; below 1 is undercomplete")
    defaults: TrainingDefaults = Field(default_factory=lambda: TrainingDefaults(), description="settings of every arm")
    arms: tuple[ArmGroup, ...] = Field(min_length=1, description="what is trained in every cell")
    checkpoint_every: int = Field(500, ge=1, description="training steps between checkpoints")
    monitor_every: int = Field(100, ge=1, description="training steps between rows of the training table (loss parts, L0, dead share, rate, memory)")

    @field_validator("expansions")
    @classmethod
    def _distinct(cls, expansions: tuple[float, ...]) -> tuple[float, ...]:
        if len({f"{e:g}" for e in expansions}) != len(expansions) or any(e <= 0 for e in expansions):
            raise ValueError(f"expansions must be positive and distinct in their first six digits, found {list(expansions)}")
        return expansions


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
        description="health rubrics: names in sae_pipeline/analysis/rubrics or paths to YAML files; the first gives the bottom lines and the asset checks, "
        "the others are shown beside it",
    )


class Schedules(Section):
    """When the daemon re-materialises on its own."""

    report: str = Field("0 3 * * 1", description="cron expression of the scheduled refresh of tables, findings and report (Monday 03:00 UTC)")

    @field_validator("report")
    @classmethod
    def _cron(cls, value: str) -> str:
        if len(value.split()) != 5:
            raise ValueError(f"expected a cron expression of five fields such as '0 3 * * 1', found '{value}'")
        return value


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
    analysis: Analysis = Field(default_factory=lambda: Analysis())
    schedules: Schedules = Field(default_factory=lambda: Schedules())
    compute: Compute = Field(default_factory=lambda: Compute())

    @property
    def hook_points(self) -> tuple[HookPoint, ...]:
        """Every site of every layer, in the study's order."""
        return tuple(HookPoint(layer, site) for site in self.activations.sites for layer in self.activations.layers)

    @property
    def read_for_positions(self) -> tuple[str, str, float]:
        """(evaluation set, mix, expansion factor) of the position study."""
        asked = self.positions or Positions()
        in_sample = [name for name, declared in self.held_out.items() if declared.kind == "in_sample"]
        evaluation_set = asked.evaluation_set or [*in_sample, *self.held_out][0]
        return evaluation_set, asked.mix or next(iter(self.mixes)), asked.expansion or self.saes.expansions[0]

    @field_validator("mixes")
    @classmethod
    def _mix_shares(cls, mixes: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for name, shares in mixes.items():
            try:
                _sum_to_one(shares)
            except ValueError as error:
                raise ValueError(f"mix {name}: {error}") from None
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
        for taken in sorted({"held_out", "sources", "subject", "reports", "positions"} & set(self.mixes)):
            raise ValueError(f"mixes.{taken}: this name is taken by a group of the asset graph; choose another")
        asked = self.positions or Positions()
        for key, wanted, declared_here in (
            ("evaluation_set", asked.evaluation_set, tuple(self.held_out)),
            ("mix", asked.mix, tuple(self.mixes)),
            ("expansion", asked.expansion, self.saes.expansions),
        ):
            if wanted is not None and wanted not in declared_here:
                raise ValueError(f"positions.{key} names {wanted}, which the study does not have; it has: {', '.join(map(str, declared_here))}")
        for group in self.saes.arms:
            for field, allowed in (
                ("mixes", self.mixes),
                ("layers", self.activations.layers),
                ("sites", self.activations.sites),
                ("expansions", self.saes.expansions),
            ):
                for value in getattr(group.only, field) or ():
                    if value not in allowed:
                        raise ValueError(
                            f"saes.arms only.{field} names {value}, which the study does not have; it has: {', '.join(map(str, allowed))}"
                        )
            section = group if group.tokens is not None else self.saes.defaults
            budgets = _as_tuple(section.tokens)
            if max(budgets) > self.activations.tokens and not self.corpus.repeat:
                adjusted = f" (adjust {section.adjust})" if section.adjust else ""
                raise ValueError(
                    f"saes.arms asks for {max(budgets)} training tokens{adjusted} but activations.tokens is {self.activations.tokens}; "
                    "raise activations.tokens, lower the budget, or set corpus.repeat: true to pass over the text again"
                )
        return self


def _as_tuple(value: object) -> tuple:
    """A scalar or a list from YAML as a tuple."""
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)

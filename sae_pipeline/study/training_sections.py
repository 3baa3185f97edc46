"""Sections of a study file about what is trained on what: activations, and SAEs with their arms."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from sae_pipeline.saes.arm import READ_BY, WITH_K
from sae_pipeline.study.section import Dtype, Name, Section, Seed, Site, as_tuple

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
        return as_tuple(self.site)

    @field_validator("site")
    @classmethod
    def _distinct_sites(cls, site: Site | tuple[Site, ...]) -> Site | tuple[Site, ...]:
        if not as_tuple(site) or len(set(as_tuple(site))) != len(as_tuple(site)):
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
    accumulate: int = Field(1, ge=1, description="equal parts that a step's batch is processed in, to need less memory; gradients are summed")
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
    l1_coefficient: float = Field(0.0, ge=0, description="weight of an extra L1 penalty on the latents, on top of the architecture's own loss")
    diversity_coefficient: float = Field(
        0.0, ge=0, description="weight of the squared cosine similarity between decoder rows of latents that are active together"
    )
    tilt: float = Field(
        0.0, description="t of the tilted empirical risk (1/t) log mean exp(t loss) over a batch's tokens (TERM, Li et al. 2021); 0 is the mean"
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
        if not as_tuple(tokens) or any(t < 1 for t in as_tuple(tokens)):
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

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError(f"seeds must be distinct, since equal ones give the same SAE, found {list(seeds)}")
        return seeds

    _tokens = field_validator("tokens")(lambda tokens: tokens if tokens is None else TrainingDefaults._positive(tokens))
    _shares = field_validator("matryoshka_shares")(lambda shares: shares if shares is None else TrainingDefaults._nested(shares))

    @model_validator(mode="after")
    def _sparsity_fits_architecture(self) -> ArmGroup:
        wanted, other = ("k", "target_l0") if self.architecture in WITH_K else ("target_l0", "k")
        if getattr(self, wanted) is None or getattr(self, other) is not None:
            raise ValueError(f"architecture {self.architecture} needs '{wanted}' and takes no '{other}'")
        values = as_tuple(getattr(self, wanted))
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

"""The section of a study file that asks which features its SAEs share."""

from __future__ import annotations

from collections.abc import Collection
from typing import Literal

from pydantic import Field

from sae_pipeline.study.section import Name, Section

Factor = Literal["mix", "expansion", "seed", "architecture", "sparsity", "tokens", "objective"]
FACTORS: tuple[Factor, ...] = ("mix", "expansion", "seed", "architecture", "sparsity", "tokens", "objective")
"""What two matched SAEs may differ in; ``objective`` is any one setting of an arm that the others do not name."""


class MatchedLayers(Section):
    """Which SAEs are matched across layers: of one cell, at every layer of a site, the first arm of each architecture and sparsity."""

    mix: Name | None = Field(None, description="training mix of the SAEs; None: the first")
    expansion: float | None = Field(None, description="expansion factor of the SAEs; None: the first")
    sparsities: int = Field(2, ge=1, description="most sparsities that are looked at of each architecture, the first in the study's order")


class Matching(Section):
    """Which features SAEs share, and what decides it; `matching: {}` asks for it.

    At every hook point the SAEs that differ in exactly one factor are matched by their directions, pair by pair; the same arm is
    matched across layers.
    """

    threshold: float = Field(0.7, gt=0, lt=1, description="cosine above which, strictly, two directions count as the same")
    factors: tuple[Factor, ...] = Field(
        FACTORS, min_length=1, description="factors whose pairs are matched; objective: any one other setting of an arm"
    )
    pairs_per_factor: int = Field(
        24, ge=1, description="most pairs matched per factor and hook point, taken evenly from all; how many were left out is in `match_pairs`"
    )
    pairs: tuple[tuple[str, str], ...] = Field(
        (), description="pairs of SAEs, `[ID, ID]`, that are matched in any case; each may differ in one factor only"
    )
    evaluation_set: Name | None = Field(None, description="held-out set on which a latent that fires is alive; None: the first of kind in_sample")
    correlation_tokens: int = Field(
        4_096, ge=0, description="tokens of that set over which activations are correlated, as a second view of every pair; 0 for none"
    )
    layers: MatchedLayers = Field(default_factory=lambda: MatchedLayers())
    umap: bool = Field(
        False,
        description="whether the decoder directions of the SAEs matched across layers are drawn in the plane, which needs the package umap-learn",
    )

    def check(self, held_out: Collection[str], mixes: Collection[str], expansions: Collection[float]) -> None:
        """Refuse names that the study does not have.

        Raises:
            ValueError: as said.
        """
        for key, wanted, declared in (
            ("evaluation_set", self.evaluation_set, held_out),
            ("layers.mix", self.layers.mix, mixes),
            ("layers.expansion", self.layers.expansion, expansions),
        ):
            if wanted is not None and wanted not in declared:
                raise ValueError(f"matching.{key} names {wanted}, which the study does not have; it has: {', '.join(map(str, declared))}")

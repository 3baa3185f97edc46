"""One SAE configuration: everything that decides how a dictionary of a given width is trained on a given stream."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sae_pipeline.errors import StudyError

WITH_K = ("topk", "batchtopk", "matryoshka")
"""Architectures whose sparsity is a number of active latents; the others are steered to a target L0."""

WITH_AUXK = ("topk", "batchtopk", "matryoshka")
"""Architectures with an auxiliary loss on dead latents."""

READ_BY = {"auxk_coefficient": WITH_AUXK, "matryoshka_shares": ("matryoshka",)}
"""Fields that only some architectures read."""


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One SAE configuration, fully resolved except for what depends on the subject's width.

    ``k`` is set for the architectures of ``WITH_K``, ``target_l0`` for the others. The meaning of every other field is
    that of the study file (``TrainingDefaults``), except:

    Attributes:
        learning_rate: None means 2e-4 at 2**14 latents (Gao et al. 2024), scaled by the width whatever
            ``learning_rate_scaling`` says.
        trunk_tokens: None for a schedule of its own; otherwise the budget whose shares give warm-up and dead window, so
            that all budgets of the trunk have them in common.
        warm_start: folder of the SAE to begin with, or None.
        warm_start_content: SHA-256 of its weights, which identifies it wherever it lies.
    """

    architecture: str
    k: int | None
    target_l0: float | None
    tokens: int
    init_seed: int
    data_seed: int
    batch_size: int
    learning_rate: float | None
    warmup_share: float
    decay_share: float
    auxk_coefficient: float
    dead_window_share: float
    b_dec_init: str
    normalise: bool
    learning_rate_scaling: str = "fixed"
    decay: str = "linear"
    trunk_tokens: int | None = None
    accumulate: int = 1
    l1_coefficient: float = 0.0
    diversity_coefficient: float = 0.0
    tilt: float = 0.0
    matryoshka_shares: tuple[float, ...] = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
    warm_start: str | None = None
    warm_start_content: str | None = None

    @property
    def sparsity(self) -> float:
        """k or the target L0: the number the arm is labelled with."""
        return self.k if self.k is not None else self.target_l0  # type: ignore[return-value]

    @property
    def label(self) -> str:
        """Short name, unique among the arms that the study format can tell apart by architecture, sparsity, budget, seed."""
        letter = "k" if self.k is not None else "l"
        return f"{self.architecture}-{letter}{self.sparsity:g}-t{_compact(self.tokens)}-s{self.init_seed}"

    def identity(self) -> dict[str, Any]:
        """What enters the fingerprint of the trained SAE: all but what its architecture does not read, and where a file lies."""
        return {
            name: value
            for name, value in asdict(self).items()
            if self.architecture in READ_BY.get(name, (self.architecture,)) and name != "warm_start"
        }


def check_division(arm: Arm, label: str) -> None:
    """Refuse a batch that does not divide into ``accumulate`` equal parts; ``label`` says whose.

    Raises:
        StudyError: as said.
    """
    if arm.batch_size % arm.accumulate:
        raise StudyError(
            f"{label}: expected a batch_size that divides into accumulate equal parts, found batch_size {arm.batch_size} and "
            f"accumulate {arm.accumulate}; change one of them in saes"
        )


def _compact(tokens: int) -> str:
    """200000 as ``200k``, 1500000 as ``1.5M``; exact, so that two budgets never share a label."""
    for unit, letter in ((1_000_000, "M"), (1_000, "k")):
        if tokens >= unit and (tokens * 10) % unit == 0:
            return f"{tokens / unit:g}{letter}"
    return str(tokens)

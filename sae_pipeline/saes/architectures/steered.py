"""What architectures with a sparsity penalty share (ReLU, Gated, JumpReLU): a coefficient steered to the arm's target L0."""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

from torch import Tensor

from sae_pipeline.saes.architectures.sparse import SparseArchitecture
from sae_pipeline.saes.calibration import threshold_keeping
from sae_pipeline.saes.kernels import SparseCode
from sae_pipeline.saes.sparsity import SparsityController


class SteeredArchitecture(SparseArchitecture):
    """Normalised squared error plus coefficient times a sparsity measure; subclasses call :meth:`steer_from` in ``start``."""

    correction_gain: ClassVar[float]
    """See :class:`SparsityController`; of the gains tried on planted features (benchmarks/recovery.py) one that found them all."""
    controller: SparsityController

    @property
    def target_l0(self) -> float:
        """Mean active latents per token to reach."""
        assert self.arm.target_l0 is not None
        return self.arm.target_l0

    @abstractmethod
    def raise_thresholds(self, amount: float) -> None:
        """Raise every latent's threshold by about ``amount`` (of the threshold, or of the inputs' scale); negative lowers."""

    @abstractmethod
    def sparsity(self, code: SparseCode) -> float:
        """The sparsity measure summed over a batch."""

    def steer_from(self, coefficient: float) -> None:
        """Begin to steer, with this weight of the sparsity term."""
        self.controller = SparsityController(self.target_l0, coefficient, self.correction_gain)

    def initial_threshold(self) -> float:
        """The common threshold at which the untrained encoder has the target L0 on the sample.

        A run of a few hundred steps has no time to come down from half of the dictionary, which is where random
        weights start, so steered architectures begin at their target.
        """
        sample = self.statistics.sample
        return threshold_keeping(self.sample_pre_activations(sample), round(self.target_l0 * len(sample)))

    def further_terms(self, centred: Tensor, error: Tensor, code: SparseCode) -> tuple[float, dict[str, float]]:
        """The penalty; its gradients are already in :meth:`backward`."""
        sparsity = self.sparsity(code) / len(centred)
        coefficient = self.controller.coefficient
        return coefficient * sparsity, {"sparsity": sparsity, "coefficient": coefficient}

    def adjust(self, parts: dict[str, float], fallen: float = 0.0) -> None:
        """Steer by the L0 of the batch."""
        self.controller.observe(parts["l0"])
        self.raise_thresholds(self.controller.correction(fallen))

    def extra_state(self) -> dict[str, Tensor]:
        """The controller's state."""
        return {"controller": self.controller.state()}

    def load_extra_state(self, state: dict[str, Tensor]) -> None:
        """Restore the controller."""
        self.controller.load_state(state["controller"])


class BiasSteeredArchitecture(SteeredArchitecture):
    """An L1 penalty, with encoder biases in the place of thresholds: a latent is active above -b_enc."""

    def start(self) -> None:
        """Begin with biases that give the target L0, and the penalty whose shrinkage is a tenth of that bias."""
        threshold = self.initial_threshold()
        self.b_enc.fill_(-threshold)
        coefficient = 0.2 * max(threshold, 1e-3 * self.statistics.rms) / self.spread
        self.steer_from(coefficient)

    def raise_thresholds(self, amount: float) -> None:
        """Lower the encoder biases."""
        self.b_enc.sub_(amount * self.statistics.rms)

    def active_scores(self, pre: Tensor) -> Tensor:
        """Pre-activations (rows, d_sae), -inf where a latent stays inactive whatever its bias."""
        return pre

    def calibrate(self, sample: Tensor) -> None:
        """Shift all encoder biases by one constant, so that the sample's mean L0 is the target.

        Steering leaves a few per cent, because a batch's L0 is noisy and weights move until the last step.
        """
        lowest = -10 * self.statistics.rms  # Far below any bias in use; reached only by a target of all latents.
        scores = (self.active_scores(pre) for pre in self.sample_pre_activations(sample))
        self.b_enc.sub_(threshold_keeping(scores, round(self.target_l0 * len(sample)), lowest))

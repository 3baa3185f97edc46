"""JumpReLU (Rajamanoharan et al. 2024, "Jumping ahead"): a trained threshold per latent and an L0 penalty.

The thresholds get their gradients from straight-through estimators with a rectangle kernel; they are trained directly,
because Adam barely moves the logarithm of a small threshold.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from sae_pipeline.saes.architectures.steered import SteeredArchitecture
from sae_pipeline.saes.calibration import threshold_keeping
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.kernels import ByLatent, SparseCode, encode_above

BANDWIDTH = 0.1
"""Width of the kernel in units of the inputs' root mean square coordinate, which is the scale of pre-activations."""


class JumpReLU(SteeredArchitecture):
    """f = pre * H(pre - threshold), pre = (x - b_dec) W_enc + b_enc; sparsity = L0."""

    name = "jumprelu"
    correction_gain = 0.1
    latent_parameters = ("threshold",)

    def start(self) -> None:
        """Begin with thresholds that give the target L0, and the penalty that balances the error there.

        A latent at its threshold t changes the squared error by about t^2, so t^2 over the variance is the coefficient
        at which dropping and keeping it cost the same.
        """
        unit = self.statistics.rms
        self.threshold = self.latent["threshold"]
        self._bandwidth = BANDWIDTH * unit
        # Thresholds stay above half a bandwidth, so that the kernel never reaches negative pre-activations.
        self._least = self._bandwidth / 2
        threshold = max(self.initial_threshold(), self._least)
        self.threshold.fill_(threshold)
        self.steer_from(threshold**2 / self.statistics.variance)

    def select(self, centred: Tensor) -> SparseCode:
        """Pre-activations above the threshold, unshrunk, and those below it that the kernel reaches, with value 0."""
        half = self._bandwidth / 2
        code = encode_above(centred, self.W_enc, self.b_enc, self.threshold - half, self.workspace)
        distance = code.values - self.threshold[code.latents]
        return code._replace(values=code.values.masked_fill(distance <= 0, 0), near=distance < half)

    def sparsity(self, code: SparseCode) -> float:
        """Number of active latents."""
        return float((code.values > 0).sum())

    def backward(self, code: SparseCode, value_gradient: Tensor, by_latent: ByLatent) -> Tensor:
        """Within half a bandwidth of the threshold t, df/dt = -t / bandwidth and dL0/dt = -1 / bandwidth (the paper's estimators)."""
        assert code.near is not None
        n_tokens = len(code.starts) - 1
        pull = by_latent.sum(value_gradient.masked_fill(~code.near, 0)).mul_(self.threshold)
        push = by_latent.sum(code.near.to(value_gradient.dtype)).mul_(self.controller.coefficient / n_tokens)
        self.gradient["threshold"].copy_(pull.add_(push).div_(-self._bandwidth))
        return super().backward(code, value_gradient, by_latent)

    def raise_thresholds(self, amount: float) -> None:
        """Scale the thresholds, within their bound."""
        self.threshold.mul_(1 + amount).clamp_min_(self._least)

    def calibrate(self, sample: Tensor) -> None:
        """Multiply all thresholds by one constant, so that the sample's mean L0 is the target.

        Steering leaves a few per cent, because a batch's L0 is noisy and weights move until the last step. A latent is
        active when pre / threshold exceeds the constant, so the constant is an order statistic of that ratio.
        """
        scores = (pre / self.threshold for pre in self.sample_pre_activations(sample))
        self.threshold.mul_(threshold_keeping(scores, round(self.target_l0 * len(sample))))

    def export(self, metadata: dict[str, Any]) -> InferenceSAE:
        """JumpReLU with the trained thresholds."""
        return self.folded("jumprelu", metadata, threshold=self.threshold)

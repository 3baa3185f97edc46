"""What every SAE architecture has: parameters, a training step without autograd, and an export to inference form.

The gradients are written by hand, because only the active latents have one: autograd would do dense work on the
(n_tokens, d_sae) activation that a sparse step never builds. The tests hold every step against autograd in float64.

Everything here is in normalised units (raw activations times ``statistics.scale``); :meth:`Architecture.export` folds
the scale into the biases and thresholds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor

from sae_pipeline.saes.arm import Arm
from sae_pipeline.saes.chunks import CHUNK
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.initialisation import InputStatistics, decoder_bias, unit_rows
from sae_pipeline.saes.kernels import Workspace


class Architecture(ABC):
    """Parameters of one SAE in training and the arithmetic of its step.

    Attributes:
        W_enc (d_model, d_sae), b_enc (d_sae,), W_dec (d_sae, d_model) with unit-norm rows, b_dec (d_model,): views of
            the flat ``parameters``; ``gradients`` has the same layout (see :meth:`views`).
        tokens_since_fired: (d_sae,) int64, activations seen since each latent was last active.
    """

    name: ClassVar[str]
    """What a study file calls it."""
    latent_parameters: ClassVar[tuple[str, ...]] = ()
    """Names of further trained parameters of shape (d_sae,)."""

    def __init__(
        self,
        arm: Arm,
        d_model: int,
        d_sae: int,
        statistics: InputStatistics,
        workspace: Workspace,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.arm, self.d_model, self.d_sae = arm, d_model, d_sae
        self.statistics, self.workspace = statistics, workspace
        size = 2 * d_sae * d_model + d_model + d_sae * (1 + len(self.latent_parameters))
        # One flat buffer lets the optimiser update all parameters in one fused pass.
        self.parameters = torch.zeros(size, dtype=dtype, device=device)
        self.gradients = torch.zeros_like(self.parameters)
        parameters, self.gradient = self.views(self.parameters), self.views(self.gradients)
        self.W_enc, self.W_dec = parameters["W_enc"], parameters["W_dec"]
        self.b_enc, self.b_dec = parameters["b_enc"], parameters["b_dec"]
        self.latent = {name: parameters[name] for name in self.latent_parameters}
        self.tokens_since_fired = torch.zeros(d_sae, dtype=torch.int64, device=device)
        self.dead_window = max(1, round(arm.dead_window_share * (arm.tokens if arm.trunk_tokens is None else arm.trunk_tokens)))
        self.W_dec.copy_(unit_rows(d_sae, d_model, arm.init_seed))
        self.W_enc.copy_(self.W_dec.t())
        self.b_dec.copy_(decoder_bias(arm.b_dec_init, statistics))
        self.start()

    def views(self, flat: Tensor) -> dict[str, Tensor]:
        """The parameters' places in a flat buffer. Both matrices lie latent after latent, which is how sparse gradients
        arrive; W_enc is the transposed view, so that it has the shape of the literature."""
        latents, width = self.d_sae, self.d_model
        names = ("b_enc", *self.latent_parameters)
        encoder, decoder, b_dec, *vectors = flat.split([latents * width, latents * width, width, *[latents] * len(names)])
        return {
            "W_enc": encoder.view(latents, width).t(),
            "W_dec": decoder.view(latents, width),
            "b_dec": b_dec,
            **dict(zip(names, vectors, strict=True)),
        }

    # ------------------------------------------------------------------ what an architecture defines

    def start(self) -> None:  # noqa: B027 - most architectures have nothing to start
        """Set further initial values from the statistics; called once, on a fresh SAE."""

    @abstractmethod
    def loss_and_gradients(self, x: Tensor) -> dict[str, float]:
        """Fill ``gradients`` with those of the mean loss of a batch and return its parts.

        Args:
            x: (n_tokens, d_model) normalised activations.

        Returns:
            ``loss`` (what is minimised), ``mse`` (squared error over the input variance), ``l0`` (mean active latents
            per token) and the architecture's further terms and coefficients.
        """

    @abstractmethod
    def export(self, metadata: dict[str, Any]) -> InferenceSAE:
        """The SAE in raw units with its inference rule."""

    def adjust(self, parts: dict[str, float], fallen: float = 0.0) -> None:  # noqa: B027 - most architectures have nothing to adjust
        """React to a step that was taken, given the parts of its loss and how far the rate has fallen (see ``Schedule.fallen``)."""

    def calibrate(self, sample: Tensor) -> None:  # noqa: B027 - most architectures have nothing to calibrate
        """Fix what inference needs once training has ended, on a sample (n, d_model) of normalised activations.

        The sample holds no row that the SAE was trained on, because what it has learned fits those better than others.
        """

    def extra_state(self) -> dict[str, Tensor]:
        """State beside parameters and counters that a checkpoint must hold."""
        return {}

    def load_extra_state(self, state: dict[str, Tensor]) -> None:  # noqa: B027 - most architectures have none
        """Restore what :meth:`extra_state` gave."""

    # ------------------------------------------------------------------ what all share

    def count_fired(self, fired: Tensor, n_tokens: int) -> None:
        """Advance the dead-latent counters by a batch in which the latents ``fired`` (d_sae,) bool were active."""
        self.tokens_since_fired.add_(n_tokens).masked_fill_(fired, 0)

    @property
    def dead(self) -> Tensor:
        """(d_sae,) bool: silent for the arm's dead window."""
        return self.tokens_since_fired >= self.dead_window

    def sample_pre_activations(self, sample: Tensor) -> Iterator[Tensor]:
        """Pre-activations (rows, d_sae) of a normalised sample (n, d_model), block by block; a block is overwritten by the next."""
        for rows in sample.split(CHUNK):
            centred = rows.to(self.parameters) - self.b_dec
            out = self.workspace.get("pre", self.parameters, len(rows), self.d_sae)
            yield torch.addmm(self.b_enc, centred, self.W_enc, out=out)

    def folded(
        self,
        activation: str,
        metadata: dict[str, Any],
        *,
        k: int | None = None,
        threshold: Tensor | None = None,
        r_mag: Tensor | None = None,
        b_mag: Tensor | None = None,
    ) -> InferenceSAE:
        """An inference SAE for raw inputs x = x_normalised / s.

        With W_enc, W_dec and r_mag unchanged and the biases and threshold divided by s, the latents come out divided by s
        and the reconstruction is the normalised one divided by s: exactly the same function in raw units.
        """
        scale = self.statistics.scale
        copied = {"W_enc": self.W_enc, "b_enc": self.b_enc / scale, "W_dec": self.W_dec, "b_dec": self.b_dec / scale}
        if threshold is not None:
            copied["threshold"] = threshold / scale
        if r_mag is not None and b_mag is not None:
            copied |= {"r_mag": r_mag, "b_mag": b_mag / scale}
        tensors = {name: tensor.detach().float().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in copied.items()}
        return InferenceSAE(**tensors, activation=activation, k=k, metadata=metadata)

"""The training step all architectures share: normalised squared error, with products over active latents only.

A token's reconstruction is the weighted sum of the W_dec rows of its active latents, and a latent's gradient is the
weighted sum of the tokens on which it is active; the dense (n_tokens, d_sae) activation is never built.

The loss is the sum of

- the mean over tokens, or with ``arm.tilt`` the tilted risk, of a token's squared error over the inputs' variance;
  where an architecture has several reconstructions, a token's error is their weighted sum;
- the architecture's own further terms;
- ``arm.l1_coefficient`` times the mean L1 of a token's latents over the square root of the inputs' variance;
- ``arm.diversity_coefficient`` times the mean squared cosine of co-active latents (see ``objectives``).

``saes/reference.py`` writes the same losses as dense formulas for autograd.
"""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from sae_pipeline.saes.architectures.base import Architecture
from sae_pipeline.saes.kernels import ByLatent, SparseCode, reconstruction_error, tokens_of
from sae_pipeline.saes.objectives import add_diversity, effective_sample_size, tilted


class SparseArchitecture(Architecture):
    """An SAE whose activation keeps some pre-activations and drops the others; gradients flow through the kept ones."""

    @property
    def error_weight(self) -> float:
        """What each reconstruction's squared error counts for."""
        return 1.0

    @property
    def spread(self) -> float:
        """Square root of the inputs' total variance: the unit of an L1 penalty."""
        return self.statistics.variance**0.5

    # ------------------------------------------------------------------ what an architecture defines

    @abstractmethod
    def select(self, centred: Tensor) -> SparseCode:
        """Active latents of a batch; ``centred`` is x - b_dec, (n_tokens, d_model)."""

    def split(self, code: SparseCode) -> list[SparseCode]:
        """The codes that are decoded one by one; for most architectures the code itself."""
        return [code]

    def reconstruct(self, centred: Tensor, codes: list[SparseCode]) -> tuple[list[Tensor], list[Tensor]]:
        """Decode what the loss compares with the batch.

        Returns:
            x_hat - x, (n_tokens, d_model) each, of the reconstructions, the SAE's own first; and where each of the
            codes has an error of its own, its products (entries,) with the W_dec rows of the code's entries.
        """
        errors, products = [], []
        for number, code in enumerate(codes):
            # b_dec cancels in x_hat - x = f W_dec + b_dec - x.
            error, product = reconstruction_error(code, self.W_dec, centred, out=self.error_memory(centred, number))
            errors.append(error)
            products.append(product)
        return errors, products

    def error_memory(self, like: Tensor, number: int) -> Tensor:
        """Where a reconstruction's error is kept during a step."""
        return self.workspace.get(f"error {number}", like, *like.shape)

    def error_parts(self, errors: list[float]) -> dict[str, float]:
        """Mean normalised squared errors by name, in the order of :meth:`reconstruct`."""
        return {"mse": errors[0]}

    def decoder_gradients(
        self, code: SparseCode, codes: list[SparseCode], pulls: list[Tensor], products: list[Tensor], by_latent: ByLatent
    ) -> list[Tensor]:
        """Fill W_dec's gradient and the output's part of b_dec's.

        Args:
            pulls: the loss's gradients by the reconstructions, (n_tokens, d_model) each, in the order of :meth:`reconstruct`.
            products: those of the pulls, likewise.

        Returns:
            The loss's gradient by the code's values (entries,), and by those of other codes that :meth:`encoder_gradients` needs.
        """
        by_latent.weighted_sum(pulls[0], code.values, out=self.gradient["W_dec"])
        torch.sum(pulls[0], 0, out=self.gradient["b_dec"])
        return products

    def backward(self, code: SparseCode, value_gradient: Tensor, by_latent: ByLatent) -> Tensor:
        """Gradient (entries,) of the loss by pre-activations, given that by the entries' values.

        An architecture with a term of its own on the activations adds it here, and fills its latent parameters' gradients.
        """
        return value_gradient.masked_fill(code.values <= 0, 0)

    def encoder_gradients(self, centred: Tensor, code: SparseCode, value_gradients: list[Tensor], by_latent: ByLatent) -> None:
        """Fill the gradients of W_enc, b_enc and the latent parameters, given what :meth:`decoder_gradients` returned."""
        pre_gradient = self.backward(code, value_gradients[0], by_latent)
        by_latent.weighted_sum(centred, pre_gradient, out=self.gradient["W_enc"].t())
        self.gradient["b_enc"].copy_(by_latent.sum(pre_gradient))

    def projection_gradient(self) -> Tensor:
        """Gradient (d_sae,) by (x - b_dec) W_enc, summed over tokens: b_enc's, where nothing but b_enc is added to it."""
        return self.gradient["b_enc"]

    @abstractmethod
    def further_terms(self, centred: Tensor, error: Tensor, code: SparseCode) -> tuple[float, dict[str, float]]:
        """The rest of the architecture's own loss: its contribution, and its parts for the record.

        Called when ``gradient`` holds those of W_enc, b_enc and W_dec, to which it may add.
        ``error`` (n_tokens, d_model) is x_hat - x.
        """

    # ------------------------------------------------------------------ the step

    def loss_and_gradients(self, x: Tensor) -> dict[str, float]:
        """See :meth:`Architecture.loss_and_gradients`."""
        n, arm = len(x), self.arm
        centred = torch.sub(x, self.b_dec, out=self.workspace.get("centred", x, n, self.d_model))
        code = self.select(centred)
        codes = self.split(code)
        errors, products = self.reconstruct(centred, codes)
        loss, factors, parts = self._risk(errors)
        # The SAE's own error is still needed by further terms; the others are not.
        own = torch.mul(errors[0], factors, out=self.workspace.get("pull", x, n, self.d_model))
        pulls = [own, *(error.mul_(factors) for error in errors[1:])]
        entry_factors = factors.view(-1)[tokens_of(code)] if isinstance(factors, Tensor) else factors
        products = [product.mul_(entry_factors) for product in products]

        by_latent = ByLatent(code, n, self.d_sae)
        value_gradients = self.decoder_gradients(code, codes, pulls, products, by_latent)
        if arm.l1_coefficient:
            value_gradients[0].add_(arm.l1_coefficient / (n * self.spread))
            parts["l1"] = code.values.sum().item() / (n * self.spread)
            loss += arm.l1_coefficient * parts["l1"]
        self.encoder_gradients(centred, code, value_gradients, by_latent)
        if arm.diversity_coefficient:
            parts["diversity"] = add_diversity(code, self.W_dec, self.gradient["W_dec"], arm.diversity_coefficient)
            loss += arm.diversity_coefficient * parts["diversity"]
        contribution, further = self.further_terms(centred, errors[0], code)
        # b_dec is added to the output and subtracted from the input.
        self.gradient["b_dec"].sub_(self.W_enc @ self.projection_gradient())

        active = code.values > 0
        fired = torch.zeros(self.d_sae, dtype=torch.bool, device=x.device)
        fired[code.latents[active]] = True
        self.count_fired(fired, n)
        return {"loss": loss + contribution, **parts, **further, "l0": int(active.sum()) / n}

    def _risk(self, errors: list[Tensor]) -> tuple[float, Tensor | float, dict[str, float]]:
        """Risk of the reconstructions, the factor (one, or one per token) that makes each error its gradient, and the parts."""
        n, variance, weight = len(errors[0]), self.statistics.variance, self.error_weight
        if not self.arm.tilt:
            means = [torch.dot(error.view(-1), error.view(-1)).item() / (n * variance) for error in errors]
            return weight * sum(means), 2 * weight / (n * variance), self.error_parts(means)
        squares = torch.stack([error.square().sum(1) for error in errors]).div_(variance)
        risk, weights = tilted(weight * squares.sum(0), self.arm.tilt)
        parts = self.error_parts(squares.mean(1).tolist())
        parts |= {"tilted_error": risk, "effective_sample_size": effective_sample_size(weights)}
        return risk, weights.mul_(2 * weight / variance).to(squares).unsqueeze(1), parts

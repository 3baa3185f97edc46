"""AuxK (Gao et al. 2024, "Scaling and evaluating sparse autoencoders"): dead latents learn from what the live ones miss."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_pipeline.saes.architectures.sparse import SparseArchitecture
from sae_pipeline.saes.kernels import SparseCode


class AuxKArchitecture(SparseArchitecture):
    """Normalised squared error plus ``auxk_coefficient`` times AuxK, for architectures with a fixed number of active latents."""

    def further_terms(self, centred: Tensor, error: Tensor, code: SparseCode) -> tuple[float, dict[str, float]]:
        """AuxK while any latent is dead, with gradients to W_enc, b_enc and W_dec of dead latents."""
        dead = self.dead.nonzero().view(-1)
        if not self.arm.auxk_coefficient or not len(dead):
            return 0.0, {"auxk": 0.0}
        loss = self._add_auxk(centred, error, dead)
        return self.arm.auxk_coefficient * loss, {"auxk": loss}

    def _add_auxk(self, centred: Tensor, error: Tensor, dead: Tensor) -> float:
        """Add AuxK's gradients and return the loss before its coefficient.

        Every token's largest rectified pre-activations among the dead latents, d_model / 2 of them, reconstruct the residual
        x - x_hat. The residual is a constant here (no gradient reaches the live latents), its reconstruction has no
        b_dec, and the loss is relative to the residual's own energy.
        """
        encoder, decoder = self.W_enc.t()[dead], self.W_dec[dead]
        f = torch.addmm(self.b_enc[dead], centred, encoder.t()).relu_()
        k_aux = max(1, self.d_model // 2)
        if k_aux < len(dead):
            values, latents = f.topk(k_aux, dim=1, sorted=False)
            f = f.zero_().scatter_(1, latents, values)
        difference = torch.addmm(error, f, decoder)  # f W_dec - (x - x_hat)
        energy = torch.dot(error.view(-1), error.view(-1)).clamp_min(torch.finfo(error.dtype).tiny)
        loss = (torch.dot(difference.view(-1), difference.view(-1)) / energy).item()
        difference.mul_(2 * self.arm.auxk_coefficient / energy)
        pre_gradient = (difference @ decoder.t()).masked_fill_(f <= 0, 0)
        self.gradient["W_dec"].index_add_(0, dead, f.t() @ difference)
        self.gradient["W_enc"].t().index_add_(0, dead, pre_gradient.t() @ centred)
        self.gradient["b_enc"].index_add_(0, dead, pre_gradient.sum(0))
        return loss

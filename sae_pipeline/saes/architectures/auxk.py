"""AuxK (Gao et al. 2024, "Scaling and evaluating sparse autoencoders"): dead latents learn from what the live ones miss."""

from __future__ import annotations

import torch
from torch import Tensor

from sae_pipeline.saes.architectures.sparse import SparseArchitecture
from sae_pipeline.saes.chunks import CHUNK
from sae_pipeline.saes.kernels import SparseCode, chunks_of, shared


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
        encoder, decoder, bias = self.W_enc.t()[dead], self.W_dec[dead], self.b_enc[dead]
        n, k_aux = len(centred), max(1, self.d_model // 2)
        f, difference = centred.new_empty(n, len(dead)), torch.empty_like(error)

        def reconstruct(_: int, first: int, last: int) -> None:
            for tokens in chunks_of(first, last, f.device):
                part = torch.addmm(bias, centred[tokens], encoder.t(), out=f[tokens]).relu_()
                if k_aux < len(dead):
                    values, latents = part.topk(k_aux, dim=1, sorted=False)
                    part.zero_().scatter_(1, latents, values)
                torch.addmm(error[tokens], part, decoder, out=difference[tokens])  # f W_dec - (x - x_hat)

        shared(reconstruct, n, CHUNK)
        energy = torch.dot(error.view(-1), error.view(-1)).clamp_min(torch.finfo(error.dtype).tiny)
        loss = (torch.dot(difference.view(-1), difference.view(-1)) / energy).item()
        difference.mul_(2 * self.arm.auxk_coefficient / energy)
        pre_gradient = torch.empty_like(f)
        gradient = self.gradient

        def pull(_: int, first: int, last: int) -> None:
            for tokens in chunks_of(first, last, f.device):
                torch.mm(difference[tokens], decoder.t(), out=pre_gradient[tokens]).masked_fill_(f[tokens] <= 0, 0)

        def add(_: int, first: int, last: int) -> None:
            for latents in chunks_of(first, last, f.device):
                chosen = dead[latents]
                gradient["W_dec"].index_add_(0, chosen, f[:, latents].t() @ difference)
                gradient["W_enc"].t().index_add_(0, chosen, pre_gradient[:, latents].t() @ centred)
                gradient["b_enc"].index_add_(0, chosen, pre_gradient[:, latents].sum(0))

        shared(pull, n, CHUNK)
        shared(add, len(dead), CHUNK)
        return loss

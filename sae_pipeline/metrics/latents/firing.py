"""How often and how strongly each latent fires, streamed over tokens, and the shares of dead and dense latents."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from sae_pipeline.metrics.reconstruction import active
from sae_pipeline.metrics.registry import DENSE_CUTS, FEW_FIRINGS, RARE_RATE

RULE_OF_THREE = 3.0
"""Expected firings a window must hold before silence says something: with n * rate = 3, silence has a chance of 5 %."""


class FiringStatistics:
    """Counts, mean, variance and maximum per latent over all tokens seen, with and without firing.

    Chunks are reduced in float32 around their own mean and merged in float64 (Chan, Golub and LeVeque 1983), because
    E[f^2] - E[f]^2 in float32 loses the variance of a latent that is always on.
    """

    def __init__(self, d_sae: int) -> None:
        self.tokens = 0
        self.fired = torch.zeros(d_sae, dtype=torch.float64)
        self.mean = torch.zeros(d_sae, dtype=torch.float64)
        self.deviation = torch.zeros(d_sae, dtype=torch.float64)
        self.max = torch.full((d_sae,), -torch.inf, dtype=torch.float32)

    def update(self, latents: Tensor) -> None:
        """Take in a chunk of latents (n_tokens, d_sae), float32; below 2^24 tokens, up to which float32 counts are exact."""
        n = latents.shape[0]
        if n == 0:
            return
        ones = latents.new_ones(n)
        self.fired += (ones @ active(latents)).cpu().double()
        self.max = torch.maximum(self.max, latents.amax(0).cpu())
        centre = (ones @ latents) / n
        residual = latents - centre
        slip = (ones @ residual).cpu().double() / n  # rounding of the float32 mean
        mean = centre.cpu().double() + slip
        deviation = (ones @ residual.square_()).cpu().double() - n * slip**2
        total, step = self.tokens + n, mean - self.mean
        self.deviation += deviation + step**2 * (self.tokens * n / total)
        self.mean += step * (n / total)
        self.tokens = total

    def table(self) -> pd.DataFrame:
        """One row per latent.

        ``latent``, ``fired`` (tokens), ``density`` (fired / tokens), over all tokens ``mean``, ``std`` (population), ``max``,
        and ``mean_active``, the mean over the tokens on which it fired (nan where there are none).
        """
        n, fired = max(self.tokens, 1), self.fired.numpy()
        return pd.DataFrame(
            {
                "latent": np.arange(len(self.fired)),
                "fired": fired.astype(np.int64),
                "density": (self.fired / n).numpy(),
                "mean": self.mean.numpy(),
                "std": (self.deviation.clamp(min=0) / n).sqrt().numpy(),
                "max": torch.where(self.max > -torch.inf, self.max, 0.0).double().numpy(),
                # Latents are never negative, so the sum over all tokens is the sum over those on which they fired.
                "mean_active": self.mean.numpy() * n / np.where(fired > 0, fired, np.nan),
            }
        )


def firing_shares(fired: np.ndarray, tokens: int) -> dict[str, float | None]:
    """Shares of dead and dense latents.

    Args:
        fired: (d_sae,) number of tokens on which each latent fired.
        tokens: tokens looked at.

    Returns:
        ``dead_share`` (never fired on these tokens), ``dead_share_lt5`` (fired fewer than 5 times), ``dead_share_5e4`` (fired
        on fewer than 0.05 % of them; None when tokens * 0.0005 < 3, where silence is no evidence of so low a rate) and
        ``dense_share@…`` (fired on more than that share of tokens, strictly). All None without tokens.
    """
    if tokens == 0:
        return dict.fromkeys(("dead_share", "dead_share_lt5", "dead_share_5e4", *(f"dense_share@{cut:g}" for cut in DENSE_CUTS)))
    density = fired / tokens
    return {
        "dead_share": float(np.mean(fired == 0)),
        "dead_share_lt5": float(np.mean(fired < FEW_FIRINGS)),
        "dead_share_5e4": float(np.mean(density < RARE_RATE)) if tokens * RARE_RATE >= RULE_OF_THREE else None,
        **{f"dense_share@{cut:g}": float(np.mean(density > cut)) for cut in DENSE_CUTS},
    }

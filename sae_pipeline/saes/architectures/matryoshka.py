"""Matryoshka BatchTopK (Bussmann et al. 2025, "Learning multi-level features with Matryoshka sparse autoencoders").

Nested prefixes of the dictionary must each reconstruct on their own, so that the first latents learn what is general
and are not absorbed into the later, specific ones.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.saes.architectures.batchtopk import BatchTopK
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.saes.kernels import ByLatent, SparseCode, decode, row_starts, sampled_product, tokens_of


def prefix_widths(shares: tuple[float, ...], d_sae: int) -> tuple[int, ...]:
    """Latents of each prefix, rising to ``d_sae``: shares of the dictionary, at least one latent, equal ones merged."""
    return tuple(sorted({max(1, round(share * d_sae)) for share in shares} | {d_sae}))


class Matryoshka(BatchTopK):
    """BatchTopK's selection; the squared error is the mean over the prefixes, each with b_dec; AuxK is of the whole.

    With a tilt, a token's loss is the mean of its squared errors over the prefixes.
    """

    name = "matryoshka"

    @property
    def prefixes(self) -> tuple[int, ...]:
        """Latents of each prefix."""
        return prefix_widths(self.arm.matryoshka_shares, self.d_sae)

    @property
    def error_weight(self) -> float:
        """All prefixes count alike."""
        return 1 / len(self.prefixes)

    @property
    def _blocks(self) -> list[slice]:
        """What each prefix adds to the one before."""
        return [slice(start, end) for start, end in pairwise((0, *self.prefixes))]

    def split(self, code: SparseCode) -> list[SparseCode]:
        """The entries of each block of latents, which are counted from the block's first."""
        tokens, n_tokens = tokens_of(code), len(code.starts) - 1
        codes = []
        for block in self._blocks:
            kept = _within(code, block)
            starts = row_starts(torch.bincount(tokens[kept], minlength=n_tokens))
            codes.append(SparseCode(starts, code.latents[kept] - block.start, code.values[kept]))
        return codes

    def reconstruct(self, centred: Tensor, codes: list[SparseCode]) -> tuple[list[Tensor], list[Tensor]]:
        """From the prefixes, the whole dictionary first; a block has no error of its own."""
        errors: list[Tensor] = []
        for block, code in zip(self._blocks, codes, strict=True):
            added = decode(code, self.W_dec[block], out=self.error_memory(centred, len(errors)))
            errors.insert(0, added.add_(errors[0]) if errors else added.sub_(centred))
        return errors, []

    def error_parts(self, errors: list[float]) -> dict[str, float]:
        """The error of the whole dictionary and the mean over its prefixes."""
        return {"mse": errors[0], "prefix_mse": sum(errors) / len(errors)}

    def decoder_gradients(
        self, code: SparseCode, codes: list[SparseCode], pulls: list[Tensor], products: list[Tensor], by_latent: ByLatent
    ) -> list[Tensor]:
        """A block is pulled by every prefix that contains it: the last by the whole only, the first by all."""
        value_gradient = torch.empty_like(code.values)
        total = pulls[0]
        for level, (block, part) in enumerate(zip(reversed(self._blocks), reversed(codes), strict=True)):
            if level:
                total.add_(pulls[level])
            latents = block.stop - block.start
            ByLatent(part, len(total), latents).weighted_sum(total, part.values, out=self.gradient["W_dec"][block])
            value_gradient[_within(code, block)] = sampled_product(total, self.W_dec[block], part)
        torch.sum(total, 0, out=self.gradient["b_dec"])
        return [value_gradient]

    def export(self, metadata: dict[str, Any]) -> InferenceSAE:
        """JumpReLU with a constant threshold, and the prefixes, each of which is an SAE of its own."""
        return super().export(metadata | {"matryoshka_prefixes": list(self.prefixes)})


def _within(code: SparseCode, block: slice) -> Tensor:
    """(entries,) bool: of a latent of the block."""
    return (code.latents >= block.start) & (code.latents < block.stop)

"""Latents that fire on text that means nothing: the fake feature ratio of FaithfulSAE (Cho et al. 2025).

The subject model reads contexts of uniformly random token ids, and a latent that is active on more than a tenth of the
positions stands for no concept of the text. The paper's own code counts activations above 1.0 in raw units, so that its
figure depends on how a latent's scale is shared between encoder and decoder; the cut used here does not.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.errors import SubjectError
from sae_pipeline.metrics.reconstruction import token_chunks
from sae_pipeline.saes.inference import InferenceSAE

FAKE_RATE = 0.1
"""Share of random positions above which, strictly, a latent counts as fake."""

ACTIVATION_CUT = 0.0
"""Activation above which a latent counts as active, the same for every activation function.

Every inference rule decides what is zero by comparing pre-activations with each other, with a threshold in their own units
or with zero, so zero is the one cut that stays where it is when activations are scaled and decoder rows inversely."""


@dataclass(frozen=True)
class FakeFeatures:
    """Which latents fire on random token ids."""

    ratio: float | None
    """Share of latents active on more than :data:`FAKE_RATE` of the positions; None without positions."""
    latents: Tensor
    """(n_fake,) int64, their ids in ascending order."""
    density: Tensor
    """(n_fake,) float64, share of the positions on which each of them is active."""
    positions: int
    """Positions looked at."""
    cut: float
    """:data:`ACTIVATION_CUT`, stated beside the figure it belongs to."""


def random_token_ids(vocab_size: int, special_ids: Collection[int], contexts: int, context_length: int, bos_id: int, seed: int) -> Tensor:
    """Contexts that open like those of every corpus and go on with uniformly random ids.

    Args:
        vocab_size: ids that stand for a token: the smaller of the tokenizer's and the model's vocabulary.
        special_ids: control tokens, which are never drawn.
        contexts: number of contexts.
        context_length: tokens per context, BOS included.
        bos_id: the id that opens every context.
        seed: which random ids; a larger number of contexts extends a smaller one.

    Returns:
        (contexts, context_length) int64; the first column is BOS, and nothing else is special.

    Raises:
        SubjectError: there is no id that is not special.
    """
    ordinary = np.setdiff1d(np.arange(vocab_size), list(special_ids))
    if not len(ordinary):
        raise SubjectError(
            f"expected a vocabulary with tokens that are not special, found {vocab_size} ids, all of them special; check the tokenizer"
        )
    drawn = np.random.default_rng(seed).choice(ordinary, (contexts, context_length - 1))
    return torch.from_numpy(np.column_stack([np.full(contexts, bos_id), drawn]))


def random_token_activations(model: SubjectModel, hook: str, ids: Tensor, batch_size: int) -> Tensor:
    """What a site holds while the model reads random ids.

    Args:
        model: the subject model.
        hook: name of the site.
        ids: (n_contexts, context_length) from :func:`random_token_ids`.
        batch_size: contexts per forward pass.

    Returns:
        (n_contexts * (context_length - 1), d_model) float32 on the CPU: all positions but BOS, context after context.
    """
    return torch.cat([model.capture(batch, [hook])[hook][:, 1:].flatten(0, 1).cpu() for batch in ids.split(batch_size)])


@torch.inference_mode()
def fake_feature_ratio(sae: InferenceSAE, random_activations: Tensor) -> FakeFeatures:
    """The share of latents that are active on more than a tenth of the positions of random text.

    Args:
        sae: with its inference rule, in raw model units.
        random_activations: (n_positions, d_model) activations of non-special positions, raw model units.
    """
    x = random_activations.to(sae.W_enc)
    fired = x.new_zeros(sae.d_sae, dtype=torch.int64)
    for chunk in token_chunks(len(x), sae.d_sae, x.device):
        fired += (sae.encode(x[chunk]) > ACTIVATION_CUT).sum(0)
    density = fired.cpu().double() / max(len(x), 1)
    fake = (density > FAKE_RATE).nonzero()[:, 0]
    return FakeFeatures(len(fake) / sae.d_sae if len(x) else None, fake, density[fake], len(x), ACTIVATION_CUT)

"""Sampling from the subject model's own distribution, from BOS alone, many documents side by side.

The loop is written out because a library's draws from the global generator: here the uniform numbers of a batch are a
pure function of (seed, batch number), so batches can be sampled in any order, by any process, and come out the same.
All documents of a batch start at BOS and grow in step, so there is no padding anywhere.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.errors import SubjectError

if TYPE_CHECKING:
    from sae_pipeline.activations.subject import SubjectModel


class Sample(NamedTuple):
    """One sampled document."""

    drawn: list[int]
    """All tokens drawn after BOS, the end token included."""
    ended: bool
    """Whether the last of them is an end token, rather than the document having reached its full length."""
    nll: float
    """Negative log likelihood (nats) of the tokens drawn, under the distribution they were drawn from."""

    @property
    def ids(self) -> list[int]:
        """The document: the tokens without the end token."""
        return self.drawn[:-1] if self.ended else self.drawn


class Sampler:
    """Draws documents from a causal subject model.

    Args:
        subject: the loaded model.
        bos_id: token that every document starts from; not part of the document.
        end_ids: tokens that end a document.
        vocab_size: number of the tokenizer's ids. Models pad their vocabulary beyond it, with ids that stand for no
            token; those are never drawn.
        length: most tokens of a document, BOS not counted.
        temperature: divides the logits; 1 is the model's own distribution.
        top_p: draws are from the smallest set of tokens whose probability reaches this (Holtzman et al. 2020); 1 keeps all.
    """

    def __init__(
        self, subject: SubjectModel, *, bos_id: int, end_ids: Collection[int], vocab_size: int, length: int, temperature: float, top_p: float
    ) -> None:
        self.name = subject.name
        self.device = subject.device
        # the Hugging Face module below the hooks, which keeps keys and values from step to step
        self._model: Any = subject.bridge.original_model
        self._bos_id, self._vocab_size, self._length = bos_id, min(vocab_size, subject.vocab_size), length
        self._end_ids = frozenset(end_ids)
        self._temperature, self._top_p = temperature, top_p

    @torch.no_grad()
    def batch(self, size: int, seed: int, number: int) -> list[Sample]:
        """Batch ``number`` of the documents that ``seed`` stands for: a pure function of the arguments.

        Raises:
            SubjectError: the model's probabilities are not finite.
        """
        uniform = torch.from_numpy(np.random.default_rng((seed, number)).random((self._length, size)))
        drawn = torch.full((size, self._length), -1, dtype=torch.long, device=self.device)
        nll = torch.zeros(size, dtype=torch.float64)
        rows = torch.arange(size, device=self.device)  # documents still in the forward pass
        alive = torch.ones(size, dtype=torch.bool, device=self.device)  # of those, the ones that have not ended
        token = torch.full((size,), self._bos_id, dtype=torch.long, device=self.device)
        ends = torch.tensor(sorted(self._end_ids), dtype=torch.long, device=self.device)
        cache: Any = None
        for step in range(self._length):
            logits, cache = self._forward(token, cache)
            probability = sampling_distribution(logits, self._temperature, self._top_p)
            token, likelihood = (each.to(rows.device) for each in draw(probability, uniform[step].to(probability.device)[rows]))
            drawn[rows[alive], step] = token[alive]
            nll[rows[alive]] -= likelihood[alive].log()
            alive &= ~torch.isin(token, ends)
            left = int(alive.sum())
            if not left:
                break
            if left <= len(rows) // 2:  # ended documents leave the batch by halves: each time costs a copy of the cache
                cache.batch_select_indices(alive.nonzero().squeeze(1))
                rows, token, alive = rows[alive], token[alive], alive[alive]
        if not torch.isfinite(nll).all():
            raise SubjectError(
                f"{self.name}: expected finite next-token probabilities, found NaN or infinity; use subject.dtype: float32 or another checkpoint"
            )
        return [self._sample(ids, likelihood) for ids, likelihood in zip(drawn.tolist(), nll.tolist(), strict=True)]

    @torch.no_grad()
    def first_token_distribution(self) -> np.ndarray:
        """The model's own probabilities after BOS (temperature 1, no nucleus), float64 ``(vocab_size,)``."""
        logits, _ = self._forward(torch.tensor([self._bos_id], device=self.device), None)
        return sampling_distribution(logits, 1.0, 1.0)[0].cpu().numpy()

    def _forward(self, token: Tensor, cache: Any) -> tuple[Tensor, Any]:
        """Float64 logits (n, vocab_size) after one more token (n,), and the keys and values up to it."""
        output = self._model(token[:, None], past_key_values=cache, use_cache=True)
        logits = output.logits[:, -1, : self._vocab_size]
        if logits.device.type == "mps":  # has no float64
            logits = logits.cpu()
        return logits.double(), output.past_key_values

    def _sample(self, drawn: list[int], nll: float) -> Sample:
        drawn = drawn[: drawn.index(-1)] if -1 in drawn else drawn
        return Sample(drawn, drawn[-1] in self._end_ids, nll)


def sampling_distribution(logits: Tensor, temperature: float, top_p: float) -> Tensor:
    """Probabilities at a temperature, cut to the nucleus: the fewest most likely tokens whose probability reaches ``top_p``.

    Args:
        logits: float64 (n, vocab_size).

    Returns:
        float64 (n, vocab_size), rows sum to 1; tokens outside the nucleus have probability 0.
    """
    probability = (logits / temperature).softmax(-1)
    if top_p >= 1:
        return probability
    ordered, tokens = probability.sort(dim=-1, descending=True, stable=True)
    ordered = ordered.masked_fill(ordered.cumsum(-1) - ordered >= top_p, 0.0)
    return torch.zeros_like(probability).scatter_(-1, tokens, ordered / ordered.sum(-1, keepdim=True))


def draw(probability: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
    """One token per row by inverting the cumulative distribution, so that one uniform number decides it on every device.

    Args:
        probability: float64 (n, vocab_size).
        uniform: float64 (n,) in [0, 1).

    Returns:
        Tokens int64 (n,) and their probabilities float64 (n,).
    """
    cumulative = probability.cumsum(-1)
    total = cumulative[:, -1:]
    # strictly below the total, which rounding may otherwise reach: a token of probability 0 is never drawn
    place = torch.minimum(uniform[:, None] * total, torch.nextafter(total, torch.zeros_like(total)))
    token = torch.searchsorted(cumulative, place, right=True)
    return token.squeeze(1), probability.gather(1, token).squeeze(1)

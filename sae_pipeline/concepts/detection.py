"""Which latent detects a concept: the best by F1 on one half of the documents, judged on the other.

A latent says yes where it fires at all. Every inference rule decides for itself what is zero, so this is the one cut that
stays where it is when a latent's scale is shared differently between encoder and decoder.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from sae_pipeline.concepts.text import FITTED, JUDGED
from sae_pipeline.metrics.reconstruction import active

Array = np.ndarray


@dataclass(frozen=True)
class Marks:
    """Where the concepts are, in one evaluation set; all (n_marks,), ascending by row."""

    row: Tensor
    """int64, row of the token in the set."""
    concept: Tensor
    """int64."""
    present: Tensor
    """bool: the concept is there; False where the token counts neither for nor against a latent of the concept."""

    def among(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(token, concept, present) of the marks on ascending ``rows``; token is the place among these rows."""
        first, stop = torch.searchsorted(self.row, rows[[0, -1]] + torch.tensor([0, 1])).tolist() if len(rows) else (0, 0)
        row = self.row[first:stop]
        token = torch.searchsorted(rows, row).clamp(max=max(len(rows) - 1, 0))
        found = rows[token] == row if len(row) else torch.zeros(0, dtype=torch.bool)
        return token[found], self.concept[first:stop][found], self.present[first:stop][found]


@dataclass(frozen=True)
class Detection:
    """The best latent of every concept, judged on the other half; arrays (n_concepts,)."""

    latent: Array
    """int64; -1 where no latent fires on the concept in the fitted half."""
    f1: Array
    """float64, 0 without a latent."""
    precision: Array
    """float64; NaN where the latent never fires in the judged half."""
    recall: Array
    """float64; NaN where the concept is not in the judged half."""
    youden: Array
    """float64, recall less the share of the other tokens that the latent fires on (Youden 1950): unlike F1 it does not depend on
    how frequent the concept is. 0 without a latent; NaN where the concept is in none or all of the judged half."""


class DetectionCounts:
    """How often each latent fires, on each concept and at all, in either half of the documents.

    Args:
        concepts: number of concepts.
        d_sae: number of latents.
        device: where the latents are.
    """

    def __init__(self, concepts: int, d_sae: int, device: torch.device) -> None:
        # Whole numbers, exact in float32 up to 2^24 tokens.
        self.hits, self.aside = (torch.zeros(2, concepts, d_sae, device=device) for _ in range(2))
        self.fired = torch.zeros(2, d_sae, device=device)
        self.present, self.left_out = (torch.zeros(2, concepts) for _ in range(2))
        self.tokens = torch.zeros(2)

    def update(self, latents: Tensor, half: Tensor, marks: tuple[Tensor, Tensor, Tensor]) -> None:
        """Take in tokens.

        Args:
            latents: (n_tokens, d_sae).
            half: (n_tokens,) int64, :data:`FITTED` or :data:`JUDGED`.
            marks: (token, concept, present) from :meth:`Marks.among`.
        """
        fires = active(latents)
        self.fired.index_add_(0, half.to(fires.device), fires)
        self.tokens += torch.bincount(half, minlength=2)
        token, concept, present = marks
        place = half[token] * self.present.shape[1] + concept
        for counts, marked, chosen in ((self.hits, self.present, present), (self.aside, self.left_out, ~present)):
            marked.view(-1).index_add_(0, place[chosen], torch.ones(int(chosen.sum())))
            if chosen.any():
                counts.flatten(0, 1).index_add_(0, place[chosen].to(fires.device), fires[token[chosen].to(fires.device)])

    def best(self) -> Detection:
        """The latent with the highest F1 on the fitted half (of equals the first) and what it does on the judged half."""
        hits, said, present = self._counts(FITTED)
        fitted = torch.where(hits > 0, 2 * hits / (said + present[:, None]).clamp(min=1), 0.0)
        f1, latent = fitted.max(1)
        chosen = latent[:, None]
        hits, said, present = self._counts(JUDGED)
        hit, yes = (counts.gather(1, chosen)[:, 0].cpu().double().numpy() for counts in (hits, said))
        there, found = present.cpu().double().numpy(), (f1 > 0).cpu().numpy()
        others = self.tokens[JUDGED].double().numpy() - self.left_out[JUDGED].double().numpy() - there
        recall = np.where(there > 0, np.where(found, hit, 0.0) / np.maximum(there, 1), np.nan)
        false_alarms = np.where(others > 0, np.where(found, yes - hit, 0.0) / np.maximum(others, 1), np.nan)
        return Detection(
            latent=np.where(found, latent.cpu().numpy(), -1),
            f1=np.where(found & (hit > 0), 2 * hit / np.maximum(yes + there, 1), 0.0),
            precision=np.where(found & (yes > 0), hit / np.maximum(yes, 1), np.nan),
            recall=recall,
            youden=recall - false_alarms,
        )

    def _counts(self, half: int) -> tuple[Tensor, Tensor, Tensor]:
        """(hits, firings that count, occurrences) of a half: (n_concepts, d_sae) twice, (n_concepts,)."""
        return self.hits[half], self.fired[half] - self.aside[half], self.present[half].to(self.hits.device)

"""Which latent detects a concept: against counts by hand, a planted latent, and random latents."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_pipeline.concepts.detection import DetectionCounts, Marks
from sae_pipeline.concepts.text import FITTED, JUDGED


def marks(row: list[int], concept: list[int], present: list[bool] | None = None) -> Marks:
    return Marks(torch.tensor(row), torch.tensor(concept), torch.tensor(present or [True] * len(row)))


def counted(latents: torch.Tensor, half: torch.Tensor, found: Marks, concepts: int, chunk: int) -> DetectionCounts:
    counts = DetectionCounts(concepts, latents.shape[1], latents.device)
    for rows in torch.arange(len(latents)).split(chunk):
        counts.update(latents[rows], half[rows], found.among(rows))
    return counts


def test_f1_precision_and_recall_by_hand() -> None:
    """The concept is on tokens 0, 1 | 4, 5, 6; latent 1 fires on 0, 1 | 4, 5, 7: precision 2/3, recall 2/3."""
    latents = torch.zeros(8, 2)
    latents[[0, 1, 4, 5, 7], 1] = torch.tensor([0.1, 3.0, 0.2, 1.0, 5.0])
    latents[[1, 3, 4, 5, 6], 0] = 1.0
    half = torch.tensor([FITTED] * 4 + [JUDGED] * 4)
    best = counted(latents, half, marks([0, 1, 4, 5, 6], [0] * 5), 1, chunk=8).best()
    assert best.latent.tolist() == [1]  # F1 1 on the fitted half; latent 0 is perfect on the judged half alone
    assert [best.f1[0], best.precision[0], best.recall[0]] == pytest.approx([2 / 3] * 3)
    assert best.youden[0] == pytest.approx(2 / 3 - 1)  # it fires on token 7, all there is without the concept


def test_tokens_that_are_left_out_count_neither_for_nor_against() -> None:
    """A word of two tokens is detected on its second; that the latent fires on the first as well is no fault."""
    latents = torch.tensor([[1.0], [1.0], [0.0], [1.0], [1.0], [1.0]])
    half = torch.tensor([FITTED] * 3 + [JUDGED] * 3)
    best = counted(latents, half, marks([0, 1, 3, 4], [0] * 4, [False, True, False, True]), 1, chunk=6).best()
    assert [best.precision[0], best.recall[0]] == [0.5, 1.0]  # of tokens 4 and 5 one is the concept
    assert best.youden[0] == 0.0  # and the other all of the rest


def test_a_planted_latent_is_found_for_each_concept_and_judged_by_its_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    n, d_sae = 6_000, 40
    concept = torch.randint(0, 20, (n,), generator=generator)
    latents = (torch.rand(n, d_sae, generator=generator) < 0.05).float()
    latents[:, 10:13] = (concept[:, None] == torch.arange(3)) & (torch.rand(n, 3, generator=generator) < torch.tensor([1.0, 0.8, 0.4]))
    half = torch.randint(0, 2, (n,), generator=generator)
    row = (concept < 3).nonzero()[:, 0]
    best = counted(latents, half, Marks(row, concept[row], torch.ones(len(row), dtype=torch.bool)), 3, chunk=1_000).best()
    assert best.latent.tolist() == [10, 11, 12]
    assert best.precision.tolist() == [1.0] * 3
    assert best.recall == pytest.approx([1.0, 0.8, 0.4], abs=0.09)
    assert best.f1 == pytest.approx(2 * best.recall / (1 + best.recall))


@pytest.mark.parametrize("share", [0.2, 0.02])
def test_youdens_j_of_a_latent_is_that_of_its_rates_however_frequent_the_concept(share: float) -> None:
    """Hit rate 0.9 and false alarm rate 0.02; F1, with precision 0.9 p / (0.9 p + 0.02 (1 - p)), falls with the share p."""
    generator = torch.Generator().manual_seed(0)
    n = 60_000
    present = torch.rand(n, generator=generator) < share
    latents = (torch.rand(n, 1, generator=generator) < torch.where(present, 0.9, 0.02)[:, None]).float()
    row = present.nonzero()[:, 0]
    best = counted(latents, torch.arange(n) % 2, Marks(row, torch.zeros_like(row), torch.ones_like(row).bool()), 1, chunk=n).best()
    precision = 0.9 * share / (0.9 * share + 0.02 * (1 - share))
    assert best.youden[0] == pytest.approx(0.88, abs=0.03)
    assert best.f1[0] == pytest.approx(2 * precision * 0.9 / (precision + 0.9), abs=0.03)


def test_random_latents_detect_nothing_although_the_best_of_thousands_is_chosen() -> None:
    """On the half it is chosen on, the best of 2,000 latents looks far better than on the other."""
    generator = torch.Generator().manual_seed(0)
    n, d_sae, concepts = 2_000, 2_000, 20
    latents = (torch.rand(n, d_sae, generator=generator) < 0.02).float()
    concept = torch.randint(0, 40, (n,), generator=generator)
    row = (concept < concepts).nonzero()[:, 0]
    found = Marks(row, concept[row], torch.ones(len(row), dtype=torch.bool))
    best = counted(latents, torch.arange(n) % 2, found, concepts, chunk=500).best()
    again = counted(latents, torch.zeros(n, dtype=torch.int64), found, concepts, chunk=500)
    chosen = (2 * again.hits[0] / (again.fired[0] + again.present[0][:, None])).amax(1)
    assert best.f1.max() < 0.15
    assert chosen.mean() > 3 * best.f1.mean()


def test_a_concept_that_no_latent_fires_on_has_none() -> None:
    best = counted(torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]), marks([0, 2], [0, 0]), 2, chunk=4).best()
    assert best.latent.tolist() == [-1, -1]
    assert best.f1.tolist() == [0.0, 0.0]
    assert np.isnan(best.precision).all()
    assert best.recall[0] == 0.0
    assert np.isnan(best.recall[1])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 50), st.floats(0.01, 100.0))
def test_neither_the_size_of_chunks_nor_the_scale_of_a_latent_matters(seed: int, chunk: int, scale: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    latents = torch.rand(50, 6, generator=generator) * (torch.rand(50, 6, generator=generator) < 0.3)
    concept = torch.randint(0, 4, (50,), generator=generator)
    row = (concept < 2).nonzero()[:, 0]
    found = Marks(row, concept[row], torch.rand(len(row), generator=generator) < 0.8)
    half = torch.randint(0, 2, (50,), generator=generator)
    scaled = latents * torch.tensor([scale, 1.0, 1.0, 1 / scale, 1.0, 1.0])
    for one, other in zip(
        vars(counted(latents, half, found, 2, 50).best()).values(), vars(counted(scaled, half, found, 2, chunk).best()).values(), strict=True
    ):
        np.testing.assert_array_equal(one, other)

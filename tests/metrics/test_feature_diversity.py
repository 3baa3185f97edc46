"""Expected distinct strongest latents over ten documents, and the spread of firings."""

from __future__ import annotations

from collections import Counter
from itertools import combinations, product
from math import e, log

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.metrics.decoder import diversity
from sae_pipeline.metrics.decoder.diversity import TopLatents, firing_spread


def _one_hot(strongest: list[int | None], d_sae: int) -> torch.Tensor:
    """Latents (n_tokens, d_sae) of which the one named is the strongest; None where nothing is active."""
    latents = torch.zeros(len(strongest), d_sae)
    for token, latent in enumerate(strongest):
        if latent is not None:
            latents[token] = 0.5
            latents[token, latent] = 2.0
    return latents


def _of(documents: list[list[int | None]], d_sae: int) -> float | None:
    """The diversity of documents given by their tokens' strongest latents."""
    top = TopLatents(d_sae, [len(document) for document in documents])
    for row, document in enumerate(documents):
        top.update(_one_hot(document, d_sae), torch.full((len(document),), row))
    return top.diversity()


def _enumerated(documents: list[list[int | None]]) -> float:
    """The mean number of distinct latents over every choice of ten documents and of a token of each."""
    counts, weight = 0.0, 0.0
    chosen = [document for document in documents if document]
    for ten in combinations(chosen, 10):
        outcomes: Counter[frozenset[int | None]] = Counter({frozenset(): 1})
        for document in ten:  # the set of latents seen so far, with the number of ways to see it
            grown: Counter[frozenset[int | None]] = Counter()
            for (seen, ways), latent in product(outcomes.items(), document):
                grown[seen if latent is None else seen | {latent}] += ways
            outcomes = grown
        ways = sum(outcomes.values())
        counts += sum(len(seen) * number for seen, number in outcomes.items()) / ways
        weight += 1
    return counts / weight


def test_one_latent_that_is_always_strongest_counts_once() -> None:
    assert _of([[3, 3]] * 12, 5) == pytest.approx(1)


def test_documents_that_share_no_latent_count_ten() -> None:
    assert _of([[n] for n in range(14)], 14) == pytest.approx(10)


def test_a_latent_of_half_the_tokens_everywhere_is_missed_with_probability_two_to_the_minus_ten() -> None:
    """Twelve documents of two tokens: one on latent 0, the other on a latent of the document's own, seen in 10/12 x 1/2 of draws."""
    assert _of([[0, n] for n in range(1, 13)], 13) == pytest.approx(1 - 2**-10 + 12 * (10 / 12) / 2)


def test_silent_tokens_are_drawn_and_add_nothing() -> None:
    """A third of each of ten documents is silent, the rest has a latent of its own: 10 x 2/3."""
    assert _of([[n, None, n] for n in range(10)], 10) == pytest.approx(20 / 3)
    assert _of([[None, None]] * 10, 4) == 0


def test_fewer_than_ten_documents_with_tokens_have_no_diversity() -> None:
    assert _of([[0]] * 9 + [[]] * 5, 2) is None
    assert _of([[0]] * 10 + [[]] * 5, 2) == pytest.approx(1)


DOCUMENTS = st.lists(st.lists(st.one_of(st.none(), st.integers(0, 4)), min_size=0, max_size=3), min_size=10, max_size=12)


@given(DOCUMENTS)
def test_the_closed_form_equals_enumeration_of_every_draw(documents: list[list[int | None]]) -> None:
    if sum(bool(document) for document in documents) < 10:
        assert _of(documents, 5) is None
    else:
        assert _of(documents, 5) == pytest.approx(_enumerated(documents), rel=1e-12, abs=1e-12)


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 1000))
def test_order_and_batches_of_tokens_do_not_matter(batch: int, held: int, seed: int) -> None:
    """Tokens of twenty documents mixed up, in any batches, counted whenever a few are held."""
    generator = torch.Generator().manual_seed(seed)
    rows, latents = torch.randint(20, (150,), generator=generator), torch.randn(150, 6, generator=generator).relu()
    tokens = torch.bincount(rows, minlength=20)
    whole, pieces = TopLatents(6, tokens), TopLatents(6, tokens)
    whole.update(latents, rows)
    order = torch.randperm(150, generator=generator)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(diversity, "HELD_KEYS", held)
        for chosen in order.split(batch):
            pieces.update(latents[chosen], rows[chosen])
        result = pieces.diversity()
    expected = whole.diversity()
    assert result == pytest.approx(expected, rel=1e-12) if expected is not None else result is None


def test_complete_documents_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is kept of a thousand documents read one after another is that of the one being read."""
    monkeypatch.setattr(diversity, "HELD_KEYS", 1)
    top = TopLatents(8, np.full(1000, 4))
    for row in range(1000):
        top.update(_one_hot([row % 8, 1], 8), torch.full((2,), row))
        assert len(top._keys) <= 2
        top.update(_one_hot([2, None], 8), torch.full((2,), row))
        assert len(top._keys) == 0


def test_spread_of_firings_by_hand() -> None:
    """Counts 0, 1, 3: entropy of (1/4, 3/4); mean absolute difference of pairs 2 (1 + 3 + 2) / 9 over twice the mean 4/3."""
    spread = firing_spread([3, 0, 1])
    assert spread["effective_latents"] == pytest.approx(e ** (log(4) / 4 + 3 / 4 * log(4 / 3)))
    assert spread["firing_gini"] == pytest.approx((12 / 9) / (8 / 3))


def test_spread_at_both_ends() -> None:
    """Equal counts: as many effective latents as there are; one latent alone: 1 and a Gini of 1 - 1/n; none: nothing."""
    assert firing_spread([7] * 5) == pytest.approx({"effective_latents": 5, "firing_gini": 0})
    assert firing_spread([0, 0, 0, 9]) == pytest.approx({"effective_latents": 1, "firing_gini": 0.75})
    assert firing_spread([0, 0]) == {"effective_latents": None, "firing_gini": None}

"""The strongest activations of each latent, and the tokens they were on."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from metrics_toys import corpus_of

from sae_pipeline.metrics.latents.firing_entries import firing_entries
from sae_pipeline.metrics.latents.top_contexts import TopContexts

# Two contexts of four tokens: BOS, then documents 0, 0, 1 and 1, 2, 2.
CORPUS = corpus_of(torch.tensor([[0, 5, 6, 7], [0, 8, 9, 5]]), torch.tensor([[-1, 0, 0, 1], [-1, 1, 2, 2]]))
PLACES = torch.tensor([1, 2, 3, 5, 6, 7])


def test_the_two_strongest_of_six_tokens_by_hand() -> None:
    """Latent 0 fires on three tokens, the last of them strongest; latent 1 on one; latent 2 on none."""
    top = TopContexts(3, 2)
    latents = torch.tensor([[2.0, 0, 0], [1.0, 0, 0], [0, 4.0, 0], [0, 0, 0], [0, 0, 0], [3.0, 0, 0]])
    top.update(firing_entries(latents), PLACES)
    assert top.table(CORPUS).to_numpy().tolist() == [
        # latent, place, activation, context, position, document
        [0, 0, 3.0, 1, 3, 2],
        [0, 1, 2.0, 0, 1, 0],
        [1, 0, 4.0, 0, 3, 1],
    ]


def test_of_equal_activations_the_earlier_is_kept() -> None:
    """The same token of the vocabulary often gives the same bits."""
    top = TopContexts(1, 2)
    for token in range(6):
        top.update(firing_entries(torch.ones(1, 1)), PLACES[token : token + 1])
    assert top.table(CORPUS)[["context", "position"]].to_numpy().tolist() == [[0, 1], [0, 2]]


@given(st.integers(0, 10**6), st.integers(1, 40), st.integers(1, 9), st.integers(1, 6))
def test_chunks_do_not_matter_and_sorting_everything_gives_the_same(seed: int, tokens: int, chunk: int, count: int) -> None:
    """Small whole numbers, so that there are many ties."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randint(0, 4, (tokens, 3), generator=generator).float()
    places = torch.arange(tokens) * 2
    top = TopContexts(3, count)
    for start in range(0, tokens, chunk):
        top.update(firing_entries(latents[start : start + chunk]), places[start : start + chunk])
    for latent in range(3):
        fired = sorted((-activation, place) for activation, place in zip(latents[:, latent].tolist(), places.tolist(), strict=True) if activation > 0)
        expected = fired[:count]
        kept = top.place[latent] >= 0
        assert list(zip((-top.activation[latent][kept]).tolist(), top.place[latent][kept].tolist(), strict=True)) == expected


def test_none_are_kept_where_none_are_asked_for() -> None:
    """`evaluation.top_contexts: 0` leaves an empty table with the same columns."""
    top = TopContexts(2, 0)
    top.update(firing_entries(torch.ones(1, 2)), PLACES[:1])
    assert list(top.table(CORPUS).columns) == ["latent", "place", "activation", "context", "position", "document"]
    assert len(top.table(CORPUS)) == 0

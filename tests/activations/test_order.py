"""The order of training: an exact permutation per epoch, in windows that are large enough, from the seed and the epoch alone."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sae_pipeline.activations.order import ShuffledOrder

BLOCKS = st.lists(st.integers(0, 9), min_size=1, max_size=40).filter(any)
SEED = st.integers(0, 3)


def tokens(order: ShuffledOrder, start: int, size: int) -> list[int]:
    """Usable tokens, counted through the corpus, at places [start, start + size) of the endless order."""
    ends = order.rows_per_block.cumsum(0)
    found = []
    for window, low, high in order.pieces(start, size):
        inside = torch.cat([torch.arange(ends[block] - order.rows_per_block[block], ends[block]) for block in window.blocks])
        found += inside[window.permutation()[low:high]].tolist()
    return found


@given(BLOCKS, SEED, st.integers(1, 60), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_epoch_is_a_permutation_of_the_usable_tokens(blocks: list[int], seed: int, shuffle_tokens: int, epoch: int) -> None:
    """So no token is seen twice before every other was."""
    order = ShuffledOrder(torch.tensor(blocks), seed, shuffle_tokens)
    total = sum(blocks)
    assert order.per_epoch == total
    assert sorted(tokens(order, epoch * total, total)) == list(range(total))


@given(BLOCKS, SEED, st.integers(1, 60), st.integers(0, 5))
@settings(max_examples=150, deadline=None)
def test_every_window_holds_enough_tokens_and_not_many_more(blocks: list[int], seed: int, shuffle_tokens: int, epoch: int) -> None:
    """At least what was asked for or the whole set; at most what the buffers are made for, below twice that and three blocks."""
    order = ShuffledOrder(torch.tensor(blocks), seed, shuffle_tokens)
    windows = order.windows(epoch)
    assert len(windows) == order.n_windows
    assert [window.start for window in windows] == [sum(w.rows for w in windows[:n]) for n in range(len(windows))]
    assert sum(window.rows for window in windows) == sum(blocks)
    for window in windows:
        assert window.rows == sum(blocks[block] for block in window.blocks)
        assert min(shuffle_tokens, sum(blocks)) <= window.rows <= order.largest_window < 2 * shuffle_tokens + 3 * max(blocks)


@given(BLOCKS, st.integers(1, 60), st.integers(0, 300), st.lists(st.integers(0, 90), max_size=6))
@settings(max_examples=100, deadline=None)
def test_pieces_are_cuts_of_one_endless_sequence(blocks: list[int], shuffle_tokens: int, start: int, sizes: list[int]) -> None:
    """Across windows and epochs, wherever one begins."""
    order, place, found = ShuffledOrder(torch.tensor(blocks), 1, shuffle_tokens), start, []
    for size in sizes:
        found += tokens(order, place, size)
        place += size
    assert found == tokens(ShuffledOrder(torch.tensor(blocks), 1, shuffle_tokens), 0, place)[start:]


def test_an_epochs_order_follows_from_seed_and_epoch_alone() -> None:
    """Not from what was asked before or what else draws random numbers; neighbouring seeds do not meet."""
    blocks = torch.tensor([5, 3, 8, 1, 6, 7, 2, 9])
    total = int(blocks.sum())
    expected = tokens(ShuffledOrder(blocks, 0, 6), 5 * total, total)
    other = ShuffledOrder(blocks, 0, 6)
    for epoch in (0, 7, 3):
        other.windows(epoch)
    torch.rand(1)
    assert tokens(other, 5 * total, total) == expected
    orders = {tuple(tokens(ShuffledOrder(blocks, seed, 6), epoch * total, total)) for seed in range(4) for epoch in range(4)}
    assert len(orders) == 16


def test_a_small_set_is_one_uniform_permutation() -> None:
    """Over 6,000 epochs of three tokens in three blocks, each of the six orders comes up a sixth of the time (chi square below 20.5, p = 0.001)."""
    order = ShuffledOrder(torch.tensor([1, 1, 1]), 0, 10)
    drawn = tokens(order, 0, 3 * 6000)
    counts: dict[tuple[int, ...], int] = {}
    for n in range(0, len(drawn), 3):
        counts[tuple(drawn[n : n + 3])] = counts.get(tuple(drawn[n : n + 3]), 0) + 1
    assert len(counts) == 6
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 20.5


def test_neighbours_in_the_corpus_are_spread_over_windows_and_within_them() -> None:
    """Of 100 blocks of 100 tokens in windows of 1,000, a batch of 50 holds about 1 in 10 tokens of any block of its window, not a run of them."""
    order = ShuffledOrder(torch.full((100,), 100), 0, 1000)
    batches = torch.tensor(tokens(order, 0, 10_000)).view(200, 50)
    from_one_block = torch.stack([(batch // 100).bincount(minlength=100).max() for batch in batches])
    assert from_one_block.max() < 20
    neighbours = ((batches[:, 1:] - batches[:, :-1]).abs() == 1).double().mean().item()
    assert neighbours < 2 / 1000 * 3

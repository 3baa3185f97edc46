"""The reserve is a small, fixed part of a corpus, spread over it, whatever the blocks."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from sae_pipeline.activations.reserve import LEAST_TOKENS, RESERVED_SHARE, RESERVED_TOKENS, reserved_per_block

BLOCKS = st.lists(st.integers(0, 5000), min_size=1, max_size=300).filter(lambda sizes: sum(sizes) >= LEAST_TOKENS)


@given(BLOCKS)
def test_something_is_left_to_train_on_and_both_halves_have_a_row(sizes: list[int]) -> None:
    """And no block gives more than it has."""
    usable = torch.tensor(sizes)
    reserved = reserved_per_block(usable)
    assert bool((reserved <= usable).all())
    assert bool((reserved >= 0).all())
    assert 2 <= int(reserved.sum()) < int(usable.sum())


@given(st.integers(1, 400), st.integers(1, 4096))
def test_equal_blocks_give_an_eighth_up_to_the_full_reserve(blocks: int, size: int) -> None:
    """To within a block's share, or a row where blocks are tiny."""
    reserved = int(reserved_per_block(torch.full((blocks,), size)).sum()) if blocks * size >= LEAST_TOKENS else 2
    wanted = max(2, min(RESERVED_TOKENS, blocks * size // RESERVED_SHARE))
    assert abs(reserved - wanted) <= size / RESERVED_SHARE + blocks / RESERVED_SHARE + 2


def test_a_large_corpus_gives_blocks_from_its_beginning_to_its_end() -> None:
    """Text often changes along a corpus."""
    chosen = reserved_per_block(torch.full((5000,), 2048)).nonzero().squeeze(1)
    gaps = chosen.diff()
    assert len(chosen) == RESERVED_TOKENS * RESERVED_SHARE // 2048
    assert int(gaps.max()) - int(gaps.min()) <= 1
    assert int(chosen[0]) < int(gaps.max())
    assert 5000 - int(chosen[-1]) < int(gaps.max()) + 1

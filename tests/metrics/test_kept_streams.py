"""Streams kept with a baseline come back as they were, up to the room there is."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from sae_pipeline.activations.splicing import CleanStreams
from sae_pipeline.metrics import kept_streams
from sae_pipeline.metrics.kept_streams import KeptStreams, StreamKeeper

CONTEXTS, BATCH, SHAPE = 7, 3, (4, 2)
ENTERING = torch.arange(CONTEXTS * 8).reshape(CONTEXTS, *SHAPE).bfloat16()


def batches() -> list[tuple[slice, CleanStreams]]:
    """All contexts, three at a time; what leaves is minus what enters."""
    parts = [slice(start, min(start + BATCH, CONTEXTS)) for start in range(0, CONTEXTS, BATCH)]
    return [(part, CleanStreams(ENTERING[part], -ENTERING[part])) for part in parts]


def kept(path: Path, streams: list[CleanStreams | None]) -> KeptStreams:
    keeper = StreamKeeper(CONTEXTS)
    for each in streams:
        keeper.take(each)
    keeper.write(path)
    return KeptStreams(path)


def same(found: CleanStreams | None, entering: Tensor) -> bool:
    return found is not None and torch.equal(found.entering, entering) and torch.equal(found.leaving, -entering)


def test_streams_come_back_in_any_batches(tmp_path: Path) -> None:
    found = kept(tmp_path / "streams.safetensors", [streams for _, streams in batches()])
    assert found.contexts == CONTEXTS
    for contexts in (*(part for part, _ in batches()), slice(2, 5), slice(0, 7)):
        assert same(found.of(contexts), ENTERING[contexts])
    assert found.of(slice(6, 8)) is None


def test_only_what_there_is_room_for_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context takes 2 x 4 x 2 bfloat16 values, 32 bytes: five of them fit in 160."""
    monkeypatch.setattr(kept_streams, "KEPT_BYTES", 191)
    found = kept(tmp_path / "streams.safetensors", [streams for _, streams in batches()])
    assert found.contexts == 5
    assert same(found.of(slice(3, 5)), ENTERING[3:5])
    assert found.of(slice(3, 6)) is None


@pytest.mark.parametrize(("first", "contexts"), [(0, 0), (1, 3)])
def test_nothing_is_kept_from_the_first_batch_on_that_has_no_streams(tmp_path: Path, first: int, contexts: int) -> None:
    streams: list[CleanStreams | None] = [streams for _, streams in batches()]
    streams[first] = None
    assert kept(tmp_path / "streams.safetensors", streams).contexts == contexts


def test_a_text_without_any_leaves_a_file_that_says_so(tmp_path: Path) -> None:
    found = kept(tmp_path / "streams.safetensors", [])
    assert found.contexts == 0
    assert found.of(slice(0, 1)) is None

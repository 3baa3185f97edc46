"""The stream gives the rows of its order, at any place, ahead of time or not, in memory that does not grow."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from stored_rows import D_MODEL, DOCUMENT, ROWS, USABLE, write
from torch import Tensor

from sae_pipeline.activations import window_buffers
from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.activations.stream import ActivationStream
from sae_pipeline.errors import StorageError

PER_EPOCH = len(USABLE)


class Watched(ActivationShards):
    """Shards that list the blocks they are asked for, and can fail or wait at one."""

    def __init__(self, paths: list[Path], batch_size: int) -> None:
        super().__init__(paths, batch_size)
        self.read_blocks: list[int] = []
        self.before: Callable[[int], None] = lambda block: None

    def read_block(self, block: int, out: Tensor) -> None:
        """Record, then read."""
        self.read_blocks.append(block)
        self.before(block)
        super().read_block(block, out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Fourteen contexts in shards of 5, 5 and 4."""
    return write(tmp_path_factory.mktemp("shards"), 5)


@pytest.fixture
def rows(folder: list[Path]) -> Watched:
    """The same, in blocks of one context."""
    return Watched(folder, 1)


def threads() -> int:
    """Threads of streams that are alive."""
    return sum(thread.name == "activations ahead" for thread in threading.enumerate())


def taken(stream: ActivationStream, start: int, size: int, count: int, ahead: int = 2) -> Tensor:
    """All of ``batches``, one after the other."""
    return torch.cat([batch.clone() for batch in stream.batches(start, size, count, ahead=ahead)])


@pytest.mark.parametrize("shuffle_tokens", [1, 6, 1000])
def test_an_epoch_holds_every_usable_row_once_but_for_the_reserve(rows: Watched, shuffle_tokens: int) -> None:
    """And no special token, in windows of a few tokens as in one; the two halves of the reserve hold the others."""
    stream = ActivationStream(rows, 3, shuffle_tokens)
    size = stream.order.per_epoch
    orders = [stream.batch(epoch * size, size) for epoch in range(3)]
    reserve = [stream.held_out(0), stream.held_out(1)]
    expected = ROWS[USABLE]
    for order in orders:
        every = torch.cat([order, *reserve])
        assert torch.equal(every[every[:, 0].argsort()], expected[expected[:, 0].argsort()])
    assert not torch.equal(orders[0], orders[1])
    assert min(map(len, reserve)) >= 2
    assert torch.equal(torch.cat(reserve), torch.cat([ActivationStream(rows, 99, 1000).held_out(half) for half in (0, 1)]))


@given(st.integers(0, 3 * PER_EPOCH), st.integers(1, 90), st.integers(0, 5), st.integers(0, 3), st.sampled_from([1, 5, 12, 1000]), st.integers(1, 4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_prefetched_batches_are_those_of_random_access(
    folder: list[Path], start: int, size: int, count: int, ahead: int, shuffle_tokens: int, batch_size: int
) -> None:
    """Wherever one resumes, across windows and epochs, whatever the batch size and the number of batches ahead."""
    stream = ActivationStream(ActivationShards(folder, batch_size), 1, shuffle_tokens)
    found = [batch.clone() for batch in stream.batches(start, size, count, ahead=ahead)]
    assert [tuple(batch.shape) for batch in found] == [(size, D_MODEL)] * count
    other = ActivationStream(ActivationShards(folder, batch_size), 1, shuffle_tokens)
    for n in reversed(range(count)):  # out of order, so that no window is at hand by luck
        assert torch.equal(found[n], other.batch(start + n * size, size))
    assert threads() == 0


def test_the_order_depends_on_the_blocks_and_not_on_the_shards(tmp_path: Path) -> None:
    """One shard of fourteen contexts, or seven of two, in blocks of two."""
    whole, pieces = tmp_path / "whole", tmp_path / "pieces"
    whole.mkdir()
    pieces.mkdir()
    one, seven = (ActivationStream(ActivationShards(paths, 2), 2, 8) for paths in (write(whole, 14), write(pieces, 2)))
    assert torch.equal(one.batch(30, 70), seven.batch(30, 70))


def test_bfloat16_rows_are_widened_exactly(tmp_path: Path) -> None:
    """In a batch larger than what is gathered at once, too."""
    count = 600
    x = torch.randn(count * 4, 5, generator=torch.Generator().manual_seed(1)).bfloat16()
    document = torch.arange(count * 4).int() % 7 - 1
    stream = ActivationStream(ActivationShards(write(tmp_path, 100, x, document), 8), 0, 500)
    assert stream.order.n_windows > 2
    usable = x[document >= 0].float()
    epoch = taken(stream, 0, stream.order.per_epoch, 1)
    assert epoch.dtype == stream.held_out(0).dtype == torch.float32
    assert torch.equal(torch.cat([epoch, stream.held_out(0), stream.held_out(1)]).sort(0).values, usable.sort(0).values)
    assert torch.equal(taken(stream, 10, 1111, 3), stream.batch(10, 3333))


def test_a_sample_is_of_the_first_window_without_repeats_and_leaves_the_stream_as_it_is(rows: Watched) -> None:
    """The window is not read again by the batches that begin there, and no other is read for a sample."""
    stream = ActivationStream(rows, 0, 8)
    first = set(stream.order.windows(0)[0].blocks)
    sample = stream.sample(1000)
    assert set(rows.read_blocks) <= first
    assert len(rows.read_blocks) == len(set(rows.read_blocks))
    window = stream.order.windows(0)[0].rows
    assert sample.shape == (window, D_MODEL)
    assert torch.equal(sample[:3], ActivationStream(rows, 0, 8).sample(3))
    in_training_order = ActivationStream(rows, 0, 8).batch(0, window)
    assert not torch.equal(sample, in_training_order)
    assert sorted(sample[:, 0].tolist()) == sorted(in_training_order[:, 0].tolist())
    rows.read_blocks.clear()
    assert torch.equal(taken(stream, 0, window, 1), in_training_order)
    assert rows.read_blocks == []


def test_a_set_of_one_window_is_read_once_however_many_epochs(rows: Watched) -> None:
    """It matters most where reading means computing."""
    stream = ActivationStream(rows, 0, 1000)
    taken(stream, 0, 10, 20)
    assert sorted(rows.read_blocks) == [block for block, wanted in enumerate(stream.order.rows_per_block.tolist()) if wanted]


def test_no_more_is_read_than_two_windows_ahead_and_nothing_after_the_last_batch(rows: Watched) -> None:
    """The bound on memory: the window in use, and the next."""
    stream = ActivationStream(rows, 0, 4)
    windows = stream.order.windows(0)
    assert len(windows) >= 4
    with closing(stream.batches(0, 1, stream.order.per_epoch, ahead=0)) as batches:
        next(batches)
        time.sleep(0.1)
        assert set(rows.read_blocks) <= {*windows[0].blocks, *windows[1].blocks}
    rows.read_blocks.clear()
    other = ActivationStream(rows, 0, 4)
    taken(other, 0, windows[0].rows, 1)
    assert set(rows.read_blocks) <= set(windows[0].blocks)


def test_memory_is_two_windows_and_a_few_batches_for_any_number_of_epochs(rows: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same memory from the first batch to the last."""
    made = []
    allocate = window_buffers._in_huge_pages
    monkeypatch.setattr(window_buffers, "_in_huge_pages", lambda *shape: made.append(shape) or allocate(*shape))
    stream = ActivationStream(rows, 0, 4)
    assert len({batch.data_ptr() for batch in stream.batches(0, 7, 60, ahead=2)}) == 3
    assert made == [(stream.order.largest_window, D_MODEL, torch.float32)] * 2


def test_a_consumer_that_stops_early_leaves_no_thread_and_a_stream_that_goes_on(rows: Watched) -> None:
    """Whether it closes the generator, raises, or forgets it."""
    stream = ActivationStream(rows, 0, 4)
    expected = stream.batch(10, 20)
    with closing(stream.batches(0, 5, 100)) as batches:
        next(batches)
    assert threads() == 0
    with pytest.raises(KeyError), closing(stream.batches(0, 5, 100)) as batches:
        for _ in batches:
            raise KeyError
    assert threads() == 0
    forgotten = stream.batches(0, 5, 100)
    next(forgotten)
    del forgotten
    gc.collect()
    assert threads() == 0
    assert torch.equal(taken(stream, 10, 4, 5), expected)


def test_stopping_does_not_wait_for_the_window_that_is_being_read(rows: Watched) -> None:
    """Only for its block: a window that is computed can take minutes."""
    stream = ActivationStream(rows, 0, 4)
    upcoming = stream.order.windows(0)[1].blocks
    assert len(upcoming) > 1
    reached, go_on = threading.Event(), threading.Event()

    def wait(block: int) -> None:
        if block in upcoming:
            reached.set()
            go_on.wait(5)

    rows.before = wait
    batches = stream.batches(0, 1, 100)
    next(batches)
    assert reached.wait(5)
    threading.Timer(0.1, go_on.set).start()
    batches.close()
    assert go_on.is_set()
    assert sum(block in upcoming for block in rows.read_blocks) == 1
    assert threads() == 0


def test_a_failed_read_is_raised_to_the_consumer_and_can_be_tried_again(rows: Watched) -> None:
    """In the place of the batch that it belongs to, with no thread left; nothing half-read is used later."""
    stream = ActivationStream(rows, 0, 4)
    expected = taken(stream, 0, 4, 30)
    windows = stream.order.windows(0)
    bad = windows[2].blocks[-1]

    def fail(block: int) -> None:
        if block == bad:
            raise StorageError("the disk went away")

    rows.before = fail
    fresh = ActivationStream(rows, 0, 4)
    found = []
    with pytest.raises(StorageError, match="the disk went away"):
        for batch in fresh.batches(0, 4, 30):
            found.append(batch.clone())
    assert len(found) == windows[2].start // 4
    assert torch.equal(torch.cat(found), expected[: 4 * len(found)])
    assert threads() == 0
    rows.before = lambda block: None
    assert torch.equal(taken(fresh, 0, 4, 30), expected)


def test_random_access_while_batches_are_made_disturbs_neither(rows: Watched) -> None:
    """It has buffers of its own."""
    stream, other = ActivationStream(rows, 0, 4), ActivationStream(rows, 0, 4)
    for n, batch in enumerate(stream.batches(0, 6, 15)):
        far = stream.batch(200 - 7 * n, 9)
        assert torch.equal(far, other.batch(200 - 7 * n, 9))
        assert torch.equal(batch, other.batch(6 * n, 6))


def test_nothing_but_special_tokens_is_an_error(tmp_path: Path) -> None:
    """Otherwise the stream would never end and never give anything."""
    with pytest.raises(StorageError, match="found 0 beside special tokens"):
        ActivationStream(ActivationShards(write(tmp_path, 14, document=torch.full_like(DOCUMENT, -1))), 0, 100)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device: pinned memory and copies on a stream of their own")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_batches_on_a_device_are_those_of_the_host(tmp_path: Path, dtype: torch.dtype) -> None:
    """While the device is kept busy with each batch, so that an early copy would be seen."""
    x = torch.randn(4 * 4000, 64, generator=torch.Generator().manual_seed(0)).to(dtype)
    document = torch.arange(len(x)).int() % 4 - 1
    stream = ActivationStream(ActivationShards(write(tmp_path, 500, x, document), 10), 0, 2000)
    weights = torch.randn(2000, 2000, device="cuda")
    sums = []
    for batch in stream.batches(0, 512, 100, "cuda", ahead=1):
        for _ in range(20):
            weights = (weights @ weights).clamp(-1, 1)
        sums.append((batch + 0 * weights[0, 0]).cpu() if len(sums) % 2 else batch.clone())
    for n, found in enumerate(sums):
        assert torch.equal(found.cpu(), stream.batch(n * 512, 512)), n
    assert threads() == 0

"""Activations computed while training are the cached ones, to the bit, and so is the SAE trained on them."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_subjects import CONTEXT_LENGTH, random_corpus
from torch import Tensor

from sae_pipeline.activations.blocks import Cut
from sae_pipeline.activations.harvest import harvest
from sae_pipeline.activations.live import LiveActivations
from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.activations.stream import ActivationStream
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.errors import StorageError, SubjectError
from sae_pipeline.saes.arm import Arm
from sae_pipeline.saes.trainer import train_arms

CORPUS = random_corpus(45)
SHARD_CONTEXTS, BATCH_SIZE, SHUFFLE_TOKENS = 20, 3, 90
"""Shards of 20, 20 and 5 contexts, blocks of 3 with a shorter one at each end, and windows of about three blocks."""


class Counting:
    """A subject that counts its forward passes, or gives other values."""

    def __init__(self, model: SubjectModel, scale: float = 1.0) -> None:
        self.model, self.scale, self.passes = model, scale, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def visit(self, tokens: Tensor, hooks: list[str], see: Any) -> None:
        """As the subject's own."""
        self.passes += 1
        self.model.visit(tokens, hooks, lambda hook, x: see(hook, x * self.scale))


def live(model: Any, dtype: str = "bfloat16") -> LiveActivations:
    """Live activations after the first block of a subject."""
    cut = Cut(CORPUS.n_contexts, CONTEXT_LENGTH, SHARD_CONTEXTS, BATCH_SIZE)
    return LiveActivations(model, CORPUS, model.hook_name("resid_post", 0), cut, dtype)


def cached(model: SubjectModel, folder: Path, dtype: str = "bfloat16") -> ActivationShards:
    """The same from a cache that was made together with another layer's."""
    hooks = {folder / f"L{layer}": model.hook_name("resid_post", layer) for layer in (0, 1)}
    for path in hooks:
        path.mkdir()
    harvest(model, CORPUS, hooks, batch_size=BATCH_SIZE, storage_dtype=dtype, shard_tokens=SHARD_CONTEXTS * CONTEXT_LENGTH)
    return ActivationShards(sorted((folder / "L0").glob("[!.]*")), BATCH_SIZE)


def blocks(rows: ActivationShards | LiveActivations) -> Tensor:
    """The usable rows of all blocks."""
    parts = []
    for block, usable in enumerate(rows.usable_per_block.tolist()):
        parts.append(torch.empty(usable, rows.d_model, dtype=rows.dtype))
        rows.read_block(block, parts[-1])
    return torch.cat(parts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_block_computed_is_the_block_cached(model: SubjectModel, tmp_path: Path, dtype: str) -> None:
    """For both families of models, from a capture of one layer and of two."""
    computed, stored = live(model, dtype), cached(model, tmp_path, dtype)
    assert (computed.rows, computed.d_model, computed.dtype, computed.cut) == (stored.rows, stored.d_model, stored.dtype, stored.cut)
    for column in ("document", "usable", "usable_per_block"):
        assert torch.equal(getattr(computed, column), getattr(stored, column)), column
    assert torch.equal(blocks(computed), blocks(stored))
    assert torch.equal(blocks(stored).float(), stored.read(0, stored.rows)[stored.usable])


def test_the_stream_and_the_sae_have_the_same_bits_with_and_without_a_cache(gpt2: SubjectModel, tmp_path: Path) -> None:
    """Over several windows and epochs, though one runs the model in a background thread."""
    streams = [ActivationStream(rows, 5, SHUFFLE_TOKENS) for rows in (live(gpt2), cached(gpt2, tmp_path))]
    assert streams[0].order.n_windows == 3
    one, two = ([batch.clone() for batch in stream.batches(30, 64, 20, "cpu")] for stream in streams)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    settings = {"learning_rate": 1e-3, "warmup_share": 0.1, "decay_share": 0.2, "auxk_coefficient": 1 / 32, "dead_window_share": 0.1}
    arm = Arm(
        architecture="topk",
        k=4,
        target_l0=None,
        tokens=64 * 30,
        batch_size=64,
        init_seed=0,
        data_seed=5,
        b_dec_init="geometric_median",
        normalise=True,
        **settings,
    )
    trained = []
    for name, stream in zip(("live", "cached"), streams, strict=True):
        (tmp_path / name).mkdir()
        train_arms(
            {"a": tmp_path / name}, {"a": arm}, stream=stream, d_model=16, d_sae=32, checkpoint_every=10, label=name, metadata={"hook_name": "h"}
        )
        trained.append((tmp_path / name / "sae_weights.safetensors").read_bytes())
    assert trained[0] == trained[1]
    assert not [thread for thread in threading.enumerate() if thread.name == "activations ahead"]


def test_only_the_windows_that_are_trained_on_are_computed(gpt2: SubjectModel) -> None:
    """A sample is taken from the first, and does not cost a pass over the corpus."""
    counting = Counting(gpt2)
    stream = ActivationStream(live(counting), 0, SHUFFLE_TOKENS)
    first = stream.order.windows(0)[0]
    stream.sample(8192)
    list(stream.batches(0, first.rows, 1))
    assert counting.passes == len(first.blocks)
    assert counting.passes < len(stream.rows.cut.blocks) / 2


def test_a_set_of_one_window_is_computed_once(gpt2: SubjectModel) -> None:
    """However many epochs are trained."""
    counting = Counting(gpt2)
    stream = ActivationStream(live(counting), 0, 10**6)
    deque(stream.batches(0, 100, 20), maxlen=0)
    assert counting.passes == len(stream.rows.cut.blocks)


@pytest.mark.parametrize(
    ("scale", "error", "message"),
    [(float("nan"), SubjectError, "found NaN or infinity in contexts"), (1e6, StorageError, "expected values that float16 can hold")],
)
def test_values_that_cannot_be_trained_on_are_errors(gpt2: SubjectModel, scale: float, error: type[Exception], message: str) -> None:
    """As they are when a cache is written."""
    stream = ActivationStream(live(Counting(gpt2, scale), "float16"), 0, SHUFFLE_TOKENS)
    with pytest.raises(error, match=message):
        next(stream.batches(0, 10, 1))


def test_blocks_of_another_corpus_are_refused(gpt2: SubjectModel) -> None:
    """Their rows would be those of other tokens."""
    with pytest.raises(StorageError, match="expected blocks of this corpus, 45 contexts of 12 tokens, found blocks of 44 contexts"):
        LiveActivations(gpt2, CORPUS, "blocks.0.hook_resid_post", replace(live(gpt2).cut, n_contexts=44), "bfloat16")

"""Batch sizes that are found and not given, and room on the disk that is asked for before anything is computed."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_subjects import CONTEXT_LENGTH, random_corpus

from sae_pipeline.activations import batch_size as engine
from sae_pipeline.activations.batch_size import MEMORY_SHARE, cpu_batch_size, largest_fitting, resolve_batch_size
from sae_pipeline.activations.disk import estimate_bytes
from sae_pipeline.activations.harvest import PROGRESS, harvest
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.errors import StorageError


def test_on_a_cpu_a_pass_is_about_two_thousand_tokens() -> None:
    assert [cpu_batch_size(length, 1, None) for length in (32, 128, 256, 1024, 8192)] == [64, 16, 8, 2, 1]


def test_short_memory_makes_passes_smaller_and_never_empty() -> None:
    assert cpu_batch_size(128, 1000, int(5000 / MEMORY_SHARE)) == 5
    assert cpu_batch_size(128, 1000, 10) == 1


@given(st.integers(1, 5000), st.integers(1, 300), st.integers(1, 200_000))
def test_the_size_found_fits_and_twice_it_does_not(bytes_each: int, limit: int, free: int) -> None:
    """Whatever a context costs; a single one is taken even when it does not fit."""
    tried: list[int] = []

    def measure(size: int) -> int:
        tried.append(size)
        if size * bytes_each > free:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return size * bytes_each

    found = largest_fitting(measure, free, limit)
    assert 1 <= found <= limit
    assert found == 1 or found * bytes_each <= MEMORY_SHARE * free
    assert found == limit or min(2 * found, limit) * bytes_each > MEMORY_SHARE * free
    assert tried == sorted(tried)


def test_on_a_gpu_passes_are_tried_on_the_text_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to half of the free memory, and one shard at most."""
    ran: list[int] = []

    def visit(tokens: torch.Tensor, hooks: list[str], see: Any) -> None:
        ran.append(len(tokens))
        for hook in hooks:
            see(hook, torch.zeros(len(tokens), 1))  # 4 bytes a context

    model: Any = SimpleNamespace(device=torch.device("cuda", 0), visit=visit)
    for name in ("synchronize", "reset_peak_memory_stats", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda *args: None)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 500)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 500 + 80 * ran[-1])
    # 80 for the pass, 4 for the activations of the pass before and 16 to describe them: 100 bytes a context with one hook.
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (4000, 8000))
    tokens = torch.zeros(90, 16, dtype=torch.int32)
    assert resolve_batch_size("auto", model, ["a"], tokens, 90) == 16
    assert ran == [2, 4, 8, 16, 32]
    assert resolve_batch_size("auto", model, [f"hook {n}" for n in range(25)], tokens, 90) == 8, "what a harvest keeps counts"
    assert resolve_batch_size("auto", model, ["a"], tokens, 5) == 5
    assert resolve_batch_size(77, model, ["a"], tokens, 5) == 77


def test_an_automatic_size_is_resolved_recorded_and_kept_by_a_resume(gpt2: SubjectModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the rule would now give another size, the shards already there decide."""
    corpus = random_corpus(10)
    settings: dict[str, Any] = {"batch_size": "auto", "storage_dtype": "bfloat16", "shard_tokens": 4 * CONTEXT_LENGTH}
    hook = gpt2.hook_name("resid_post", 1)
    folders = [tmp_path / name for name in ("whole", "killed")]
    for folder in folders:
        folder.mkdir()
    whole = harvest(gpt2, corpus, {folders[0]: hook}, **settings)[folders[0]]
    assert whole["batch_size"] == 4, "one shard at most"
    visit, passes = SubjectModel.visit, iter(range(2))

    def interrupted(*args: Any) -> None:
        if next(passes, None) is None:
            raise KeyboardInterrupt
        visit(*args)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(SubjectModel, "visit", interrupted)
        harvest(gpt2, corpus, {folders[1]: hook}, **settings)
    assert (folders[1] / PROGRESS).exists()
    monkeypatch.setattr(engine, "TOKENS_ON_CPU", CONTEXT_LENGTH)
    resumed = harvest(gpt2, corpus, {folders[1]: hook}, **settings)[folders[1]]
    assert resumed | {"tokens_per_second": 0} == whole | {"tokens_per_second": 0}
    assert {path.name: path.read_bytes() for path in folders[1].glob("[!.]*")} == {path.name: path.read_bytes() for path in folders[0].glob("[!.]*")}
    fresh = tmp_path / "fresh"
    fresh.mkdir()
    assert harvest(gpt2, corpus, {fresh: hook}, **settings)[fresh]["batch_size"] == 1


@pytest.mark.parametrize("storage_dtype", ["float32", "bfloat16", "float16"])
def test_the_estimate_is_what_a_harvest_writes(gpt2: SubjectModel, tmp_path: Path, storage_dtype: str) -> None:
    corpus = random_corpus(11)
    found = harvest(gpt2, corpus, {tmp_path: gpt2.hook_name("mlp_out", 0)}, batch_size=3, storage_dtype=storage_dtype, shard_tokens=50)[tmp_path]
    assert found["bytes"] == estimate_bytes(11 * CONTEXT_LENGTH, 16, storage_dtype, shard_tokens=50, context_length=CONTEXT_LENGTH)
    assert found["bytes"] == sum(path.stat().st_size for path in tmp_path.glob("[!.]*"))


def test_what_will_not_fit_is_refused_before_the_first_pass(gpt2: SubjectModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All hooks together count, and what an earlier run has written does not."""
    corpus, usage = random_corpus(10), shutil.disk_usage
    hooks = {tmp_path / f"L{layer}": gpt2.hook_name("resid_post", layer) for layer in (0, 1)}
    for folder in hooks:
        folder.mkdir()
    settings: dict[str, Any] = {"batch_size": 2, "storage_dtype": "float32", "shard_tokens": 5 * CONTEXT_LENGTH}
    each = estimate_bytes(10 * CONTEXT_LENGTH, 16, "float32", shard_tokens=5 * CONTEXT_LENGTH, context_length=CONTEXT_LENGTH)
    free = 2 * each - 1
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(path)._replace(free=free))
    with (
        monkeypatch.context() as patched,
        pytest.raises(StorageError, match=r"expected .* of free space for the activations of 2 hook points, found") as error,
    ):
        patched.setattr(SubjectModel, "visit", lambda *args: pytest.fail("a pass was run"))
        harvest(gpt2, corpus, hooks, **settings)
    assert "activations.cache: false" in str(error.value)
    assert not any(path.is_file() for path in tmp_path.rglob("*"))
    free += 1
    harvest(gpt2, corpus, hooks, **settings)

"""Harvested shards hold what a capture gives, and an interrupted harvest ends with the same bytes as any other."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_subjects import CONTEXT_LENGTH, random_corpus
from torch import Tensor

from sae_pipeline.activations import harvest as engine
from sae_pipeline.activations.harvest import harvest
from sae_pipeline.activations.shard_writing import ShardWriter
from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.activations.subject import Seen, SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.errors import StorageError, SubjectError

CORPUS = random_corpus(10)
SETTINGS: dict[str, Any] = {"batch_size": 2, "storage_dtype": "float32", "shard_tokens": 3 * CONTEXT_LENGTH + 5}
"""Three contexts per shard, so four shards, the last of one context."""


class Killed(BaseException):
    """Stands for a signal: nothing catches it."""


class Dying:
    """A subject whose process is killed at its n-th batch, or that gives other values, and that counts its batches."""

    def __init__(self, model: SubjectModel, dies_at: int | None = None, scale: float = 1.0) -> None:
        self.model, self.dies_at, self.scale, self.asked = model, dies_at, scale, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def visit(self, tokens: Tensor, hooks: list[str], see: Seen) -> None:
        if len(self.asked) == self.dies_at:
            raise Killed
        self.asked.append(hooks)
        self.model.visit(tokens, hooks, lambda name, x: see(name, x * self.scale))


def layers(root: Path, model: SubjectModel) -> dict[Path, str]:
    """Two empty folders under ``root`` and the hooks that they are for."""
    hooks = {root / f"L{layer}": model.hook_name("resid_post", layer) for layer in (0, 2)}
    for folder in hooks:
        folder.mkdir(parents=True)
    return hooks


def changed_corpus(**changes: Tensor) -> Corpus:
    """The corpus with other columns."""
    columns = {name: getattr(CORPUS, name) for name in ("tokens", "document", "position", "source")}
    return Corpus(**columns | changes, documents=CORPUS.documents, summary={})


def contents(hooks: dict[Path, str]) -> dict[str, bytes]:
    """Every file of every folder."""
    return {f"{path.parent.name}/{path.name}": path.read_bytes() for folder in hooks for path in sorted(folder.glob("[!.]*"))}


def without_rate(summaries: dict[Path, dict[str, Any]]) -> list[dict[str, Any]]:
    """What must not depend on how often the harvest was interrupted."""
    return [{name: value for name, value in summary.items() if name != "tokens_per_second"} for summary in summaries.values()]


@pytest.fixture
def uninterrupted(gpt2: SubjectModel, tmp_path: Path) -> tuple[dict[str, bytes], list[dict[str, Any]]]:
    """Files and summaries of a harvest that nothing disturbed."""
    hooks = layers(tmp_path / "uninterrupted", gpt2)
    summaries = harvest(gpt2, CORPUS, hooks, **SETTINGS)
    return contents(hooks), without_rate(summaries)


def test_shards_hold_what_a_capture_gives_beside_the_tokens_they_belong_to(gpt2: SubjectModel, tmp_path: Path) -> None:
    """float32 storage is exact; all layers come from the same batches."""
    hooks, counting = layers(tmp_path, gpt2), Dying(gpt2)
    summaries = harvest(counting, CORPUS, hooks, **SETTINGS)  # type: ignore[arg-type]
    assert counting.asked == [list(hooks.values())] * 7  # three shards of 2 + 1 contexts, and one of 1
    for folder, hook in hooks.items():
        shards = ActivationShards(sorted(folder.glob("[!.]*")))
        expected = gpt2.capture(CORPUS.tokens, [hook])[hook].flatten(0, 1)
        torch.testing.assert_close(shards.read(0, shards.rows), expected, atol=1e-5, rtol=1e-5)
        assert torch.equal(shards.document, CORPUS.document.flatten())
        assert shards.context_length == CONTEXT_LENGTH
        usable = expected[CORPUS.document.flatten() >= 0]
        summary = summaries[folder]
        assert (summary["rows"], summary["usable_tokens"], summary["d_model"], summary["shards"]) == (120, 100, 16, 4)
        assert summary["mean_norm"] == pytest.approx(usable.norm(dim=1).mean().item(), rel=1e-5)
        assert summary["storage_relative_error"] == 0
        assert summary["bytes"] == sum(path.stat().st_size for path in folder.glob("[!.]*"))


@pytest.mark.parametrize(("storage_dtype", "bits"), [("bfloat16", 8), ("float16", 11)])
def test_the_storage_error_is_that_of_rounding_to_the_storage_dtype(gpt2: SubjectModel, tmp_path: Path, storage_dtype: str, bits: int) -> None:
    """Equal to a NumPy recomputation from the stored rows, and below half a unit in the last place."""
    hooks = layers(tmp_path, gpt2)
    summaries = harvest(gpt2, CORPUS, hooks, **SETTINGS | {"storage_dtype": storage_dtype})
    kept = CORPUS.document.flatten().numpy() >= 0
    for folder, hook in hooks.items():
        exact = gpt2.capture(CORPUS.tokens, [hook])[hook].flatten(0, 1).double().numpy()[kept]
        shards = ActivationShards(sorted(folder.glob("[!.]*")))
        stored = shards.read(0, shards.rows).double().numpy()[kept]
        assert summaries[folder]["storage_relative_error"] == pytest.approx(math.sqrt(((exact - stored) ** 2).sum() / (exact**2).sum()), rel=1e-3)
        assert 0 < summaries[folder]["storage_relative_error"] < 2**-bits


@pytest.mark.parametrize("dies_at", range(7))
def test_a_killed_harvest_resumes_to_the_same_bytes(
    gpt2: SubjectModel, tmp_path: Path, uninterrupted: tuple[dict[str, bytes], list[dict[str, Any]]], dies_at: int
) -> None:
    """Whichever batch it dies at; finished shards are not computed again, and nothing but shards is left."""
    hooks = layers(tmp_path / "killed", gpt2)
    with pytest.raises(Killed):
        harvest(Dying(gpt2, dies_at), CORPUS, hooks, **SETTINGS)  # type: ignore[arg-type]
    resumed = Dying(gpt2)
    summaries = harvest(resumed, CORPUS, hooks, **SETTINGS)  # type: ignore[arg-type]
    assert len(resumed.asked) == 7 - dies_at // 2 * 2
    assert contents(hooks) == uninterrupted[0]
    assert without_rate(summaries) == uninterrupted[1]
    assert {path.name for folder in hooks for path in folder.glob("[!.]*")} == {f"shard-0000{n}.safetensors" for n in range(4)}


@pytest.mark.parametrize("damage", ["truncated", "flipped", "removed", "unrecorded", "temporary", "record"])
def test_a_damaged_leftover_is_computed_again(
    gpt2: SubjectModel, tmp_path: Path, uninterrupted: tuple[dict[str, bytes], list[dict[str, Any]]], damage: str
) -> None:
    """What a crash or a disk did to a shard, a temporary file or the record of finished shards does not reach the result."""
    hooks = layers(tmp_path / "damaged", gpt2)
    with pytest.raises(Killed):
        harvest(Dying(gpt2, 5), CORPUS, hooks, **SETTINGS)  # type: ignore[arg-type]
    folder = next(iter(hooks))
    shard = folder / "shard-00000.safetensors"
    data = shard.read_bytes()
    if damage == "truncated":
        shard.write_bytes(data[:-100])
    elif damage == "flipped":
        shard.write_bytes(data[:-100] + bytes([data[-100] ^ 1]) + data[-99:])
    elif damage == "removed":
        shard.unlink()
    elif damage == "unrecorded":
        (folder / "shard-00003.safetensors").write_bytes(data)
    elif damage == "temporary":
        (folder / ".shard-00002.safetensors").write_bytes(data[:1000])
    else:
        (folder / engine.PROGRESS).write_text('{"shard-0')
    resumed = Dying(gpt2)
    summaries = harvest(resumed, CORPUS, hooks, **SETTINGS)  # type: ignore[arg-type]
    assert contents(hooks) == uninterrupted[0]
    assert without_rate(summaries) == uninterrupted[1]
    # What is missing in one layer alone is computed for that layer alone.
    again = {"truncated": 2, "flipped": 2, "removed": 2, "record": 4}.get(damage, 0)
    assert [len(asked) for asked in resumed.asked] == [1] * again + [2] * 3


@pytest.mark.parametrize(
    "changed", [{"storage_dtype": "bfloat16"}, {"batch_size": 3}, {"shard_tokens": 2 * CONTEXT_LENGTH}, {"corpus": random_corpus(10, seed=1)}]
)
def test_leftovers_of_another_recipe_are_not_taken_for_finished_work(gpt2: SubjectModel, tmp_path: Path, changed: dict[str, Any]) -> None:
    """Intact shards of other text, dtype, batches or size are removed and computed again."""
    hooks, expected = layers(tmp_path / "leftover", gpt2), layers(tmp_path / "expected", gpt2)
    with pytest.raises(Killed):
        harvest(Dying(gpt2, 5), CORPUS, hooks, **SETTINGS)  # type: ignore[arg-type]
    arguments = {"corpus": CORPUS} | SETTINGS | changed
    harvest(gpt2, hooks=hooks, **arguments)
    harvest(gpt2, hooks=expected, **arguments)
    assert contents(hooks) == contents(expected)


def test_a_complete_layer_is_not_written_again(gpt2: SubjectModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process died after one layer's last shard and before the other's: only the other's is computed and written."""
    hooks, started, publish = layers(tmp_path, gpt2), [], ShardWriter.publish

    def dying(writer: ShardWriter, document: Tensor) -> str:
        if (writer.path.parent.name, writer.path.name) == ("L2", "shard-00003.safetensors"):
            raise Killed
        return publish(writer, document)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(ShardWriter, "publish", dying)
        harvest(gpt2, CORPUS, hooks, **SETTINGS)
    complete = tmp_path / "L0"
    before = {path.name: path.stat().st_mtime_ns for path in complete.glob("shard-*")}
    monkeypatch.setattr(ShardWriter, "publish", lambda writer, document: started.append(writer.path.parent.name) or publish(writer, document))
    resumed = Dying(gpt2)
    harvest(resumed, CORPUS, hooks, **SETTINGS)  # type: ignore[arg-type]
    assert started == ["L2"]
    assert resumed.asked == [["blocks.2.hook_resid_post"]]
    assert {path.name: path.stat().st_mtime_ns for path in complete.glob("[!.]*")} == before


def test_values_too_large_for_the_storage_dtype_are_an_error(gpt2: SubjectModel, tmp_path: Path) -> None:
    """float16 ends at 65,504, which massive activations exceed; the message names a dtype that holds them."""
    large = Dying(gpt2, scale=1e6)
    with pytest.raises(StorageError, match=r"activations.storage_dtype: expected values that float16 can hold"):
        harvest(large, CORPUS, layers(tmp_path / "a", gpt2), **SETTINGS | {"storage_dtype": "float16"})  # type: ignore[arg-type]
    harvest(large, CORPUS, layers(tmp_path / "b", gpt2), **SETTINGS | {"storage_dtype": "bfloat16"})  # type: ignore[arg-type]


def test_activations_that_are_not_numbers_are_an_error(gpt2: SubjectModel, tmp_path: Path) -> None:
    """A model that overflows must not be trained on in silence; the contexts are named and nothing is stored."""
    hooks = layers(tmp_path, gpt2)
    with pytest.raises(SubjectError, match=r"expected finite activations, found NaN or infinity in contexts 0 to 1"):
        harvest(Dying(gpt2, scale=math.nan), CORPUS, hooks, **SETTINGS)  # type: ignore[arg-type]
    assert not contents(hooks)


def test_shards_do_not_depend_on_documents_beside_them(gpt2: SubjectModel, tmp_path: Path) -> None:
    """A shorter corpus gives the same bytes for the shards that it fills."""
    long, short = layers(tmp_path / "long", gpt2), layers(tmp_path / "short", gpt2)
    harvest(gpt2, CORPUS, long, **SETTINGS)
    parts = {name: getattr(CORPUS, name)[:6] for name in ("tokens", "document", "position", "source")}
    harvest(gpt2, changed_corpus(**parts), short, **SETTINGS)
    found = contents(short)
    assert len(found) == 4
    assert found == {name: data for name, data in contents(long).items() if name in found}


def test_text_that_the_model_cannot_read_is_refused(gpt2: SubjectModel, tmp_path: Path) -> None:
    """Token ids beyond its vocabulary, and contexts beyond its positions."""
    hooks = layers(tmp_path, gpt2)
    with pytest.raises(SubjectError, match=r"expected a tokenizer with ids below 300, the model's vocabulary, found id 301"):
        harvest(gpt2, changed_corpus(tokens=CORPUS.tokens + 301 * (CORPUS.tokens == 0)), hooks, **SETTINGS)
    parts = {name: getattr(CORPUS, name).repeat(1, 3) for name in ("tokens", "document", "position")}
    with pytest.raises(SubjectError, match=r"expected at most 32 tokens, .* found 36"):
        harvest(gpt2, changed_corpus(**parts), hooks, **SETTINGS)

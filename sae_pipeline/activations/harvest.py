"""Harvesting: the activations of several hooks from one forward pass over a corpus, into shards.

A shard holds whole contexts, and a pass never straddles two shards, so a shard's bytes do not depend on where an
earlier process was killed. What a pass gives is described and written by a thread while the next one runs: memory
holds two passes, however much text there is. Each folder keeps a record of its finished shards until the harvest is
complete; a resume checks them, computes only what is missing, and reads the rest back for the statistics.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from torch import Tensor

from sae_pipeline.activations.batch_size import resolve_batch_size
from sae_pipeline.activations.blocks import Cut, contexts_per_shard
from sae_pipeline.activations.disk import estimate_bytes, require_room
from sae_pipeline.activations.hook_harvest import HookHarvest, columns_of
from sae_pipeline.activations.shards import SHARD, shard_number
from sae_pipeline.activations.statistics import loss_by_dtype
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.errors import SubjectError
from sae_pipeline.progress import track
from sae_pipeline.store import digest, file_sha256, storage_errors, write_json

PROGRESS = ".progress.json"
"""Record of the finished shards; it stays until the artifact is published, which leaves it out."""

HASHED_CONTEXTS = 4096
"""Contexts hashed at once."""


def harvest(
    model: SubjectModel,
    corpus: Corpus,
    hooks: dict[Path, str],
    *,
    batch_size: int | str,
    storage_dtype: str,
    shard_tokens: int,
) -> dict[Path, dict[str, Any]]:
    """Write the shards of every hook into its folder and return a summary per folder.

    Args:
        hooks: folder -> hook name; all hooks are captured in the same forward pass.
        batch_size: contexts per forward pass, or ``"auto"``. An automatic size is kept when a harvest is resumed.
        storage_dtype: float32, bfloat16 or float16.
        shard_tokens: tokens per shard, rounded down to whole contexts (at least one).

    Returns:
        Per folder: rows, usable_tokens (not special), d_model, mean_norm (of usable rows, raw units),
        storage_relative_error (root mean square of ||x - stored(x)|| over that of ||x||, usable rows), shards, bytes,
        tokens_per_second (of this process), batch_size, shard_contexts, context_length, n_contexts, storage_dtype,
        statistics (of :class:`ActivationStatistics`, with ``storage``: what each dtype would lose).

    Raises:
        SubjectError: the corpus does not fit the model (context length, vocabulary), or the values are not finite.
        StorageError: values do not fit the storage dtype, or there is not enough room to write.
    """
    _check(model, corpus)
    text, per_shard = _text_hash(corpus), contexts_per_shard(shard_tokens, corpus.context_length)
    # What a shard's bytes follow from: a leftover made in any other way must not be taken for finished work.
    recipes = {
        folder: digest(text, corpus.context_length, per_shard, batch_size, storage_dtype, str(model.dtype), hook) for folder, hook in hooks.items()
    }
    records = {folder: _record(folder, recipe) for folder, recipe in recipes.items()}
    sizes = Counter(size for size, shards in records.values() for _ in shards)
    size = sizes.most_common(1)[0][0] if sizes else resolve_batch_size(batch_size, model, list(hooks.values()), corpus.tokens, per_shard)
    cut = Cut(corpus.n_contexts, corpus.context_length, per_shard, size)
    sites = [HookHarvest(folder, hook, model, storage_dtype, _verified(folder, records[folder], size)) for folder, hook in hooks.items()]
    _require_room(sites, cut, model.d_model, storage_dtype)

    missing = sum(stop - start for n, (start, stop) in enumerate(cut.shards) if any(n not in site.shards for site in sites)) * cut.context_length
    total = cut.n_contexts * cut.context_length
    started = time.monotonic()

    def publish(site: HookHarvest, n: int) -> None:
        with storage_errors(site.folder):
            site.publish(n, corpus, *cut.shards[n])
            write_json(site.folder / PROGRESS, {"recipe": recipes[site.folder], "batch_size": size, "shards": site.shards_by_name})

    try:
        with ThreadPoolExecutor(1) as background, track(f"harvesting {', '.join(hooks.values())}", total, "tokens", done=total - missing) as progress:
            begun: list[Future[None]] = []
            for n, (start, stop) in enumerate(cut.shards):
                wanting = [site for site in sites if n not in site.shards]
                following = [background.submit(site.read_back, n, corpus, cut.blocks_of(n)) for site in sites if site not in wanting]
                following += [background.submit(site.open, n, (stop - start) * cut.context_length, cut.context_length) for site in wanting]
                for block in cut.blocks_of(n) if wanting else ():
                    # One pass runs while the one before it is described and written; no more than two are in memory.
                    following += _run(model, corpus, block, wanting, background)
                    _finish(begun)
                    begun, following = following, []
                    progress.advance((block[1] - block[0]) * cut.context_length)
                begun += following + [background.submit(publish, site, n) for site in wanting]
            _finish(begun)
    finally:  # the thread has ended
        for site in sites:
            site.discard()
    rate = missing / max(time.monotonic() - started, 1e-9)
    return {site.folder: _summary(site, cut, [site.shards[n] for n in sorted(site.shards)], rate) for site in sites}


def survey(
    model: SubjectModel,
    corpus: Corpus,
    hooks: dict[Path, str],
    *,
    batch_size: int | str,
    storage_dtype: str,
    shard_tokens: int,
    tokens: int,
) -> dict[Path, dict[str, Any]]:
    """What :func:`harvest` would say of a corpus, from its first ``tokens`` tokens and without writing shards.

    The cut, and so every activation, is that of a harvest with the same arguments. ``rows`` and ``usable_tokens`` are
    those of the whole corpus; ``shards`` and ``bytes`` are 0; ``statistics["tokens"]`` says how many tokens the figures
    are from.

    Raises:
        SubjectError, StorageError: as in :func:`harvest`, as far as the sample shows it.
    """
    _check(model, corpus)
    per_shard = contexts_per_shard(shard_tokens, corpus.context_length)
    size = resolve_batch_size(batch_size, model, list(hooks.values()), corpus.tokens, per_shard)
    cut = Cut(corpus.n_contexts, corpus.context_length, per_shard, size)
    blocks = [block for block in cut.blocks if block[0] * corpus.context_length < tokens]
    sites = [HookHarvest(folder, hook, model, storage_dtype, {}) for folder, hook in hooks.items()]
    started, surveyed = time.monotonic(), blocks[-1][1] * corpus.context_length
    with ThreadPoolExecutor(1) as background, track(f"surveying {', '.join(hooks.values())}", surveyed, "tokens") as progress:
        for block in blocks:
            _finish(_run(model, corpus, block, sites, background))
            progress.advance((block[1] - block[0]) * corpus.context_length)
    rate = surveyed / max(time.monotonic() - started, 1e-9)
    usable = sum(int((corpus.document[first:stop] >= 0).sum()) for first, stop in cut.shards)
    whole = {"rows": corpus.n_contexts * corpus.context_length, "usable_tokens": usable, "shards": 0, "bytes": 0}
    return {site.folder: _summary(site, cut, [{"losses": site.losses}], rate) | whole for site in sites}


def _run(model: SubjectModel, corpus: Corpus, block: tuple[int, int], sites: list[HookHarvest], background: Executor) -> list[Future[None]]:
    """One forward pass; what becomes of its activations is computed in the background."""
    columns = columns_of(corpus, *block)
    begun: list[Future[None]] = []

    def see(hook: str, activation: Tensor) -> None:
        rows = activation.detach().flatten(0, 1).clone()
        begun.extend(background.submit(site.take, rows, columns, block) for site in sites if site.hook == hook)

    model.visit(corpus.tokens[slice(*block)], [site.hook for site in sites], see)
    return begun


def _finish(begun: list[Future[None]]) -> None:
    """Wait for background work, and raise what it raised first: it is done in the order it was asked for."""
    for work in begun:
        work.result()


def _check(model: SubjectModel, corpus: Corpus) -> None:
    """Refuse a corpus that this model cannot read."""
    model.check_context(corpus.context_length)
    if (largest := int(corpus.tokens.max())) >= model.vocab_size:
        raise SubjectError(
            f"{model.name}: expected a tokenizer with ids below {model.vocab_size}, the model's vocabulary, found id {largest}; use the model's own tokenizer"
        )


def _text_hash(corpus: Corpus) -> str:
    """Hash of the token ids and documents, a few contexts at a time."""
    hasher = hashlib.sha256()
    for start in range(0, corpus.n_contexts, HASHED_CONTEXTS):
        for column in (corpus.tokens, corpus.document):
            hasher.update(column[start : start + HASHED_CONTEXTS].contiguous().numpy().data)
    return hasher.hexdigest()


def _record(folder: Path, recipe: str) -> tuple[int, dict[int, dict[str, Any]]]:
    """Batch size and records of the shards that an earlier process wrote by the same recipe."""
    names = {path.name for path in folder.glob("shard-*")}
    try:
        record = json.loads((folder / PROGRESS).read_text())
        if record["recipe"] == recipe:
            return int(record["batch_size"]), {shard_number(name): shard for name, shard in record["shards"].items() if name in names}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # no record, or one cut short: nothing counts as finished
    return 0, {}


def _verified(folder: Path, record: tuple[int, dict[int, dict[str, Any]]], batch_size: int) -> dict[int, dict[str, Any]]:
    """The recorded shards whose bytes are intact and whose batch size is this one; anything else in the folder is removed."""
    size, shards = record
    intact = {n: r for n, r in shards.items() if size == batch_size and file_sha256(folder / SHARD.format(n)) == r["sha256"]}
    kept = {SHARD.format(n) for n in intact} | {PROGRESS}
    for path in folder.iterdir():
        if path.name not in kept:
            path.unlink()
    return intact


def _require_room(sites: list[HookHarvest], cut: Cut, d_model: int, storage_dtype: str) -> None:
    """Refuse to start when the shards that are missing will not fit (StorageError)."""
    needed = {}
    for site in sites:
        contexts = [stop - start for n, (start, stop) in enumerate(cut.shards) if n not in site.shards]
        shape = {"shard_tokens": cut.shard_contexts * cut.context_length, "context_length": cut.context_length}
        needed[site.folder] = estimate_bytes(sum(contexts) * cut.context_length, d_model, storage_dtype, **shape)
    require_room(needed)


def _summary(site: HookHarvest, cut: Cut, shards: Iterable[dict[str, Any]], rate: float) -> dict[str, Any]:
    shards = list(shards)
    losses: dict[str, float] = {}
    for shard in shards:
        losses = {name: losses.get(name, 0.0) + value for name, value in shard["losses"].items()}
    storage, statistics = loss_by_dtype(losses), site.statistics.summary()
    return {
        "rows": cut.n_contexts * cut.context_length,
        "usable_tokens": statistics["tokens"],
        "d_model": site.d_model,
        "mean_norm": statistics["mean_norm"] or 0.0,
        "storage_relative_error": storage[site.dtype_name]["relative_error"],
        "shards": len(shards),
        "bytes": sum(shard.get("bytes", 0) for shard in shards),
        "tokens_per_second": round(rate),
        "batch_size": cut.batch_size,
        "shard_contexts": cut.shard_contexts,
        "context_length": cut.context_length,
        "n_contexts": cut.n_contexts,
        "storage_dtype": site.dtype_name,
        "statistics": statistics | {"storage": storage},
    }

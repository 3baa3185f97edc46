"""This project's evaluation, called as the pipeline calls it: harvest, baseline, and several SAEs of the layer in one pass.

The harvest and the baseline are what an evaluation set costs once per layer, whatever the number of SAEs. For the memory
figures text and activations lie on disk, as they do in a study: activations are the embeddings, which cost next to no
computing, so that a set of a million tokens needs no forward pass of an hour.
"""

from __future__ import annotations

import math
import shutil
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch
from our_cache_training import highest_anonymous
from our_harvest import corpus
from protocol import Actions, serve
from safetensors.torch import load_file, save_file

from sae_pipeline.activations.harvest import harvest
from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.metrics.baselines import Baseline, measure_baseline
from sae_pipeline.metrics.evaluate import evaluate_saes
from sae_pipeline.saes.inference import InferenceSAE

OUTLIER_NORM_RATIO = 10.0
"""The pipeline's default."""
DOCUMENT_CONTEXTS = 4
"""Contexts of a document in the text that memory is measured on: 512 tokens, about a web page."""
CE_TOKENS = 8_192
"""Tokens that memory is measured with for cross-entropies, the pipeline's default."""


def make_sae(mean: torch.Tensor, hook: str, setup: dict[str, Any], seed: int) -> InferenceSAE:
    """Top k of tied random directions around the mean activation: speed does not depend on what they are."""
    rows = torch.randn(setup["d_sae"], len(mean), generator=torch.Generator().manual_seed(seed))
    rows /= torch.linalg.vector_norm(rows, dim=1, keepdim=True)
    metadata = {"model_name": setup["model_name"], "hook_name": hook, "context_size": setup["context_length"], "prepend_bos": False}
    return InferenceSAE(rows.t().contiguous(), torch.zeros(setup["d_sae"]), rows, mean, "topk", k=setup["k"], metadata=metadata)


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """The subject, the text, and the SAEs, which are written for the other tools too."""
    torch.set_num_threads(setup["threads"])
    model = SubjectModel.load(setup["checkpoint"])
    tokens = torch.from_numpy(np.load(setup["tokens"])).int()
    scratch, text = Path(setup["scratch"]), corpus(tokens[: setup["contexts"]])
    hook = model.hook_name("resid_post", setup["layer"])
    mean = model.capture(tokens[: setup["batch_size"]].long(), [hook])[hook][:, 1:].mean((0, 1))
    saes = {name: make_sae(mean, hook, setup, seed) for seed, name in enumerate(setup["saes"])}
    for name, sae in saes.items():
        if not (scratch / name).exists():
            (scratch / name).mkdir()
            sae.save(scratch / name)
    stored, measured = scratch / "activations", scratch / "baseline"
    common: dict[str, Any] = {"model": model, "ce_tokens": text.tokens.numel(), "batch_size": setup["batch_size"]}

    def prepare() -> dict[str, Any]:
        """What the set costs once: its activations on disk, and its baseline."""
        for folder in (stored, measured):
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        started = time.perf_counter()
        harvest(model, text, {stored: hook}, batch_size=setup["batch_size"], storage_dtype="float32", shard_tokens=setup["shard_tokens"])
        summary = measure_baseline(measured, activations=shards(stored), corpus=text, hook=hook, outlier_norm_ratio=OUTLIER_NORM_RATIO, **common)
        found["baseline"] = load_baseline(measured, summary)
        return {"seconds": time.perf_counter() - started, "tokens": text.tokens.numel()}

    found: dict[str, Baseline] = {}

    def evaluate(count: int) -> dict[str, Any]:
        """The first ``count`` SAEs, on what :func:`prepare` left."""
        folders = {name: scratch / f"evaluation-{name}" for name in list(saes)[:count]}
        for folder in folders.values():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
        started = time.perf_counter()
        metrics = evaluate_saes(
            folders, {name: saes[name] for name in folders}, activations=shards(stored), corpus=text, baseline=found["baseline"], hook=hook, **common
        )  # fmt: skip
        return {"seconds": time.perf_counter() - started, "tokens": text.tokens.numel(), "metrics": metrics}

    def write_long(name: str, rows: int) -> dict[str, Any]:
        """Text of at least ``rows`` tokens, its embeddings, and their baseline: what the evaluation of an SAE finds on disk."""
        folder = scratch / name
        for part in ("activations", "baseline"):
            (folder / part).mkdir(parents=True)
        contexts = math.ceil(rows / tokens.shape[1])
        document = (torch.arange(contexts, dtype=torch.int32) // DOCUMENT_CONTEXTS)[:, None].repeat(1, tokens.shape[1])
        document[:, 0] = -1
        long = tokens.repeat(math.ceil(contexts / len(tokens)), 1)[:contexts].contiguous()
        save_file(
            {"tokens": long, "document": document, "position": document.clamp(max=0), "source": torch.zeros(contexts, dtype=torch.uint8)},
            folder / "text.safetensors",
        )
        site, mapped = model.hook_name("resid_pre", 0), text_of(folder)
        harvest(
            model,
            mapped,
            {folder / "activations": site},
            batch_size=setup["batch_size"],
            storage_dtype="bfloat16",
            shard_tokens=setup["shard_tokens"],
        )
        with highest_anonymous() as peak:
            summary = measure_baseline(
                folder / "baseline", activations=shards(folder / "activations"), corpus=mapped, hook=site, outlier_norm_ratio=OUTLIER_NORM_RATIO, **common | {"ce_tokens": CE_TOKENS}
            )  # fmt: skip
        return {"tokens": mapped.tokens.numel(), "outlier_norm": summary["outlier_norm"], "baseline_anonymous_mib": peak[0]}

    def evaluate_long(name: str, outlier_norm: float) -> dict[str, Any]:
        """One SAE on what :func:`write_long` left; nothing is warm, so that its whole memory is seen."""
        folder = scratch / name
        (folder / "evaluation").mkdir()
        site, sae = model.hook_name("resid_pre", 0), next(iter(saes.values()))
        started = time.perf_counter()
        with highest_anonymous() as peak:
            evaluate_saes(
                {"sae": folder / "evaluation"}, {"sae": replace(sae)}, activations=shards(folder / "activations"), corpus=text_of(folder),
                baseline=load_baseline(folder / "baseline", {"outlier_norm": outlier_norm}), hook=site, **common | {"ce_tokens": CE_TOKENS},
            )  # fmt: skip
        return {"seconds": time.perf_counter() - started, "anonymous_mib": peak[0]}

    return {"versions": {"torch": torch.__version__}}, {
        "prepare": prepare, "evaluate": evaluate, "write_long": write_long, "evaluate_long": evaluate_long,
    }  # fmt: skip


def shards(folder: Path) -> ActivationShards:
    """The activations that a harvest left in a folder."""
    return ActivationShards(sorted(folder.glob("shard-*")))


def load_baseline(folder: Path, summary: dict[str, Any]) -> Baseline:
    """The baseline in a folder that is no artifact of a store."""
    return Baseline.load(SimpleNamespace(file=lambda name: folder / name, summary=summary))  # type: ignore[arg-type]


def text_of(folder: Path) -> Corpus:
    """The text of a folder as the pipeline reads it: mapped, not read into memory."""
    columns = load_file(folder / "text.safetensors")
    count = int(columns["document"][-1, -1]) + 1
    return Corpus(**columns, documents=pd.DataFrame({"document_hash": [str(n) for n in range(count)]}), summary={})


if __name__ == "__main__":
    serve(load)

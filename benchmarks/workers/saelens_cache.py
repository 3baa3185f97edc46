"""SAELens's ``CacheActivationsRunner``, with its default model class, over the same token ids.

It captures one hook per run, so several layers are several runs; each stops behind its own layer. Token ids are given
ready-made (a data set with a ``tokens`` column), and the final shuffle of the data set's row numbers is off.
"""

from __future__ import annotations

import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from protocol import Actions, serve
from sae_lens import CacheActivationsRunner, CacheActivationsRunnerConfig

STORED = {"float32": "float32", "bfloat16": "float16"}
"""Storage dtype of each computing precision: Arrow, in which it stores, has no bfloat16, so the other dtype of two bytes."""


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """One runner per layer, all on one copy of the model."""
    torch.set_num_threads(setup["threads"])
    tokens = np.load(setup["tokens"])[: setup["contexts"]]
    data = Dataset.from_dict({"tokens": tokens})
    scratch = Path(setup["scratch"])
    stored = STORED[setup["precision"]]
    row_bytes = setup["d_model"] * (4 if stored == "float32" else 2)
    runners: list[CacheActivationsRunner] = []
    for layer in setup["layers"]:
        config = CacheActivationsRunnerConfig(
            dataset_path="",
            # TransformerLens accepts names it knows and looks for a folder of that name first: the checkpoint is ./gpt2
            model_name=setup["model_name"],
            model_from_pretrained_kwargs={"dtype": getattr(torch, setup["precision"])},
            hook_name=f"blocks.{layer}.hook_resid_post",
            d_in=setup["d_model"],
            context_size=tokens.shape[1],
            training_tokens=tokens.size,
            model_batch_size=setup["batch_size"],
            # exactly the text: what is left of a buffer would be filled with the text's beginning again
            buffer_size_gb=(tokens.size + 0.5) * row_bytes / 1e9,
            dtype=stored,
            prepend_bos=False,  # the ids have their BOS
            shuffle=False,
            streaming=False,
            device="cpu",
            new_cached_activations_path=str(scratch / f"saelens-{layer}"),
        )
        runner = CacheActivationsRunner(config, override_dataset=data)
        if runners:
            runner.model = runner.activations_store.model = runners[0].model
        runners.append(runner)

    def run(check: bool = False) -> dict[str, Any]:
        seconds, size, means = 0.0, 0, []
        for runner in runners:
            folder = Path(runner.cfg.new_cached_activations_path)
            shutil.rmtree(folder, ignore_errors=True)
            started = time.perf_counter()
            dataset = runner.run()
            seconds += time.perf_counter() - started
            size += sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
            if len(dataset) != len(tokens):
                raise ValueError(f"expected {len(tokens)} contexts in SAELens's cache, found {len(dataset)}")
            if check:
                rows = dataset.with_format("numpy")[:][runner.cfg.hook_name]
                means.append(np.asarray(rows, dtype=np.float64).reshape(-1, setup["d_model"]).mean(0).tolist())
        found: dict[str, Any] = {"seconds": seconds, "tokens": tokens.size, "bytes": size / len(runners)}
        return found | ({"mean_activation": means} if check else {})

    versions = {name: version(name) for name in ("sae-lens", "transformer-lens", "transformers", "torch", "datasets")}
    return {"versions": versions, "stores": f"{stored} on disk in a data set of Arrow files"}, {"harvest": run}


if __name__ == "__main__":
    serve(load)

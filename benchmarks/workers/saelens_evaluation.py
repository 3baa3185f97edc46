"""SAELens's ``run_evals`` with every metric that it has, on the same SAEs and the same token ids.

It takes one SAE at a time and runs the model anew for each: three whole passes for cross-entropies and divergences (clean,
spliced, ablated), and one up to the hook for the rest.
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from protocol import Actions, serve
from sae_lens import SAE, ActivationsStore
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.load_model import load_model
from sae_lens.training.activation_scaler import ActivationScaler

SAME = {
    "explained_variance": "explained_variance", "mse": "mse", "l0": "l0", "cosine_similarity": "cossim",
    "ce_clean": "ce_loss_without_sae", "ce_sae": "ce_loss_with_sae",
}  # fmt: skip
"""Our names of what is compared before anything is timed, and its."""


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Model and SAEs, warm."""
    torch.set_num_threads(setup["threads"])
    # TransformerLens accepts names it knows and looks for a folder of that name first: the checkpoint is ./gpt2
    model = load_model("HookedTransformer", setup["model_name"], device="cpu")
    tokens = np.load(setup["tokens"])[: setup["contexts"]]
    saes = [SAE.load_from_disk(Path(setup["scratch"]) / name, device="cpu") for name in setup["saes"]]
    batches = len(tokens) // setup["batch_size"]
    config = get_eval_everything_config(setup["batch_size"], n_eval_reconstruction_batches=batches, n_eval_sparsity_variance_batches=batches)
    data = Dataset.from_dict({"tokens": tokens})

    def evaluate() -> dict[str, Any]:
        """Every SAE; ``each`` holds the seconds that each of them took."""
        each, metrics = [], []
        for sae in saes:
            store = ActivationsStore.from_sae(model, sae, data, context_size=tokens.shape[1], store_batch_size_prompts=setup["batch_size"])
            started = time.perf_counter()
            groups, _ = run_evals(sae, store, model, ActivationScaler(), config)
            each.append(time.perf_counter() - started)
            found = {key: value for group in groups.values() for key, value in group.items()}
            metrics.append({ours: found[theirs] for ours, theirs in SAME.items()})
        return {"each": each, "tokens": tokens.size, "metrics": dict(zip(setup["saes"], metrics, strict=True))}

    return {"versions": {name: version(name) for name in ("sae-lens", "transformer-lens", "torch")}}, {"evaluate": evaluate}


if __name__ == "__main__":
    serve(load)

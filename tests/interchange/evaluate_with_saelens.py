"""Run by SAELens's own interpreter: what its ``run_evals`` says of every SAE folder in a folder, on token ids made ready."""

import json
import os
import sys
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}

import numpy as np
from datasets import Dataset
from sae_lens import SAE, ActivationsStore
from sae_lens.evals import get_eval_everything_config, run_evals
from sae_lens.load_model import load_model
from sae_lens.training.activation_scaler import ActivationScaler

root = Path(sys.argv[1])
asked = json.loads((root / "asked.json").read_text())
os.chdir(root)  # TransformerLens accepts names it knows and looks for a folder of that name first: the checkpoint is ./gpt2
model = load_model("HookedTransformer", "gpt2", device="cpu")
found = {}
for text, excluded in asked["texts"].items():
    tokens = np.load(root / f"{text}.npy")
    batches = len(tokens) // asked["batch_size"]
    config = get_eval_everything_config(asked["batch_size"], n_eval_reconstruction_batches=batches, n_eval_sparsity_variance_batches=batches)
    for name in asked["saes"]:
        sae = SAE.load_from_disk(root / name, device="cpu")
        store = ActivationsStore.from_sae(
            model, sae, Dataset.from_dict({"tokens": tokens}), context_size=tokens.shape[1], store_batch_size_prompts=asked["batch_size"]
        )
        metrics, of_features = run_evals(sae, store, model, ActivationScaler(), config, exclude_special_tokens=excluded)
        plain = {key: value for group in metrics.values() for key, value in group.items()}
        found[f"{name} on {text}"] = plain | {"feature_density": of_features["feature_density"]}
(root / "found.json").write_text(json.dumps(found))

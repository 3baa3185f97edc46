"""Run by dictionary_learning's own interpreter: SAEs trained by its trainers for a few steps, with what they compute."""

import json
import shutil
import sys
from pathlib import Path

import torch
from dictionary_learning.dictionary import AutoEncoderNew
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer, StandardTrainerAprilUpdate
from dictionary_learning.trainers.top_k import TopKTrainer
from dictionary_learning.training import trainSAE
from dictionary_learning.utils import load_dictionary
from safetensors.torch import save_file

root, generator = Path(sys.argv[1]), torch.Generator().manual_seed(0)
D_IN, D_SAE, STEPS = 24, 57, 40
x = 3 * torch.randn(512, D_IN, generator=generator) + 2

common = {
    "steps": STEPS, "activation_dim": D_IN, "dict_size": D_SAE, "layer": 2, "lm_name": "toy", "device": "cpu", "seed": 0,
    "lr": 3e-3, "warmup_steps": 2, "decay_start": None, "submodule_name": "mlp_out",
}  # fmt: skip
penalised = common | {"sparsity_warmup_steps": 2}
counted = common | {"k": 5, "threshold_start_step": 10, "threshold_beta": 0.9}
configs = {
    "standard": penalised | {"trainer": StandardTrainer},
    "standard-april": penalised | {"trainer": StandardTrainerAprilUpdate},
    "gated": penalised | {"trainer": GatedSAETrainer},
    "jumprelu": penalised | {"trainer": JumpReluTrainer, "bandwidth": 0.1},
    "topk": counted | {"trainer": TopKTrainer},
    "batchtopk": counted | {"trainer": BatchTopKTrainer},
    "matryoshka": counted | {"trainer": MatryoshkaBatchTopKTrainer, "group_fractions": [0.25, 0.75]},
}
batches = [x[torch.randint(len(x), (64,), generator=generator)] for _ in range(STEPS + 200)]
trainSAE(iter(batches), list(configs.values()), STEPS, save_dir=str(root / "made"), device="cpu", normalize_activations=True)
for number, label in enumerate(configs):
    shutil.move(root / "made" / f"trainer_{number}", root / label)

# Its trainers have no path to this class any more, but its SAEs are still about.
torch.manual_seed(0)
older = AutoEncoderNew(D_IN, D_SAE)
for parameter in older.parameters():
    parameter.data.add_(0.1 * torch.randn(parameter.shape, generator=generator))
(root / "new").mkdir()
torch.save(older.state_dict(), root / "new" / "ae.pt")
(root / "new" / "config.json").write_text(json.dumps({"trainer": {"dict_class": "AutoEncoderNew"}}))

tensors, labels = {"x": x}, [*configs, "new"]
with torch.no_grad():
    for label in labels:
        sae, _ = load_dictionary(str(root / label), device="cpu")
        latents = sae.encode(x)
        tensors |= {f"{label}.latents": latents.contiguous(), f"{label}.reconstruction": sae.decode(latents).contiguous()}
save_file(tensors, root / "outputs.safetensors")
(root / "labels.json").write_text(json.dumps(labels))

"""Run by dictionary_learning's own interpreter: latents and reconstructions of every SAE folder in a folder."""

import json
import sys
from pathlib import Path

import torch
from dictionary_learning.utils import load_dictionary
from safetensors.torch import load_file, save_file

root = Path(sys.argv[1])
tensors, about = {}, {}
for name, x in load_file(root / "inputs.safetensors").items():
    config = json.loads((root / name / "config.json").read_text())
    sae, _ = load_dictionary(str(root / name), device="cpu")
    with torch.no_grad():
        latents = sae.encode(x)
        tensors |= {f"{name}.latents": latents.contiguous(), f"{name}.reconstruction": sae.decode(latents).contiguous()}
    about[name] = {"class": type(sae).__name__, "metadata": config.get("sae_pipeline")}
save_file(tensors, root / "outputs.safetensors")
(root / "about.json").write_text(json.dumps(about))

"""Run by sparsify's own interpreter: latents and reconstructions of every SAE folder in a folder."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from sparsify import SparseCoder

root = Path(sys.argv[1])
tensors, about = {}, {}
for name, x in load_file(root / "inputs.safetensors").items():
    sae = SparseCoder.load_from_disk(root / name, device="cpu")
    with torch.no_grad():
        values, places, _ = sae.encode(x)
        latents = torch.zeros(len(x), sae.num_latents).scatter_(1, places, values)
        tensors |= {f"{name}.latents": latents, f"{name}.reconstruction": sae.decode(values, places).contiguous()}
    about[name] = {"class": type(sae).__name__, "metadata": json.loads((root / name / "cfg.json").read_text()).get("sae_pipeline")}
save_file(tensors, root / "outputs.safetensors")
(root / "about.json").write_text(json.dumps(about))

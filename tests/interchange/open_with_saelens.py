"""Run by SAELens's own interpreter: latents and reconstructions of every SAE folder in a folder."""

import json
import sys
from pathlib import Path

import torch
from sae_lens import SAE
from safetensors.torch import load_file, save_file

root = Path(sys.argv[1])
tensors, about = {}, {}
for name, x in load_file(root / "inputs.safetensors").items():
    sae = SAE.load_from_disk(root / name, device="cpu")
    with torch.no_grad():
        latents = sae.encode(x)
        tensors |= {f"{name}.latents": latents.contiguous(), f"{name}.reconstruction": sae.decode(latents).contiguous()}
    about[name] = {"class": type(sae).__name__, "metadata": sae.cfg.metadata.to_dict()}
save_file(tensors, root / "outputs.safetensors")
(root / "about.json").write_text(json.dumps(about))

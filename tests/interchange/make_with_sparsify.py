"""Run by sparsify's own interpreter: SAEs that its class saves, with what they compute."""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from sparsify import SparseCoder, SparseCoderConfig

root, generator = Path(sys.argv[1]), torch.Generator().manual_seed(0)
D_IN = 24
x = 3 * torch.randn(512, D_IN, generator=generator) + 2
configs = {
    "topk": SparseCoderConfig(expansion_factor=4, k=5),
    "topk-latents": SparseCoderConfig(num_latents=57, k=5, normalize_decoder=False),
    "topk-undercomplete": SparseCoderConfig(num_latents=10, k=3, multi_topk=True),
}
tensors = {"x": x}
torch.manual_seed(0)
with torch.no_grad():
    for label, config in configs.items():
        sae = SparseCoder(D_IN, config)
        for parameter in (sae.encoder.bias, sae.b_dec, sae.W_dec):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
        sae.save_to_disk(root / label)
        values, places, _ = sae.encode(x)
        tensors[f"{label}.latents"] = torch.zeros(len(x), sae.num_latents).scatter_(1, places, values)
        tensors[f"{label}.reconstruction"] = sae.decode(values, places).contiguous()
save_file(tensors, root / "outputs.safetensors")
(root / "labels.json").write_text(json.dumps(list(configs)))

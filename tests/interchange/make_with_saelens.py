"""Run by SAELens's own interpreter: SAEs of every class and setting that can be read here, with what they compute."""

import json
import sys
from pathlib import Path

import torch
from sae_lens import SAE, BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig, MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig
from sae_lens.training.activation_scaler import ActivationScaler
from safetensors.torch import save_file

root, generator = Path(sys.argv[1]), torch.Generator().manual_seed(0)
D_IN, D_SAE = 24, 57
x = 3 * torch.randn(512, D_IN, generator=generator) + 2
FACTOR = 0.37

SETTINGS = {
    "standard": {"architecture": "standard"},
    "standard-plain-encoder": {"architecture": "standard", "apply_b_dec_to_input": False},
    "standard-scaled": {"architecture": "standard", "normalize_activations": "expected_average_only_in"},
    "topk": {"architecture": "topk", "k": 5},
    "topk-rescaled": {"architecture": "topk", "k": 5, "rescale_acts_by_decoder_norm": True},
    "jumprelu": {"architecture": "jumprelu"},
    "jumprelu-plain-encoder-scaled": {
        "architecture": "jumprelu", "apply_b_dec_to_input": False, "normalize_activations": "expected_average_only_in",
    },
    "gated": {"architecture": "gated"},
    "gated-plain-encoder": {"architecture": "gated", "apply_b_dec_to_input": False},
}  # fmt: skip


def randomised(sae):
    """Weights of about the size that training leaves, and the threshold of a BatchTopK SAE."""
    with torch.no_grad():
        for name, parameter in sae.named_parameters():
            sizes = {"W_enc": 0.3, "W_dec": 0.2, "r_mag": 0.3, "threshold": 0.2, "b_dec": 1.0}
            parameter.copy_(sizes.get(name, 0.5) * torch.randn(parameter.shape, generator=generator))
            if name == "threshold":
                parameter.abs_()
        if hasattr(sae, "topk_threshold"):
            sae.topk_threshold.fill_(0.8)
    return sae


saes = {}
for label, settings in SETTINGS.items():
    sae = randomised(SAE.from_dict({"d_in": D_IN, "d_sae": D_SAE, "metadata": {"hook_name": "blocks.2.hook_mlp_out"}} | settings))
    sae.save_model(root / label)
    factor = 1.0
    if "normalize_activations" in settings:
        # As its training checkpoints have it: the caller scales activations, and a file says by how much.
        factor = FACTOR
        ActivationScaler(scaling_factor=FACTOR).save(str(root / label / "activation_scaler.json"))
    saes[label] = (sae, factor)
for label, kind, config in [
    ("batchtopk", BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=5)),
    ("matryoshka", MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig(d_in=D_IN, d_sae=D_SAE, k=5, matryoshka_widths=[20, D_SAE])),
]:
    randomised(kind(config)).save_inference_model(root / label)
    saes[label] = (SAE.load_from_disk(root / label, device="cpu"), 1.0)

tensors = {"x": x}
with torch.no_grad():
    for label, (sae, factor) in saes.items():
        latents = sae.encode(x * factor)
        tensors |= {f"{label}.latents": latents.contiguous(), f"{label}.reconstruction": (sae.decode(latents) / factor).contiguous()}
save_file(tensors, root / "outputs.safetensors")
(root / "labels.json").write_text(json.dumps(list(saes)))

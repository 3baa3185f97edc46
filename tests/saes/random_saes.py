"""Random SAEs of every kind, and folders of them as other libraries leave them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.saes.formats.dictionary_learning import LAYOUTS
from sae_pipeline.saes.formats.saelens import SAELens
from sae_pipeline.saes.inference import InferenceSAE

KINDS = ("relu", "topk", "jumprelu", "gated", "batchtopk", "matryoshka")


def make_sae(kind: str, d_model: int = 8, d_sae: int = 32, seed: int = 0, unit: bool = True) -> InferenceSAE:
    """A random SAE whose latents fire on some inputs; batchtopk and matryoshka as they are exported."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    rows = torch.nn.functional.normalize(draw(d_sae, d_model), dim=1) * (1 if unit else 0.5 + 2 * torch.rand(d_sae, 1, generator=generator))
    weights = {"W_enc": rows.t().contiguous() + 0.1 * draw(d_model, d_sae), "b_enc": 0.3 * draw(d_sae), "W_dec": rows, "b_dec": 3 * draw(d_model)}
    metadata: dict[str, Any] = {"model_name": "toy", "hook_name": "blocks.1.hook_resid_post", "architecture": kind}
    k = min(4, d_sae)
    if kind == "jumprelu":
        return InferenceSAE(**weights, activation=kind, threshold=0.1 + torch.rand(d_sae, generator=generator), metadata=metadata)
    if kind in ("batchtopk", "matryoshka"):
        metadata |= {"k": k} | ({"matryoshka_shares": [0.25, 0.5, 1.0]} if kind == "matryoshka" else {})
        return InferenceSAE(**weights, activation="jumprelu", threshold=torch.full((d_sae,), 0.4), metadata=metadata)
    if kind == "gated":
        return InferenceSAE(**weights, activation=kind, r_mag=0.3 * draw(d_sae), b_mag=0.3 * draw(d_sae), metadata=metadata)
    return InferenceSAE(**weights, activation=kind, k=k if kind == "topk" else None, metadata=metadata)


def written_by_saelens(kind: str, folder: Path, seed: int, **changes: Any) -> Path:
    """A folder as SAELens leaves it, with other settings than we write."""
    SAELens().write(make_sae(kind, seed=seed, unit=False), folder)
    edit(folder / "cfg.json", **changes)
    return folder


def state_dict_folder(named: str, folder: Path, seed: int = 0, unit: bool = True) -> Path:
    """A folder of a class with its own random weights, as its trainer saves it."""
    sae, layout = make_sae("gated", d_sae=19, seed=seed, unit=unit), LAYOUTS[named]
    values = {name: value for name, value in vars(sae).items() if isinstance(value, Tensor)} | {"threshold": torch.full((19,), 0.2)}
    tensors = {theirs: values[ours].t().contiguous() if layout.linear else values[ours] for ours, theirs in layout.names.items()}
    if "TopK" in named:
        tensors |= {"k": torch.tensor(4, dtype=torch.int), "threshold": torch.tensor(0.3)}
    if "Matryoshka" in named:
        tensors["group_sizes"] = torch.tensor([5, 14])
    torch.save(tensors, folder / "ae.pt")
    trainer = {"dict_class": named, "lm_name": "toy", "layer": 1, "submodule_name": "resid_post_layer_1"} | ({"k": 4} if "TopK" in named else {})
    (folder / "config.json").write_text(json.dumps({"trainer": trainer, "buffer": {"ctx_len": 128}}))
    return folder


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))

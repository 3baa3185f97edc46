"""The folder of EleutherAI's sparsify 1.3: ``cfg.json`` beside ``sae.safetensors``. TopK alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_pipeline.errors import BadInput
from sae_pipeline.saes.formats.base import Format
from sae_pipeline.saes.formats.files import allowed, check_tensors, read_json, read_safetensors, whole_number, widths
from sae_pipeline.saes.inference import InferenceSAE

CONFIGURATION_FILE = "cfg.json"
WEIGHTS_FILE = "sae.safetensors"
PROVENANCE = "sae_pipeline"
"""Key of the configuration with our metadata; sparsify passes over keys that it does not know."""

DEFAULT_K = 32
"""What sparsify takes where a configuration names no k."""

_ALLOWED: dict[str, tuple[Any, ...]] = {"activation": ("topk",), "signed": (False,), "transcode": (False,), "skip_connection": (False,)}
_REASONS = {
    "activation": "groupmax keeps one latent of each group, which no threshold and no top k expresses",
    "signed": "negative latents are not supported",
    "transcode": "a transcoder predicts another activation than the one it reads",
    "skip_connection": "a linear path beside the latents is no autoencoder",
}


class Sparsify(Format):
    """sparsify 1.3 (``eai-sparsify``)."""

    name = "sparsify"
    library = "sparsify 1.3"
    package = "eai-sparsify==1.3.3"
    files = (CONFIGURATION_FILE, WEIGHTS_FILE)

    def obstacle(self, sae: InferenceSAE) -> str | None:
        """See :meth:`Format.obstacle`."""
        return (
            None
            if sae.activation == "topk"
            else f"sparsify knows only SAEs that keep the k largest latents of a token, and this one is {sae.activation}"
        )

    def read(self, folder: Path) -> InferenceSAE:
        """See :meth:`Format.read`."""
        where, config, tensors = folder / CONFIGURATION_FILE, read_json(folder, CONFIGURATION_FILE), read_safetensors(folder, WEIGHTS_FILE)
        allowed(where, config, _ALLOWED, _REASONS)
        if "W_skip" in tensors:
            raise BadInput(f"{folder / WEIGHTS_FILE}: expected no W_skip, found one: {_REASONS['skip_connection']}; choose another SAE")
        d_sae, d_model = widths(folder / WEIGHTS_FILE, tensors, "encoder.weight")
        shapes = {"encoder.weight": (d_sae, d_model), "encoder.bias": (d_sae,), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
        check_tensors(folder / WEIGHTS_FILE, tensors, shapes)
        provenance = config.get(PROVENANCE)
        return InferenceSAE(
            W_enc=tensors["encoder.weight"].t().contiguous(),
            b_enc=tensors["encoder.bias"],
            W_dec=tensors["W_dec"],
            b_dec=tensors["b_dec"],
            activation="topk",
            k=whole_number(where, {"k": DEFAULT_K} | config, "k", d_sae),
            metadata=provenance if isinstance(provenance, dict) else {},
        )

    def write(self, sae: InferenceSAE, folder: Path) -> None:
        """See :meth:`Format.write`."""
        tensors = {"encoder.weight": sae.W_enc.t(), "encoder.bias": sae.b_enc, "W_dec": sae.W_dec, "b_dec": sae.b_dec}
        save_file({name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS_FILE)
        config = {
            "activation": "topk",
            # An integer there, and read only where num_latents is 0: the true ratio need not be whole.
            "expansion_factor": max(1, round(sae.d_sae / sae.d_model)),
            "normalize_decoder": bool(((sae.W_dec.norm(dim=1) - 1).abs() < 1e-4).all()),
            "num_latents": sae.d_sae,
            "k": sae.k,
            "multi_topk": False,
            "skip_connection": False,
            "transcode": False,
            "d_in": sae.d_model,
            PROVENANCE: sae.metadata,
        }
        (folder / CONFIGURATION_FILE).write_text(json.dumps(config, indent=1), encoding="utf-8")

    def outputs(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Format.outputs`."""
        config = read_json(folder, CONFIGURATION_FILE)
        w = {name: tensor.to(x) for name, tensor in read_safetensors(folder, WEIGHTS_FILE).items()}
        rectified = torch.relu(torch.nn.functional.linear(x - w["b_dec"], w["encoder.weight"], w["encoder.bias"]))
        values, places = rectified.topk(config.get("k", DEFAULT_K), dim=1)
        x_hat = torch.einsum("nk,nkd->nd", values, w["W_dec"][places]) + w["b_dec"]
        return torch.zeros_like(rectified).scatter(1, places, values), x_hat

    def loading_code(self, place: str) -> str:
        """See :meth:`Format.loading_code`."""
        return (
            f'from sparsify import SparseCoder\n\nsae = SparseCoder.load_from_disk({json.dumps(place, ensure_ascii=False)}, device="cpu")\n'
            "values, latents, _ = sae.encode(x)\nx_hat = sae.decode(values, latents)"
        )

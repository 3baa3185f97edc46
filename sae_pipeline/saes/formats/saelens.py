"""The SAELens 6 directory: ``cfg.json`` beside ``sae_weights.safetensors``.

It is the format SAEs are stored in here, so that any of them opens in SAELens as it lies. Extra metadata keys survive
there; extra tensors would not load.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from sae_pipeline.errors import BadInput
from sae_pipeline.saes.formats.base import Format
from sae_pipeline.saes.formats.files import allowed, check_tensors, read_json, read_safetensors, whole_number, widths
from sae_pipeline.saes.formats.folding import latents_times_decoder_norms, moved_input_bias, scaled_input
from sae_pipeline.saes.inference import InferenceSAE

CONFIGURATION_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"
SCALER_FILE = "activation_scaler.json"
"""Where a training checkpoint of SAELens keeps the factor of ``expected_average_only_in``."""
FORMAT_VERSION = "6.54.0"
"""Version of SAELens this was checked against; it converts what claims to be older than 6."""

_ARCHITECTURES = {"relu": "standard", "topk": "topk", "jumprelu": "jumprelu", "gated": "gated"}
_NAMES = {
    "relu": {"b_enc": "b_enc"},
    "topk": {"b_enc": "b_enc"},
    "jumprelu": {"b_enc": "b_enc", "threshold": "threshold"},
    "gated": {"b_enc": "b_gate", "b_mag": "b_mag", "r_mag": "r_mag"},
}
"""Tensors of shape (d_sae,): our name and theirs."""

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "architecture": tuple(_ARCHITECTURES.values()),
    "normalize_activations": ("none", "expected_average_only_in"),
    "reshape_activations": ("none",),
    "activation_fn": ("relu", "topk"),
    "signed": (False,),
}
_REASONS = {
    "architecture": "this is no autoencoder of single activations with a rule that looks at one token alone",
    "normalize_activations": "its factor depends on the token, which no weights can express",
    "reshape_activations": "it reads several heads at once",
    "signed": "negative latents are not supported",
}


class SAELens(Format):
    """SAELens 6: standard, topk, jumprelu and gated SAEs; BatchTopK and Matryoshka as jumprelu with one threshold."""

    name = "saelens"
    library = f"SAELens {FORMAT_VERSION}"
    package = f"sae-lens=={FORMAT_VERSION}"
    files = (CONFIGURATION_FILE, WEIGHTS_FILE)
    extras = (SCALER_FILE,)

    def obstacle(self, sae: InferenceSAE) -> str | None:
        """None: SAELens has every inference rule there is here."""
        return None

    def read(self, folder: Path) -> InferenceSAE:
        """See :meth:`Format.read`; also older configurations, as SAELens 6 itself understands them."""
        where = folder / CONFIGURATION_FILE
        config = _as_version_6(read_json(folder, CONFIGURATION_FILE))
        allowed(where, config, _ALLOWED, _REASONS)
        factor = _input_factor(config, folder)
        tensors = read_safetensors(folder, WEIGHTS_FILE)
        activation = next(ours for ours, theirs in _ARCHITECTURES.items() if theirs == config["architecture"])
        d_model, d_sae = widths(folder / WEIGHTS_FILE, tensors, "W_enc")
        names = {"W_enc": "W_enc", "W_dec": "W_dec", "b_dec": "b_dec", **_NAMES[activation]}
        matrices = {"W_enc": (d_model, d_sae), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
        check_tensors(folder / WEIGHTS_FILE, tensors, {theirs: matrices.get(ours, (d_sae,)) for ours, theirs in names.items()})
        _check_no_scaling(folder, tensors)
        weights = {ours: tensors[theirs] for ours, theirs in names.items()}
        if not config.get("apply_b_dec_to_input", True):
            weights = moved_input_bias(weights, +1)
        if activation == "topk" and config.get("rescale_acts_by_decoder_norm", False):
            weights = latents_times_decoder_norms(weights)
        if factor != 1:
            weights = scaled_input(weights, factor)
        k = whole_number(where, config, "k", d_sae) if activation == "topk" else None
        return InferenceSAE(**weights, activation=activation, k=k, metadata=config["metadata"])

    def write(self, sae: InferenceSAE, folder: Path) -> None:
        """See :meth:`Format.write`; metadata should name the model and the hook (``model_name``, ``hook_name``)."""
        names = {"W_enc": "W_enc", "W_dec": "W_dec", "b_dec": "b_dec", **_NAMES[sae.activation]}
        tensors = {theirs: getattr(sae, ours).detach().to("cpu", torch.float32).contiguous() for ours, theirs in names.items()}
        save_file(tensors, folder / WEIGHTS_FILE)
        config = {
            "architecture": _ARCHITECTURES[sae.activation],
            "d_in": sae.d_model,
            "d_sae": sae.d_sae,
            "dtype": "float32",
            "device": "cpu",
            "apply_b_dec_to_input": True,
            "normalize_activations": "none",
            "reshape_activations": "none",
            **({"k": sae.k, "rescale_acts_by_decoder_norm": False} if sae.activation == "topk" else {}),
            # Last, because metadata of an SAE that was read may name an older version, and what is older is converted.
            "metadata": sae.metadata | {"sae_lens_version": FORMAT_VERSION},
        }
        (folder / CONFIGURATION_FILE).write_text(json.dumps(config, indent=1), encoding="utf-8")

    def outputs(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Format.outputs`."""
        config = _as_version_6(read_json(folder, CONFIGURATION_FILE))
        w = {name: tensor.to(x) for name, tensor in read_safetensors(folder, WEIGHTS_FILE).items()}
        factor = _input_factor(config, folder)
        centred = factor * x - (w["b_dec"] if config.get("apply_b_dec_to_input", True) else 0)
        norms = torch.ones(len(w["W_dec"])).to(x)
        if config["architecture"] == "gated":
            open_gates = centred @ w["W_enc"] + w["b_gate"] > 0
            latents = open_gates * torch.relu(centred @ (w["W_enc"] * w["r_mag"].exp()) + w["b_mag"])
        else:
            before = centred @ w["W_enc"] + w["b_enc"]
            if config["architecture"] == "jumprelu":
                latents = torch.relu(before) * (before > w["threshold"])
            elif config["architecture"] == "topk":
                if config.get("rescale_acts_by_decoder_norm", False):
                    norms = w["W_dec"].norm(dim=1)
                values, places = torch.topk(before * norms, config["k"], dim=1)
                latents = torch.zeros_like(before).scatter(1, places, torch.relu(values))
            else:
                latents = torch.relu(before)
        return latents, ((latents / norms.clamp_min(1e-8)) @ w["W_dec"] + w["b_dec"]) / factor

    def loading_code(self, place: str) -> str:
        """See :meth:`Format.loading_code`."""
        return f'from sae_lens import SAE\n\nsae = SAE.load_from_disk({json.dumps(place, ensure_ascii=False)}, device="cpu")\nlatents = sae.encode(x)\nx_hat = sae.decode(latents)'


def _as_version_6(config: dict[str, Any]) -> dict[str, Any]:
    """The configuration with the names and defaults of version 6; older ones are flat, and call a TopK SAE standard."""
    metadata = config.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    version = re.match(r"\d+", str(metadata.get("sae_lens_version") or config.get("sae_lens_version") or "0"))
    if version is not None and int(version.group()) >= 6:
        return config | {"metadata": metadata}
    renamed = {"hook_point": "hook_name", "hook_point_layer": "hook_layer", "activation_fn_str": "activation_fn"}
    old = {"architecture": "standard", "activation_fn": "relu"} | {renamed.get(key, key): value for key, value in config.items()}
    options = old.get("activation_fn_kwargs") or {}
    if old["activation_fn"] == "topk":
        old |= {"architecture": "topk", "k": options.get("k", old.get("k")), "signed": options.get("signed", False)}
    normalise = old.get("normalize_activations")
    old["normalize_activations"] = {None: "none", False: "none", True: "expected_average_only_in"}.get(normalise, normalise)
    if "hook_z" in str(old.get("hook_name", "")):
        old.setdefault("reshape_activations", "hook_z")
    # finetuning_scaling_factor was written as true where the tensor held ones; _check_no_scaling looks at the tensor.
    old.pop("finetuning_scaling_factor", None)
    about = ("model_name", "hook_name", "hook_layer", "context_size", "prepend_bos", "dataset_path", "sae_lens_training_version")
    return old | {"metadata": {key: old[key] for key in about if old.get(key) is not None} | metadata}


def _input_factor(config: dict[str, Any], folder: Path) -> float:
    """What SAELens multiplies activations by before the SAE; 1.0 without normalisation.

    Raises:
        BadInput: the SAE was trained on rescaled activations and no file says by how much.
    """
    if config.get("normalize_activations", "none") != "expected_average_only_in":
        return 1.0
    if not (folder / SCALER_FILE).exists():
        raise BadInput(
            f"{folder / CONFIGURATION_FILE}: expected the factor of normalize_activations expected_average_only_in in {SCALER_FILE}, found no such "
            'file; write {"scaling_factor": sqrt(d_in) / mean norm of the activations} there, as SAELens does'
        )
    factor = read_json(folder, SCALER_FILE).get("scaling_factor")
    if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < float("inf"):
        raise BadInput(f"{folder / SCALER_FILE}: expected scaling_factor to be a number above 0, found {factor!r}; restore the file")
    return float(factor)


def _check_no_scaling(folder: Path, tensors: dict[str, Tensor]) -> None:
    """Refuse the finetuning factors of old SAEs unless they are all one (BadInput)."""
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        if name in tensors and not torch.equal(tensors[name], torch.ones_like(tensors[name])):
            raise BadInput(
                f"{folder / WEIGHTS_FILE}: expected no {name} other than 1, found some: latents were rescaled by it in a way that SAELens 6 no longer has; fold it first"
            )

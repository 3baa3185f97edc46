"""The folder of dictionary_learning 0.1: ``config.json`` beside ``ae.pt``, a state dict of one of its classes.

What its classes do that must be folded or respected:

- ``AutoEncoder`` gets decoder rows of unit norm when it is loaded, which changes its latents. It is read as what loading
  makes of it, and a ReLU SAE whose rows have other norms is written as ``AutoEncoderNew``, which is left alone.
- ``AutoEncoderNew`` and ``JumpReluAutoEncoder`` encode x itself and not x - b_dec.
- ``BatchTopKSAE`` and ``MatryoshkaBatchTopKSAE`` encode with one threshold, calibrated while training.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_pipeline.errors import BadInput
from sae_pipeline.saes.formats.base import Format
from sae_pipeline.saes.formats.files import check_tensors, read_json, read_state_dict, whole_number, widths
from sae_pipeline.saes.formats.folding import Weights, latents_times_decoder_norms, moved_input_bias
from sae_pipeline.saes.inference import InferenceSAE

CONFIGURATION_FILE = "config.json"
WEIGHTS_FILE = "ae.pt"
PROVENANCE = "sae_pipeline"
"""Key of the configuration with our metadata, beside the library's ``trainer`` and ``buffer``."""


class Layout(NamedTuple):
    """State dict of a class: their names of our tensors, and what else decides how they are used."""

    activation: str
    names: dict[str, str]
    linear: bool
    """Matrices are those of nn.Linear: transposed."""
    centred: bool
    """The encoder sees x - b_dec."""


_LINEAR = {"W_enc": "encoder.weight", "W_dec": "decoder.weight"}
_PLAIN = {"W_enc": "W_enc", "b_enc": "b_enc", "W_dec": "W_dec", "b_dec": "b_dec"}
_TOPK = _LINEAR | {"b_enc": "encoder.bias", "b_dec": "b_dec"}
_GATED = {"b_enc": "gate_bias", "b_dec": "decoder_bias", "b_mag": "mag_bias", "r_mag": "r_mag"}
LAYOUTS = {
    "AutoEncoder": Layout("relu", _LINEAR | {"b_enc": "encoder.bias", "b_dec": "bias"}, linear=True, centred=True),
    "AutoEncoderNew": Layout("relu", _LINEAR | {"b_enc": "encoder.bias", "b_dec": "decoder.bias"}, linear=True, centred=False),
    "GatedAutoEncoder": Layout("gated", _LINEAR | _GATED, linear=True, centred=True),
    "AutoEncoderTopK": Layout("topk", _TOPK, linear=True, centred=True),
    "BatchTopKSAE": Layout("jumprelu", _TOPK, linear=True, centred=True),
    "MatryoshkaBatchTopKSAE": Layout("jumprelu", _PLAIN, linear=False, centred=True),
    "JumpReluAutoEncoder": Layout("jumprelu", _PLAIN | {"threshold": "threshold"}, linear=False, centred=False),
}
_TRAINED_AS = {"BatchTopKSAE": "batchtopk", "MatryoshkaBatchTopKSAE": "matryoshka"}
"""Classes whose one threshold stands for k latents per token on average, and what we call them."""
_TRAINERS = {
    "AutoEncoder": "StandardTrainer",
    "AutoEncoderNew": "StandardTrainerAprilUpdate",
    "GatedAutoEncoder": "GatedSAETrainer",
    "AutoEncoderTopK": "TopKTrainer",
    "BatchTopKSAE": "BatchTopKTrainer",
    "MatryoshkaBatchTopKSAE": "MatryoshkaBatchTopKTrainer",
    "JumpReluAutoEncoder": "JumpReluTrainer",
}
_ABOUT = {"model_name": "lm_name", "hook_name": "submodule_name", "hook_layer": "layer"}
"""Our metadata and the trainer's keys for it."""


class DictionaryLearning(Format):
    """dictionary_learning 0.1."""

    name = "dictionary_learning"
    library = "dictionary_learning 0.1.0"
    package = "dictionary_learning==0.1.0"
    files = (CONFIGURATION_FILE, WEIGHTS_FILE)

    def obstacle(self, sae: InferenceSAE) -> str | None:
        """None: dictionary_learning has a class for every inference rule there is here."""
        return None

    def read(self, folder: Path) -> InferenceSAE:
        """See :meth:`Format.read`."""
        config, where = read_json(folder, CONFIGURATION_FILE), folder / WEIGHTS_FILE
        trainer = _trainer(config, folder)
        named = trainer["dict_class"]
        layout, tensors = LAYOUTS[named], read_state_dict(folder, WEIGHTS_FILE)
        sizes = widths(where, tensors, layout.names["W_enc"])
        d_sae, d_model = sizes if layout.linear else sizes[::-1]
        shapes = {"W_enc": (d_model, d_sae), "W_dec": (d_sae, d_model), "b_dec": (d_model,)}
        as_stored = {name: shapes.get(name, (d_sae,))[:: -1 if layout.linear else 1] for name in layout.names}
        check_tensors(where, tensors, {theirs: as_stored[ours] for ours, theirs in layout.names.items()})
        weights: Weights = {}
        for ours, theirs in layout.names.items():
            tensor = tensors[theirs].float()
            weights[ours] = tensor.t().contiguous() if layout.linear and tensor.dim() == 2 else tensor
        if named == "AutoEncoder" and _is_normalised_when_loaded(weights["W_dec"]):
            weights = latents_times_decoder_norms(weights)
        if not layout.centred:
            weights = moved_input_bias(weights, +1)
        metadata = _metadata(config, trainer)
        k = whole_number(where, _with_k(tensors, trainer), "k", d_sae) if layout.activation == "topk" else None
        if named in _TRAINED_AS:
            check_tensors(where, tensors, {"threshold": ()})
            weights["threshold"] = tensors["threshold"].float().repeat(d_sae)
            metadata = {"k": _with_k(tensors, trainer).get("k")} | metadata | {"architecture": _TRAINED_AS[named]}
            if "group_sizes" in tensors:
                metadata = {"matryoshka_shares": (tensors["group_sizes"].double().cumsum(0) / d_sae).tolist()} | metadata
        return InferenceSAE(**weights, activation=layout.activation, k=k, metadata=metadata)

    def write(self, sae: InferenceSAE, folder: Path) -> None:
        """See :meth:`Format.write`."""
        named = _class_of(sae)
        layout = LAYOUTS[named]
        weights = {name: getattr(sae, name).detach().to("cpu", torch.float32) for name in layout.names}
        if not layout.centred:
            weights = moved_input_bias(weights, -1)
        tensors = {}
        for ours, theirs in layout.names.items():
            tensor = weights[ours]
            tensors[theirs] = (tensor.t() if layout.linear and tensor.dim() == 2 else tensor).contiguous()
        trainer: dict[str, Any] = {
            "trainer_class": _TRAINERS[named],
            "dict_class": named,
            "activation_dim": sae.d_model,
            "dict_size": sae.d_sae,
            "device": "cpu",
            **{theirs: sae.metadata.get(ours) for ours, theirs in _ABOUT.items()},
        }
        if named in ("AutoEncoderTopK", *_TRAINED_AS):
            k = sae.k if sae.k is not None else sae.metadata["k"]
            trainer["k"] = k
            tensors["k"] = torch.tensor(k, dtype=torch.int)
            tensors["threshold"] = torch.tensor(-1.0) if sae.threshold is None else sae.threshold[0].detach().cpu().float().clone()
        if named == "MatryoshkaBatchTopKSAE":
            sizes = _group_sizes(sae)
            assert sizes is not None
            trainer["group_sizes"] = sizes
            tensors["group_sizes"] = torch.tensor(sizes)
        torch.save(tensors, folder / WEIGHTS_FILE)
        config = {"trainer": trainer, "buffer": {"d_submodule": sae.d_model}, PROVENANCE: sae.metadata}
        (folder / CONFIGURATION_FILE).write_text(json.dumps(config, indent=1), encoding="utf-8")

    def outputs(self, folder: Path, x: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`Format.outputs`."""
        named, linear = read_json(folder, CONFIGURATION_FILE)["trainer"]["dict_class"], torch.nn.functional.linear
        w = {name: tensor.to(x) if tensor.is_floating_point() else tensor for name, tensor in read_state_dict(folder, WEIGHTS_FILE).items()}
        if named == "AutoEncoder":
            norms = w["decoder.weight"].norm(dim=0)
            norms = torch.ones_like(norms) if torch.allclose(norms, torch.ones_like(norms)) else norms
            latents = torch.relu(linear(x - w["bias"], w["encoder.weight"] * norms[:, None], w["encoder.bias"] * norms))
            return latents, linear(latents, w["decoder.weight"] / norms) + w["bias"]
        if named == "AutoEncoderNew":
            latents = torch.relu(linear(x, w["encoder.weight"], w["encoder.bias"]))
            return latents, linear(latents, w["decoder.weight"], w["decoder.bias"])
        if named == "GatedAutoEncoder":
            projected = linear(x - w["decoder_bias"], w["encoder.weight"])
            latents = (projected + w["gate_bias"] > 0) * torch.relu(w["r_mag"].exp() * projected + w["mag_bias"])
            return latents, linear(latents, w["decoder.weight"]) + w["decoder_bias"]
        if named == "JumpReluAutoEncoder":
            before = x @ w["W_enc"] + w["b_enc"]
            latents = torch.relu(before * (before > w["threshold"]))
            return latents, latents @ w["W_dec"] + w["b_dec"]
        if named == "MatryoshkaBatchTopKSAE":
            rectified = torch.relu((x - w["b_dec"]) @ w["W_enc"] + w["b_enc"])
            latents = rectified * (rectified > w["threshold"])
            return latents, latents @ w["W_dec"] + w["b_dec"]
        rectified = torch.relu(linear(x - w["b_dec"], w["encoder.weight"], w["encoder.bias"]))
        if named == "BatchTopKSAE":
            latents = rectified * (rectified > w["threshold"])
        else:
            values, places = rectified.topk(int(w["k"]), dim=1)
            latents = torch.zeros_like(rectified).scatter(1, places, values)
        return latents, linear(latents, w["decoder.weight"]) + w["b_dec"]

    def loading_code(self, place: str) -> str:
        """See :meth:`Format.loading_code`."""
        return (
            f'from dictionary_learning.utils import load_dictionary\n\nsae, config = load_dictionary({json.dumps(place, ensure_ascii=False)}, device="cpu")\n'
            "latents = sae.encode(x)\nx_hat = sae.decode(latents)"
        )


def _trainer(config: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The trainer's part of a configuration, whose class must be one that is known (BadInput)."""
    trainer = config.get("trainer")
    named = trainer.get("dict_class") if isinstance(trainer, dict) else None
    if not isinstance(trainer, dict) or named not in LAYOUTS:
        raise BadInput(
            f"{folder / CONFIGURATION_FILE}: expected trainer.dict_class to be one of {', '.join(LAYOUTS)}, found {named!r}; "
            "other classes have no inference rule that looks at one token alone"
        )
    return trainer


def _metadata(config: dict[str, Any], trainer: dict[str, Any]) -> dict[str, Any]:
    """What a configuration says about where the SAE comes from, ours where it was written here."""
    provenance = config.get(PROVENANCE)
    named = {ours: trainer[theirs] for ours, theirs in _ABOUT.items() if trainer.get(theirs) is not None}
    return named | (provenance if isinstance(provenance, dict) else {})


def _with_k(tensors: dict[str, Tensor], trainer: dict[str, Any]) -> dict[str, Any]:
    """The trainer's settings, with the k of the state dict where it has one, as the library has it."""
    return trainer | ({"k": int(tensors["k"])} if "k" in tensors and tensors["k"].numel() == 1 else {})


def _is_normalised_when_loaded(W_dec: Tensor) -> bool:
    norms = W_dec.norm(dim=1)
    return not torch.allclose(norms, torch.ones_like(norms))


def _class_of(sae: InferenceSAE) -> str:
    """The class that computes the same function; for one common threshold that of its training, where that is known."""
    if sae.activation == "relu":
        # Half of the tolerance with which the library decides, so that it never decides otherwise.
        is_unit = bool(((sae.W_dec.detach().float().norm(dim=1) - 1).abs() < 5e-6).all())
        return "AutoEncoder" if is_unit else "AutoEncoderNew"
    if sae.activation in ("gated", "topk"):
        return {"gated": "GatedAutoEncoder", "topk": "AutoEncoderTopK"}[sae.activation]
    assert sae.threshold is not None
    # An int: their k is one, and how many latents they would train with is no part of the function.
    known = isinstance(sae.metadata.get("k"), int) and bool((sae.threshold == sae.threshold[0]).all())
    if known and sae.metadata.get("architecture") == "matryoshka" and _group_sizes(sae) is not None:
        return "MatryoshkaBatchTopKSAE"
    return "BatchTopKSAE" if known and sae.metadata.get("architecture") in _TRAINED_AS.values() else "JumpReluAutoEncoder"


def _group_sizes(sae: InferenceSAE) -> list[int] | None:
    """Latents that each prefix adds to the one before; None if the metadata holds no shares of prefixes."""
    from sae_pipeline.saes.architectures.matryoshka import prefix_widths

    shares = sae.metadata.get("matryoshka_shares")
    if not isinstance(shares, list | tuple) or not shares or not all(isinstance(share, int | float) and 0 < share <= 1 for share in shares):
        return None
    return [end - start for start, end in pairwise((0, *prefix_widths(tuple(shares), sae.d_sae)))]

"""Reading the files of an SAE folder that somebody else may have made: nothing outside it, nothing executed."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from sae_pipeline.errors import BadInput
from sae_pipeline.safety.roots import lies_inside


def inside(folder: Path, name: str) -> Path:
    """The file of that name, which must lie in the folder also after links are followed.

    Raises:
        BadInput: it does not exist or leads out of the folder.
    """
    path = folder / name
    try:
        if not lies_inside(folder, path):
            raise BadInput(f"{path}: expected a file inside the SAE's folder, found a link to {path.resolve()}; copy the file into the folder")
    except (OSError, RuntimeError) as error:
        raise BadInput(f"{path}: expected a file of an SAE, found none that can be read ({error}); give the folder that holds it") from None
    return path


def read_json(folder: Path, name: str) -> dict[str, Any]:
    """A configuration file, which must hold one JSON object."""
    path = inside(folder, name)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise BadInput(f"{path}: expected a JSON object, found: {error}; restore the file") from None
    if not isinstance(content, dict):
        raise BadInput(f"{path}: expected a JSON object, found a {type(content).__name__}; restore the file")
    return content


def read_safetensors(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file, in float32."""
    path = inside(folder, name)
    try:
        return {key: tensor.float() for key, tensor in load_file(path).items()}
    except (OSError, ValueError, SafetensorError) as error:
        raise BadInput(f"{path}: expected a safetensors file, found: {error}; restore the file") from None


def read_state_dict(folder: Path, name: str) -> dict[str, Tensor]:
    """The tensors of a file that ``torch.save`` wrote, on the CPU; anything but tensors is refused, not unpickled."""
    path = inside(folder, name)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise BadInput(
            f"{path}: expected a state dict of tensors, found pickled objects or a damaged file, which could run code and is not opened; "
            "save the SAE's state_dict() instead"
        ) from None
    except Exception as error:  # damaged bytes can raise nearly anything
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInput(f"{path}: expected a state dict of tensors, found: {reason}; restore the file") from None
    if not isinstance(content, Mapping) or not all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        raise BadInput(f"{path}: expected a state dict of tensors, found a {type(content).__name__} of other things; save the SAE's state_dict()")
    return dict(content)


def check_tensors(where: Path, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse a file that lacks a tensor, or holds one of another shape or with values that are not finite (BadInput)."""
    if missing := [name for name in shapes if name not in tensors]:
        raise BadInput(
            f"{where}: expected the tensors {', '.join(shapes)}, found no {', '.join(missing)}; restore the file or correct its configuration"
        )
    for name, shape in shapes.items():
        if tuple(tensors[name].shape) != shape:
            raise BadInput(
                f"{where}: expected {name} of shape {shape}, found {tuple(tensors[name].shape)}; the file and its configuration do not fit"
            )
        if not bool(tensors[name].isfinite().all()):
            raise BadInput(f"{where}: expected finite values, found some in {name} that are not; this SAE has diverged, choose another")


def widths(where: Path, tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Shape of the matrix that decides the widths of an SAE (BadInput if it is missing or no matrix)."""
    if name not in tensors or tensors[name].dim() != 2 or 0 in tensors[name].shape:
        found = f"shape {tuple(tensors[name].shape)}" if name in tensors else f"only {', '.join(sorted(tensors)) or 'nothing'}"
        raise BadInput(f"{where}: expected the matrix {name}, found {found}; this is not an SAE of this format")
    rows, columns = tensors[name].shape
    return rows, columns


def whole_number(where: Path, config: Mapping[str, Any], key: str, at_most: int) -> int:
    """A count of active latents in a configuration (BadInput if it is missing, no whole number, below 1 or above ``at_most``)."""
    value = config.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= at_most:
        raise BadInput(f"{where}: expected {key} from 1 to the number of latents, {at_most}, found {value!r}; correct the configuration")
    return value


def allowed(where: Path, config: Mapping[str, Any], values: Mapping[str, tuple[Any, ...]], reasons: Mapping[str, str]) -> None:
    """Refuse a setting that changes the function in a way that cannot be folded (BadInput); a missing key is the first value."""
    for key, choices in values.items():
        if (found := config.get(key, choices[0])) not in choices:
            listed = " or ".join(str(choice) for choice in choices)
            because = f": {reasons[key]}" if key in reasons else ""
            raise BadInput(f"{where}: expected {key} to be {listed}, found {found}{because}; convert it with its own library first")

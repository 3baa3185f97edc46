"""Checkpoints of a training run: one safetensors file, replaced atomically, that says itself whether it is intact.

A file that was cut short, changed on disk or belongs to another configuration is never used: training starts over, and
the log says so.
"""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sae_pipeline.store import write_atomically

NAME = "checkpoint.safetensors"

logger = logging.getLogger(__name__)


def write_checkpoint(folder: Path, tensors: dict[str, Tensor], progress: dict[str, Any], identity: str) -> None:
    """Replace the folder's checkpoint by these tensors and this JSON-like progress, flushed to disk.

    ``identity`` is the hash of the configuration that may go on from it.
    """
    held = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps(progress)
    content = save(held, metadata={"identity": identity, "progress": text, "checksum": _checksum(held, text)})
    write_atomically(folder / NAME, content)


def read_checkpoint(folder: Path, identity: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Tensors and progress of an intact checkpoint of this configuration, or None (with a warning if one was refused)."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            # Copied, because the tensors of an open file are views of it and the file is replaced while they are in use.
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 - not a mapping
        text = metadata["progress"]
        if metadata["checksum"] != _checksum(tensors, text):
            refusal = "its bytes changed after it was written"
        elif metadata["identity"] != identity:
            refusal = "it belongs to another configuration"
        else:
            return tensors, json.loads(text)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        refusal = f"it cannot be read ({error})"
    logger.warning("%s: expected an intact checkpoint of this training run, but %s; training starts over", path, refusal)
    return None


def checkpointed_steps(folder: Path, identity: str) -> int:
    """Steps behind the folder's checkpoint, from its header alone: 0 without one of this configuration; its bytes are not checked."""
    try:
        with safe_open(folder / NAME, framework="pt") as file:
            metadata = file.metadata() or {}
        return json.loads(metadata["progress"])["step"] if metadata["identity"] == identity else 0
    except (SafetensorError, OSError, KeyError, ValueError):
        return 0


def _checksum(tensors: dict[str, Tensor], text: str) -> str:
    """SHA-256 over the bytes of all tensors, by name, and of the progress."""
    hashed = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        hashed.update(name.encode())
        hashed.update(tensors[name].reshape(-1).numpy().data)
    return hashed.hexdigest()

"""What the bits of a training step depend on beside its inputs: the device, the kernels and torch."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch

from sae_pipeline.saes.kernels.choice import bfloat16_is_fast, compiled_rows, triton_rows


def environment(device: torch.device | str) -> dict[str, Any]:
    """``device`` (its kind, with a GPU's model or a CPU's vector instructions), ``kernels`` (what they are compiled by, with its
    version), ``bfloat16`` (whether wide rows are preselected in it) and ``torch``.

    Kernels differ between devices and releases, vector lanes split sums, and preselected entries are summed in another order,
    so a change of any of these can change the last bit of a sum, and training amplifies it. The number of threads changes none.
    """
    kind = torch.device(device).type
    models = {"cuda": torch.cuda.get_device_name, "cpu": lambda _: torch.backends.cpu.get_cpu_capability()}
    compiled = {"cuda": ("triton", triton_rows), "cpu": ("numba", compiled_rows)}.get(kind)
    return {
        "device": f"{kind} {models[kind](device)}" if kind in models else kind,
        "kernels": f"{compiled[0]} {import_module(compiled[0]).__version__}" if compiled and compiled[1]() else "torch",
        "bfloat16": bfloat16_is_fast(kind),
        "torch": torch.__version__,
    }


def in_words(found: dict[str, Any]) -> str:
    """An environment for a message."""
    preselection = "with" if found.get("bfloat16") else "without"
    return f"{found['device']} with {found['kernels']} kernels, {preselection} preselection in bfloat16, and torch {found['torch']}"

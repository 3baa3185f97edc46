"""What the bits of a training step depend on beside its inputs: the device, the kernels, torch and the number of threads."""

from __future__ import annotations

from typing import Any

import torch

from sae_pipeline.saes.kernels.choice import compiled_rows, triton_rows


def environment(device: torch.device | str) -> dict[str, Any]:
    """``device`` (its kind, with a GPU's model or a CPU's vector instructions), ``kernels``, ``threads`` and ``torch``.

    Sums are split between threads and vector lanes, and kernels differ between devices and releases, so a change of any of
    these can change the last bit of a sum, and training amplifies it.
    """
    kind = torch.device(device).type
    models = {"cuda": torch.cuda.get_device_name, "cpu": lambda _: torch.backends.cpu.get_cpu_capability()}
    compiled = {"cuda": ("triton", triton_rows), "cpu": ("numba", compiled_rows)}.get(kind)
    return {
        "device": f"{kind} {models[kind](device)}" if kind in models else kind,
        "kernels": compiled[0] if compiled and compiled[1]() else "torch",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def in_words(found: dict[str, Any]) -> str:
    """An environment for a message."""
    return f"{found['device']} with {found['kernels']} kernels, {found['threads']} threads and torch {found['torch']}"

"""Which implementation of the primitives runs: chosen once per process, by what the machine has and ``SAE_KERNELS``.

==========  ===========================================================================================
torch       plain torch operations, everywhere; float64 always takes these
numba       float32 on the CPU when the optional package numba is installed (``pip install sae-pipeline[fast]``)
==========  ===========================================================================================

The environment variable ``SAE_KERNELS`` (``torch`` or ``numba``) forces one of them. On CUDA the torch operations run on
the device, with Triton's for gathering rows where the package triton is present.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from sae_pipeline.errors import BadInput

VARIABLE = "SAE_KERNELS"

NARROWEST = 64
"""Least d_model for which a bfloat16 product with exact products of the chosen latents beats one float32 product: measured on
AVX-512 from d_model 32 to 768, where plain torch breaks even at 64 and the compiled kernels at half of it."""


@cache
def compiled_rows() -> ModuleType | None:
    """The bridge to Numba's kernels, or None where plain torch was chosen.

    Raises:
        BadInput: ``SAE_KERNELS`` names no implementation, or one that is not installed.
    """
    wanted = os.environ.get(VARIABLE) or None
    if wanted not in (None, "torch", "numba"):
        raise BadInput(f"{VARIABLE}: expected torch or numba, found {wanted}; change the environment variable or unset it")
    installed = importlib.util.find_spec("numba") is not None
    if wanted == "numba" and not installed:
        raise BadInput(f"{VARIABLE}: expected an installed numba, found none; run pip install 'sae-pipeline[fast]' or unset the variable")
    if wanted == "torch" or not installed:
        return None
    from sae_pipeline.saes.kernels import compiled

    return compiled


def numba_for(tensor: Tensor) -> ModuleType | None:
    """Numba's kernels if they work on this tensor: float32 on the CPU."""
    return compiled_rows() if tensor.device.type == "cpu" and tensor.dtype == torch.float32 else None


@cache
def triton_rows() -> ModuleType | None:
    """Triton's kernels where the package is present."""
    if importlib.util.find_spec("triton") is None:
        return None
    from sae_pipeline.saes.kernels import triton_rows

    return triton_rows


def triton_for(tensor: Tensor) -> ModuleType | None:
    """Triton's kernels if they work on this tensor: float32 on CUDA."""
    return triton_rows() if tensor.device.type == "cuda" and tensor.dtype == torch.float32 else None


@cache
def bfloat16_is_fast(device: str) -> bool:
    """Whether the processor multiplies bfloat16 itself; emulation is slower than float32."""
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities() if device == "cpu" else {}
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def preselects(rows: Tensor) -> bool:
    """Whether encoding rows (n, d_model) goes through bfloat16: never in float64, nor where it would not be faster."""
    return rows.dtype == torch.float32 and rows.shape[1] >= NARROWEST and bfloat16_is_fast(rows.device.type)

"""Forcing an implementation of the training primitives, and preselection whatever the processor and the width."""

from __future__ import annotations

import pytest
import torch

from sae_pipeline.saes.kernels import choice, encoding

INSTALLED = ("torch", "numba") if choice.importlib.util.find_spec("numba") else ("torch",)


def use(implementation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let an implementation run from now on, with preselection even where the processor has no bfloat16."""
    monkeypatch.setenv(choice.VARIABLE, implementation)
    choice.compiled_rows.cache_clear()
    monkeypatch.setattr(encoding, "preselects", lambda rows: rows.dtype == torch.float32)

"""GPT-2's activation function as one kernel is the function that transformers spells out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_subjects import random_tokens
from torch.nn import GELU, Sequential
from transformers.activations import ACT2FN, FastGELUActivation, NewGELUActivation

from sae_pipeline.activations.fused_gelu import fuse_gelu
from sae_pipeline.activations.subject import SubjectModel


@pytest.mark.parametrize("name", ["gelu_new", "gelu_fast"])
def test_the_kernel_agrees_with_the_formula_within_float32_rounding(name: str) -> None:
    """Where float32 has any to give: from -30 to 30, and at the ends."""
    x = torch.cat([torch.linspace(-30, 30, 60_001), torch.tensor([-1e4, -0.0, 0.0, 1e4])])
    model = Sequential(ACT2FN[name])
    expected = model(x)
    fuse_gelu(model)
    assert isinstance(model[0], GELU)
    torch.testing.assert_close(model(x), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("name", ["gelu", "quick_gelu", "silu", "relu"])
def test_other_functions_stay_as_they_are(name: str) -> None:
    model = Sequential(ACT2FN[name])
    before = model[0]
    fuse_gelu(model)
    assert model[0] is before


def test_a_loaded_gpt2_has_the_kernel_in_every_block_and_the_same_logits(tiny_gpt2: Path) -> None:
    from transformers import AutoModelForCausalLM

    model, tokens = SubjectModel.load(str(tiny_gpt2)), random_tokens(2)
    plain: Any = AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()
    assert isinstance(plain.transformer.h[0].mlp.act, NewGELUActivation)
    modules = list(model.bridge.original_model.modules())
    assert sum(isinstance(module, GELU) for module in modules) == model.n_layers
    assert not any(isinstance(module, NewGELUActivation | FastGELUActivation) for module in modules)
    with torch.no_grad():
        torch.testing.assert_close(model.logits(tokens), plain(tokens).logits, atol=1e-5, rtol=1e-5)

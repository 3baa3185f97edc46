"""Position embeddings that are taken away are gone for one reading, and only where a model has learnt them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_subjects import CONTEXT_LENGTH, random_tokens

from sae_pipeline.activations.position_embeddings import position_embedding, positions_under, shuffled_orders, why_not_applicable
from sae_pipeline.activations.subject import SubjectModel
from sae_pipeline.errors import SubjectError


@pytest.fixture
def plain_gpt2(tiny_gpt2: Path) -> Any:
    """The same checkpoint in transformers alone."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(tiny_gpt2).eval()


def test_intact_positions_change_no_bit(gpt2: SubjectModel) -> None:
    tokens = random_tokens(3)
    before = gpt2.logits(tokens)
    with positions_under(gpt2, "intact"):
        assert torch.equal(gpt2.logits(tokens), before)


@torch.no_grad()
def test_zeroed_positions_equal_a_checkpoint_whose_table_is_zero(gpt2: SubjectModel, plain_gpt2: Any) -> None:
    tokens = random_tokens(3)
    plain_gpt2.transformer.wpe.weight.zero_()
    with positions_under(gpt2, "zero"):
        torch.testing.assert_close(gpt2.logits(tokens), plain_gpt2(tokens).logits, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_shuffled_positions_equal_each_context_read_with_its_own_position_ids(gpt2: SubjectModel, plain_gpt2: Any) -> None:
    tokens, orders = random_tokens(3), shuffled_orders(range(3), CONTEXT_LENGTH, seed=7)
    with positions_under(gpt2, "shuffle", orders):
        torch.testing.assert_close(gpt2.logits(tokens), plain_gpt2(tokens, position_ids=orders).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("condition", ["zero", "shuffle"])
def test_positions_are_given_back_afterwards_also_when_reading_fails(gpt2: SubjectModel, condition: Any) -> None:
    tokens, orders = random_tokens(2), shuffled_orders(range(2), CONTEXT_LENGTH, seed=0)
    before = gpt2.logits(tokens)
    with positions_under(gpt2, condition, orders):
        assert not torch.equal(gpt2.logits(tokens), before)
    assert torch.equal(gpt2.logits(tokens), before)
    with pytest.raises(RuntimeError, match="stopped"), positions_under(gpt2, condition, orders):
        gpt2.logits(tokens)
        raise RuntimeError("stopped")
    assert torch.equal(gpt2.logits(tokens), before)


def test_the_order_of_a_context_depends_on_seed_and_number_alone() -> None:
    """So neither the size of a batch nor what else is read changes it."""
    orders = shuffled_orders(range(6), 50, seed=1)
    assert torch.equal(shuffled_orders(range(4, 6), 50, seed=1), orders[4:])
    assert torch.equal(orders.sort(dim=1).values, torch.arange(50).expand(6, -1))
    assert len({tuple(order.tolist()) for order in orders}) == 6
    assert not torch.equal(shuffled_orders(range(6), 50, seed=2), orders)


def test_a_rotary_model_is_told_from_its_modules_with_the_reason(tiny_llama: Path) -> None:
    llama = SubjectModel.load(str(tiny_llama))
    assert position_embedding(llama) is None
    assert why_not_applicable(llama) == "the subject has no learned absolute position embeddings (its positions are rotary)"
    with pytest.raises(SubjectError, match="expected a model with learned absolute positions"), positions_under(llama, "zero"):
        llama.logits(random_tokens(1))


def test_an_encoder_has_positions_and_its_segments_are_not_taken_for_them(tiny_bert: Path) -> None:
    table = position_embedding(SubjectModel.load(str(tiny_bert)))
    assert table is not None
    assert table.num_embeddings == 64


def test_a_reading_that_looks_nothing_up_is_an_error(gpt2: SubjectModel) -> None:
    """Otherwise figures of the intact model would pass for those of another."""
    with pytest.raises(SubjectError, match="found that its forward pass does not"), positions_under(gpt2, "zero"):
        pass

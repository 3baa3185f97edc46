"""Repeating only the end of a forward pass gives what the whole pass gives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_subjects import counted, random_tokens
from torch import Tensor

from sae_pipeline.activations.subject import HOOKS, SubjectModel


def shrunk(x: Tensor) -> Tensor:
    """A replacement that changes every activation."""
    return 0.3 * x + 1


@pytest.mark.parametrize("site", HOOKS)
def test_a_splice_equals_a_whole_pass_with_the_hook_replaced(model: SubjectModel, site: str) -> None:
    """At every layer, whatever ran in between, and again with another replacement."""
    tokens, others = random_tokens(3), random_tokens(3, seed=1)
    for layer in range(model.n_layers):
        hook = model.hook_name(site, layer)
        splice = model.splice(tokens, hook)
        model.logits(others)
        assert torch.equal(splice.clean, model.logits(tokens))
        for replacement in (shrunk, torch.zeros_like, lambda x: x):
            torch.testing.assert_close(splice.logits(replacement), model.logits(tokens, (hook, replacement)), atol=1e-5, rtol=1e-5)
        assert torch.equal(splice.logits(lambda x: x), splice.clean)


def test_blocks_before_the_hook_run_once(gpt2: SubjectModel) -> None:
    """Replacing what leaves block 1 runs block 2 alone; replacing block 1's MLP output runs block 1 as well."""
    tokens = random_tokens(2)
    for site, expected in {"resid_post": [0, 0, 1], "mlp_out": [0, 1, 1], "resid_pre": [0, 1, 1]}.items():
        splice = gpt2.splice(tokens, gpt2.hook_name(site, 1))
        assert counted(gpt2, lambda splice=splice: splice.logits(shrunk)) == expected
    assert counted(gpt2, lambda: gpt2.logits(tokens)) == [1, 1, 1]


@pytest.mark.parametrize("site", HOOKS)
def test_a_splice_that_starts_from_kept_streams_gives_the_same_bits(model: SubjectModel, site: str) -> None:
    """At every layer before which there is a block to skip."""
    tokens = random_tokens(3)
    for layer in range(model.n_layers):
        first = model.splice(tokens, hook := model.hook_name(site, layer))
        if (streams := first.streams) is None:
            assert layer == 0
            assert site != "resid_post"
            continue
        again = model.splice(tokens, hook, streams)
        assert torch.equal(again.clean, first.clean)
        assert torch.equal(again.logits(shrunk), first.logits(shrunk))


def test_with_kept_streams_no_block_runs_for_the_clean_model(gpt2: SubjectModel) -> None:
    tokens, hook = random_tokens(2), gpt2.hook_name("resid_post", 1)
    streams = gpt2.splice(tokens, hook).streams
    assert counted(gpt2, lambda: gpt2.splice(tokens, hook, streams)) == [0, 0, 0]
    assert counted(gpt2, lambda: gpt2.splice(tokens, hook, streams).logits(shrunk)) == [0, 0, 1]


def test_a_replacement_that_writes_in_place_does_not_reach_the_next_one(gpt2: SubjectModel) -> None:
    """Each starts from the clean activation."""
    splice = gpt2.splice(random_tokens(2), gpt2.hook_name("resid_post", 1))
    splice.logits(lambda x: x.zero_())
    assert torch.equal(splice.logits(lambda x: x), splice.clean)


def test_a_failing_replacement_leaves_the_model_whole(gpt2: SubjectModel) -> None:
    """Blocks are bypassed for one pass only."""
    tokens, hook = random_tokens(2), gpt2.hook_name("mlp_out", 1)
    splice = gpt2.splice(tokens, hook)
    with pytest.raises(ValueError, match="expected a replacement of shape"):
        splice.logits(lambda x: x[:1])
    assert torch.equal(gpt2.logits(tokens), splice.clean)


def test_a_model_whose_blocks_share_more_than_the_stream_is_run_whole(tiny_gpt2: Any) -> None:
    """Block 2 takes something that block 0 left for it; without block 0 the end of the pass would be another one."""
    model = SubjectModel._boot(str(tiny_gpt2), None, "float32", "cpu", randomised=None, trust_remote_code=False)
    first, last = (model.bridge.blocks[n].original_component for n in (0, 2))
    left: list[Tensor] = []
    first.register_forward_hook(lambda module, inputs, output: left.append(inputs[0].mean()))
    last.register_forward_pre_hook(lambda module, inputs: (inputs[0] + left.pop(), *inputs[1:]))
    tokens, hook = random_tokens(2), model.hook_name("resid_post", 1)
    splice = model.splice(tokens, hook)
    assert torch.equal(splice.logits(shrunk), model.logits(tokens, (hook, shrunk)))
    assert splice.streams is None

"""Encoders and rotary decoders: what is read from them is what plain transformers computes, at every site and layer."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_subjects import VOCABULARY, random_corpus, random_tokens
from torch import Tensor

from sae_pipeline.activations.harvest import harvest
from sae_pipeline.activations.shards import ActivationShards
from sae_pipeline.activations.subject import HOOKS, SubjectModel
from sae_pipeline.errors import SubjectError
from sae_pipeline.metrics.fidelity import ablation_sums

SHAPE = {"vocab_size": VOCABULARY, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 40}


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory, tiny_gpt2: Path) -> dict[str, Path]:
    """Checkpoints with random weights, large enough ones to make every layer and position matter."""
    import transformers as hf

    wide: dict[str, Any] = SHAPE | {"max_position_embeddings": 32, "initializer_range": 0.3}
    makers: dict[str, Callable[[], Any]] = {
        "masked": lambda: hf.BertForMaskedLM(hf.BertConfig(**wide)),
        "headless": lambda: hf.BertModel(hf.BertConfig(**wide)),
        "roberta": lambda: hf.RobertaForMaskedLM(hf.RobertaConfig(**wide | {"pad_token_id": 1, "type_vocab_size": 1, "max_position_embeddings": 34})),
        "neox": lambda: hf.GPTNeoXForCausalLM(hf.GPTNeoXConfig(**wide)),
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**wide, num_key_value_heads=1)),
    }
    folders = {}
    for name, make in makers.items():
        folders[name] = tmp_path_factory.mktemp(name)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = make()
            for parameter in model.parameters():  # biases and gains too, which start as zeros and ones
                parameter.data.add_(0.1 * torch.randn(parameter.shape))
            model.save_pretrained(folders[name])
        for path in tiny_gpt2.glob("*token*"):
            shutil.copy(path, folders[name])
    return folders


def encoder_module(block: Any, site: str) -> Any:
    """The module of a BERT layer whose output is the site: what attention and MLP add, before the sum is normalised."""
    return {"mlp_out": block.output.dense, "attn_out": block.attention.output.dense}.get(site, block)


def decoder_module(block: Any, site: str) -> Any:
    """The module of a decoder block whose output is the site."""
    return {"mlp_out": block.mlp, "attn_out": block.attention if hasattr(block, "attention") else block.self_attn}.get(site, block)


def expected(checkpoint: Path, name: str, site: str, tokens: Tensor) -> list[Tensor]:
    """The site of every layer by ordinary forward hooks on plain transformers, float32, attention as written in Python."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(checkpoint, attn_implementation="eager").eval()
    blocks, module = (model.encoder.layer, encoder_module) if hasattr(model, "encoder") else (model.layers, decoder_module)
    found: list[Tensor] = []

    def keep(module: Any, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        if site == "resid_pre":
            found.append(inputs[0] if inputs else named["hidden_states"])
        else:
            found.append(output[0] if isinstance(output, tuple) else output)

    for block in blocks:
        module(block, site).register_forward_hook(keep, with_kwargs=True)
    with torch.no_grad():
        model(tokens)
    return found


def hook_names(model: SubjectModel, site: str) -> list[str]:
    return [model.hook_name(site, layer) for layer in range(model.n_layers)]


@pytest.mark.parametrize("site", HOOKS)
@pytest.mark.parametrize("name", ["masked", "headless", "roberta", "neox", "llama"])
def test_every_site_equals_a_forward_hook_on_plain_transformers(checkpoints: dict[str, Path], name: str, site: str) -> None:
    """All layers, captured in one pass."""
    # Two is no id that a family treats as padding.
    tokens = random_tokens(3).clamp(min=2)
    model = SubjectModel.load(str(checkpoints[name]))
    model.check(range(model.n_layers), site, 12)
    captured = model.capture(tokens, hook_names(model, site))
    reference = expected(checkpoints[name], name, site, tokens)
    assert len(reference) == model.n_layers == 3
    for hook, values in zip(hook_names(model, site), reference, strict=True):
        torch.testing.assert_close(captured[hook], values, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["masked", "neox"])
def test_harvested_shards_hold_what_plain_transformers_computes(checkpoints: dict[str, Path], name: str, tmp_path: Path) -> None:
    """Several sites and layers in one pass, read back from the files."""
    corpus = random_corpus(6)
    model = SubjectModel.load(str(checkpoints[name]))
    hooks = {tmp_path / f"{site}{layer}": model.hook_name(site, layer) for site in ("resid_post", "attn_out", "mlp_out") for layer in (0, 2)}
    for folder in hooks:
        folder.mkdir()
    harvest(model, corpus, hooks, batch_size=4, storage_dtype="float32", shard_tokens=60)
    for site in ("resid_post", "attn_out", "mlp_out"):
        reference = expected(checkpoints[name], name, site, corpus.tokens.long())
        for layer in (0, 2):
            shards = ActivationShards(sorted((tmp_path / f"{site}{layer}").glob("[!.]*")))
            torch.testing.assert_close(shards.read(0, shards.rows), reference[layer].flatten(0, 1), atol=1e-5, rtol=1e-5)


def test_an_encoder_sees_what_follows_and_a_decoder_does_not(checkpoints: dict[str, Path]) -> None:
    """Which is what ``causal`` says."""
    tokens = random_tokens(1).clamp(min=2)
    changed = tokens.clone()
    changed[0, -1] = 7 if tokens[0, -1] != 7 else 8
    for name, causal in {"masked": False, "headless": False, "roberta": False, "neox": True, "llama": True}.items():
        model = SubjectModel.load(str(checkpoints[name]))
        assert model.causal is causal, name
        hook = model.hook_name("resid_post", 2)
        before, after = (model.capture(text, [hook])[hook][0, :-1] for text in (tokens, changed))
        assert torch.equal(before, after) is causal, name


def test_an_encoder_without_a_head_loads_as_the_same_bits_each_time_and_leaves_the_generator_alone(checkpoints: dict[str, Path]) -> None:
    """Its head is drawn while it loads, which no activation shows."""
    state = torch.get_rng_state()
    first, second = (
        SubjectModel._boot(str(checkpoints["headless"]), None, "float32", "cpu", randomised=None, trust_remote_code=False) for _ in range(2)
    )
    assert torch.equal(torch.get_rng_state(), state)
    hook, tokens = first.hook_name("resid_post", 2), random_tokens(2)
    assert torch.equal(first.capture(tokens, [hook])[hook], second.capture(tokens, [hook])[hook])


def test_nothing_is_scored_for_an_encoder(checkpoints: dict[str, Path]) -> None:
    """It predicts no next token, so cross-entropies are not applicable rather than wrong."""
    model, corpus = SubjectModel.load(str(checkpoints["masked"])), random_corpus(3)
    sums = ablation_sums(
        corpus, torch.arange(3), 3, model=model, hook=model.hook_name("resid_post", 1), mean=torch.zeros(16), ce_tokens=30, batch_size=2
    )
    assert torch.equal(sums.documents, torch.zeros(3, 4, dtype=torch.float64))
    assert torch.equal(sums.positions, torch.zeros(corpus.context_length, 4, dtype=torch.float64))


def test_a_site_that_a_model_lacks_is_refused_with_those_it_has(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    model = SubjectModel.load(str(checkpoints["neox"]))
    found = model.bridge.get_hook_point
    monkeypatch.setattr(model.bridge, "get_hook_point", lambda name: None if "mlp" in name else found(name))
    with pytest.raises(SubjectError, match=r"found mlp_out; choose another of resid_post, resid_pre, attn_out$"):
        model.check([0], "mlp_out", 12)


def test_a_hook_that_the_pass_never_reaches_is_an_error(checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """TransformerLens lists hooks of modules that some models never run."""
    model = SubjectModel.load(str(checkpoints["masked"]))
    monkeypatch.setattr(model.bridge, "run_with_hooks", lambda *args, **kwargs: None)
    with pytest.raises(SubjectError, match=r"expected .* to compute blocks.1.hook_mlp_out, found that its forward pass does not"):
        model.capture(random_tokens(1), ["blocks.1.hook_mlp_out"])

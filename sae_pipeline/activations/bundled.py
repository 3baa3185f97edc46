"""The bundled subject: a small GPT-2-shaped model and its tokenizer, trained here on the study's own text.

It makes every stage real on a machine without a network: an ordinary Hugging Face checkpoint that knows enough of the
text for its activations to mean something. It is no replacement for a published model; its figures say how good it is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sae_pipeline.activations.chunked_loss import ChunkedCrossEntropy
from sae_pipeline.errors import SourceError, TrainingError
from sae_pipeline.progress import track
from sae_pipeline.study.text_sections import BundledSubject

END = "<|endoftext|>"
"""The one special token: first in every context, and between documents, as in GPT-2."""
TOKENIZER_CHARACTERS = 4_000_000
"""Text the vocabulary is learned from; more changes merges of a few thousand tokens very little."""
HELD_OUT_TOKENS = 65_536
"""Held-out tokens scored, spread evenly over those given: the loss is then known to about one percent, in seconds."""


def train_bundled_subject(
    folder: Path, *, config: BundledSubject, context_length: int, train_texts: Iterable[str], held_out_texts: Iterable[str]
) -> dict[str, Any]:
    """Train tokenizer and model, save both as ``folder/checkpoint`` and return how good they are.

    Args:
        train_texts: documents, read as far as ``config.tokens`` needs.
        held_out_texts: documents for the model's own evaluation, none of them in ``train_texts``.

    Returns:
        held_out_loss and unigram_loss (nats per token on the same held-out tokens; the unigram model is the training
        frequencies with one added to each count), train_tokens, held_out_tokens, parameters, final_train_loss,
        precision (of the matrix products while training), seconds.

    Raises:
        SourceError: there is less text than the budget asks for, or none held out.
        TrainingError: the loss is no longer a number.
    """
    started = time.monotonic()
    texts = iter(train_texts)
    tokenizer_texts = list(_up_to(texts, TOKENIZER_CHARACTERS))
    tokenizer = _train_tokenizer(tokenizer_texts, config.vocab_size)
    contexts = _pack(tokenizer, _chained(tokenizer_texts, texts), context_length, config.tokens)
    if contexts.numel() < config.tokens - context_length:
        raise SourceError(
            f"subject.bundled.tokens: expected {config.tokens:,} tokens of training text, found {contexts.numel():,} in the sources; lower it or add sources"
        )
    held_out = _pack(tokenizer, iter(held_out_texts), context_length, None)
    if not len(held_out):
        raise SourceError(
            f"corpus.held_out_share: expected at least {context_length} held-out tokens to score the bundled subject on, found fewer; raise it or add sources"
        )
    held_out = held_out[torch.linspace(0, len(held_out) - 1, max(1, min(len(held_out), HELD_OUT_TOKENS // context_length))).long()]
    precision = _fast_precision()
    model, final = _train(contexts, config, tokenizer.get_vocab_size(), precision)
    model.save_pretrained(folder / "checkpoint")
    _as_transformers(tokenizer, context_length).save_pretrained(folder / "checkpoint")
    return {
        "held_out_loss": _loss(model, held_out),
        "unigram_loss": _unigram_loss(contexts, held_out, tokenizer.get_vocab_size()),
        "train_tokens": contexts.numel(),
        "held_out_tokens": held_out.numel(),
        "parameters": model.num_parameters(),
        "final_train_loss": final,
        "precision": str(precision).removeprefix("torch."),
        "seconds": round(time.monotonic() - started, 2),
    }


def _up_to(texts: Iterator[str], characters: int) -> Iterator[str]:
    for text in texts:
        yield text
        characters -= len(text)
        if characters <= 0:
            return


def _chained(first: list[str], rest: Iterator[str]) -> Iterator[str]:
    yield from first
    yield from rest


def _train_tokenizer(texts: list[str], vocab_size: int) -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=vocab_size, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def _as_transformers(tokenizer: Any, context_length: int) -> Any:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END, eos_token=END, model_max_length=context_length)


def _pack(tokenizer: Any, texts: Iterator[str], context_length: int, tokens: int | None) -> Tensor:
    """Contexts (n, context_length) int64, END first in each and between documents; a partial last one is dropped."""
    end = tokenizer.token_to_id(END)
    tokenizer.encode_special_tokens = True  # the characters <|endoftext|> in a document (of code, say) are its text, not its end
    stream: list[int] = []
    wanted = None if tokens is None else tokens // context_length * (context_length - 1)
    while (batch := list(islice(texts, 512))) and (wanted is None or len(stream) < wanted):
        for encoding in tokenizer.encode_batch(batch, add_special_tokens=False):
            stream += [*encoding.ids, end]
    usable = len(stream) if wanted is None else min(len(stream), wanted)
    rows = torch.tensor(stream[: usable // (context_length - 1) * (context_length - 1)], dtype=torch.int64).view(-1, context_length - 1)
    return torch.cat([torch.full((len(rows), 1), end), rows], dim=1)


def _train(contexts: Tensor, config: BundledSubject, vocab_size: int, precision: torch.dtype) -> tuple[Any, float]:
    from transformers import AttentionInterface, GPT2Config, GPT2LMHeadModel
    from transformers.utils import logging

    logging.disable_progress_bar()

    AttentionInterface.register("float32_sdpa", _float32_attention)
    shape = GPT2Config(
        vocab_size=vocab_size, n_positions=contexts.shape[1], n_embd=config.d_model, n_layer=config.n_layers, n_head=config.n_heads,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
        activation_function="gelu_pytorch_tanh",  # GPT-2's own function in one kernel
    )  # fmt: skip
    # transformers draws initial weights from the global generator, which is put back as it was.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        model = GPT2LMHeadModel(shape).train()
    model.set_attn_implementation("float32_sdpa")
    optimiser = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True)
    order = torch.randperm(len(contexts), generator=torch.Generator().manual_seed(config.seed))
    batches = order.split(config.batch_size)
    warm_up, loss = max(1, len(batches) // 20), math.nan
    with track("training the bundled subject", contexts.numel(), "tokens") as progress:
        for step, rows in enumerate(batches):
            decay = 0.5 * (1 + math.cos(math.pi * max(0, step - warm_up) / max(1, len(batches) - warm_up)))
            optimiser.param_groups[0]["lr"] = config.learning_rate * min((step + 1) / warm_up, 0.05 + 0.95 * decay)
            value = _next_token_loss(model, contexts[rows], precision)
            optimiser.zero_grad(set_to_none=True)
            value.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
            loss = value.item()
            if not math.isfinite(loss):
                raise TrainingError(
                    f"subject.bundled: expected a finite training loss, found {loss} at step {step} of {len(batches)}; lower subject.bundled.learning_rate"
                )
            progress.advance(rows.numel() * contexts.shape[1], loss=loss)
    model.set_attn_implementation("sdpa")
    return model.eval(), loss


def _fast_precision() -> torch.dtype:
    """bfloat16 where the processor multiplies it natively (elsewhere it is emulated, and slower than float32)."""
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def _float32_attention(module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Any:
    """Attention outside autocast: the backward pass of PyTorch's CPU kernel is three times slower in bfloat16."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    with torch.autocast("cpu", enabled=False):
        return sdpa_attention_forward(module, query.float(), key.float(), value.float(), *rest, **options)


def _next_token_loss(model: Any, tokens: Tensor, precision: torch.dtype) -> Tensor:
    """Mean cross-entropy in nats of every token after the first of its context."""
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        hidden = model.transformer(tokens, use_cache=False).last_hidden_state[:, :-1]
    loss: Tensor = ChunkedCrossEntropy.apply(hidden.float().flatten(0, 1), model.lm_head.weight, tokens[:, 1:].flatten(), precision)
    return loss


@torch.no_grad()
def _loss(model: Any, contexts: Tensor) -> float:
    """The same quantity in float32 over all contexts."""
    logits = ((rows, model(rows).logits[:, :-1]) for rows in contexts.split(32))
    total = sum(torch.nn.functional.cross_entropy(z.flatten(0, 1), rows[:, 1:].flatten(), reduction="sum").item() for rows, z in logits)
    return total / contexts[:, 1:].numel()


def _unigram_loss(train: Tensor, held_out: Tensor, vocab_size: int) -> float:
    counts = torch.bincount(train[:, 1:].flatten(), minlength=vocab_size).double() + 1
    return -(counts / counts.sum()).log()[held_out[:, 1:].flatten()].mean().item()

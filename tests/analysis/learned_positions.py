"""A small model with learned positions, trained within a second or two on text that cannot be read without them."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from sae_pipeline.corpora.corpus import Corpus
from sae_pipeline.saes.inference import InferenceSAE

WORDS, CONTEXT_LENGTH, BOS = 24, 33, 24
"""The next token follows from the one two places back (or, one time in ten, from nothing), so a reader must tell places apart."""


def alternating_tokens(contexts: int, seed: int) -> Tensor:
    """(contexts, CONTEXT_LENGTH) int64, BOS first; what stands at a position does not depend on the position."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, WORDS, (contexts, CONTEXT_LENGTH), generator=generator)
    follows = torch.rand(tokens.shape, generator=generator) < 0.9
    for position in range(3, CONTEXT_LENGTH):
        tokens[:, position] = torch.where(follows[:, position], (5 * tokens[:, position - 2] + 7) % WORDS, tokens[:, position])
    tokens[:, 0] = BOS
    return tokens


def train(folder: Path, steps: int = 120) -> None:
    """Write a two-layer GPT-2 checkpoint with its tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    vocabulary = {f"w{n}": n for n in range(WORDS)} | {"<s>": BOS}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="<s>").save_pretrained(folder)
    config = GPT2Config(
        vocab_size=len(vocabulary), n_positions=CONTEXT_LENGTH, n_embd=32, n_layer=2, n_head=2, bos_token_id=BOS, eos_token_id=BOS,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = GPT2LMHeadModel(config).train()
        optimiser = torch.optim.AdamW(model.parameters(), lr=6e-3)
        for step in range(steps):
            tokens = alternating_tokens(16, seed=1 + step)
            optimiser.param_groups[0]["lr"] = 6e-3 * min(1.0, (step + 1) / 20, (steps - step) / 50)
            loss = model(tokens, labels=tokens).loss
            optimiser.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimiser.step()
    model.save_pretrained(folder)


def corpus(contexts: int) -> Corpus:
    """Unseen contexts, two to a document."""
    tokens = alternating_tokens(contexts, seed=0)
    position = torch.arange(CONTEXT_LENGTH).repeat(contexts, 1)
    document = (torch.arange(contexts) // 2)[:, None].repeat(1, CONTEXT_LENGTH)
    document[:, 0] = position[:, 0] = -1
    documents = pd.DataFrame({"document_hash": [f"hash{n}" for n in range(-(-contexts // 2))]})
    return Corpus(tokens.int(), document.int(), position.int(), torch.zeros(contexts, dtype=torch.uint8), documents, {})


def random_topk(d_model: int, d_sae: int, k: int) -> InferenceSAE:
    """An untrained TopK SAE with unit decoder rows."""
    W_dec = torch.nn.functional.normalize(torch.randn(d_sae, d_model, generator=torch.Generator().manual_seed(0)), dim=1)
    return InferenceSAE(W_dec.T.clone(), torch.zeros(d_sae), W_dec, torch.zeros(d_model), activation="topk", k=k)

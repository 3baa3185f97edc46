"""The models that benchmarks run: GPT-2-shaped checkpoints with seeded random weights and a tokenizer of one word per id.

Speed does not depend on what the weights say, so nothing is downloaded. A word per id lets a tool that takes text only
read exactly the same token ids as the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = "gpt2"
"""Name of the checkpoint's folder. TransformerLens 3 opens a local checkpoint only under a name that it knows."""


@dataclass(frozen=True)
class Shape:
    """A model and how much text of one round it is given.

    Attributes:
        d_model, n_layers, n_heads, vocab_size, n_positions: as in GPT-2's configuration.
        contexts: contexts of one round; enough passes that what is done once in a harvest does not count for much.
    """

    d_model: int
    n_layers: int
    n_heads: int
    vocab_size: int
    n_positions: int
    contexts: int

    @property
    def quarters(self) -> list[int]:
        """The last block of each quarter of the model's depth."""
        return [self.n_layers * (quarter + 1) // 4 - 1 for quarter in range(4)]


SHAPES = {
    "tiny": Shape(d_model=32, n_layers=4, n_heads=2, vocab_size=512, n_positions=128, contexts=32),
    "small": Shape(d_model=512, n_layers=8, n_heads=8, vocab_size=8192, n_positions=256, contexts=64),
    "gpt2": Shape(d_model=768, n_layers=12, n_heads=12, vocab_size=50257, n_positions=1024, contexts=32),
}
"""``gpt2`` is GPT-2 small; ``tiny`` says nothing about speed and is for trying the program out."""


def make_checkpoint(folder: Path, shape: Shape) -> None:
    """Save model and tokenizer into ``folder``; equal shapes give equal weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast
    from transformers.utils import logging

    logging.disable_progress_bar()
    words = {"<s>": 0} | {f"w{n}": n for n in range(1, shape.vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<s>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = {"bos_token": "<s>", "eos_token": "<s>", "pad_token": "<s>"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=shape.n_positions, **special).save_pretrained(folder)
    config = GPT2Config(
        vocab_size=shape.vocab_size, n_positions=shape.n_positions, n_embd=shape.d_model, n_layer=shape.n_layers, n_head=shape.n_heads,
        bos_token_id=0, eos_token_id=0,
        n_ctx=shape.n_positions,  # as in the published GPT-2; TransformerLens 3 reads it
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        GPT2LMHeadModel(config).save_pretrained(folder)


def make_ids(contexts: int, context_length: int, vocab_size: int) -> Any:
    """int32 array (contexts, context_length) of seeded token ids, BOS (0) first in every context and nowhere else."""
    import numpy as np

    ids = np.random.default_rng(0).integers(1, vocab_size, (contexts, context_length), dtype=np.int32)
    ids[:, 0] = 0
    return ids

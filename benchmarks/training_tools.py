"""The ways of training that are compared, and what has to be said about each of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from peers import DICTIONARY_LEARNING, SAELENS, SPARSIFY
from side_by_side import Peer
from training_rows import LIKE_PEERS

LEARNING_RATE = 3e-4
TOLERANCE = {"same": 0.05, "steered": 0.25}
"""Largest relative difference between the tools' squared errors on held-out rows: where loss and sparsity are the same,
and where each tool has a sparsity term of its own."""


@dataclass(frozen=True)
class Tool:
    """One way of training: a script, the environment it runs in, and settings.

    Attributes:
        peer: None is this project.
        architectures: those that it has; empty means all.
    """

    script: str
    peer: Peer | None = None
    architectures: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def python(self) -> str | None:
        """The interpreter, or None where its environment was not built."""
        return sys.executable if self.peer is None else self.peer.python


OURS = {
    "ours": Tool("our_training.py"),
    "ours, plain torch": Tool("our_training.py", variables={"SAE_KERNELS": "torch"}),
    "ours, numba": Tool("our_training.py", variables={"SAE_KERNELS": "numba"}),
}
"""The engine as it chooses for itself, and with its kernels prescribed."""

PEER_TOOLS = {
    "sae-lens": Tool("saelens_training.py", SAELENS),
    "sae-lens, sparse": Tool("saelens_training.py", SAELENS, ("topk",), {"sparse": True}),
    "sae-lens, autocast": Tool("saelens_training.py", SAELENS, (), {"autocast": True}),
    "dictionary_learning": Tool("dictionary_learning_training.py", DICTIONARY_LEARNING),
    "sparsify": Tool("sparsify_training.py", SPARSIFY, ("topk",)),
}
CUDA_TOOLS = ("sparsify",)
"""Peers of the GPU's row: the one that has kernels for a GPU."""

BUILD = "python benchmarks/train.py --build-peers"

CONDITIONS = {
    "all": f"float32 parameters, Adam at {LEARNING_RATE:g} without warm-up, activations in memory, no data loading, logging or checkpoints; no latent "
    "is dead yet, so no auxiliary loss acts",
    "limit": "the product of the batch with the encoder alone, in float32 and in bfloat16, the faster of whole and in pieces of 1,024 rows",
    "ours": "Run.take_step: the step of the trainer, loss record included; kernels as the engine chooses them",
    "sae-lens": "SAETrainer.step as its fit calls it; 'sparse' is use_sparse_activations, which trains "
    "only with rescale_acts_by_decoder_norm off; 'autocast' is its bfloat16 autocast",
    "dictionary_learning": "the trainer's own update; its running threshold, which starts at step 1,000, is not reached",
    "sparsify": "the body of Trainer.fit for one hook point with optimizer=adam, float32 matmul precision 'high' as it sets it",
    "losses": f"squared error on held-out rows over their variance, before training, half way and after the compared steps; within {TOLERANCE['same']:.0%} "
    f"where loss and sparsity are the same in all tools ({', '.join(LIKE_PEERS)}), within {TOLERANCE['steered']:.0%} elsewhere, or the row is marked",
    "gated": "dictionary_learning trains Gated and JumpReLU with Adam's first moment off",
}

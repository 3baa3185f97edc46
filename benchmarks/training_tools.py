"""The ways of training that are compared, and what has to be said about each of them."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

import agreement
from peers import DICTIONARY_LEARNING, SAELENS, SPARSIFY
from side_by_side import Peer

LEARNING_RATE = 3e-4
BUILD = "python benchmarks/train.py --build-peers"


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
    def reduced(self) -> bool:
        """Whether it computes in less than float32 throughout, which is other work with other results."""
        return bool(self.options.get("autocast"))

    @property
    def python(self) -> str | None:
        """The interpreter, or None where its environment was not built."""
        return sys.executable if self.peer is None else self.peer.python

    @property
    def absence(self) -> str | None:
        """Why it cannot be measured, or None."""
        if self.peer is None or self.python is not None:
            return None
        return f"no environment {self.peer.environment}; build it with `{BUILD}`, or name an interpreter in {self.peer.variable}"


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

CONDITIONS = {
    "all": f"float32 parameters, Adam at {LEARNING_RATE:g} without warm-up, activations in memory, no data loading, logging or checkpoints; no latent "
    "is dead yet, so no auxiliary loss acts",
    "limit": "the product of the batch with the encoder alone, in float32 and in bfloat16, the faster of whole and in pieces of 1,024 rows",
    "ours": "Run.take_step: the step of the trainer, loss record included; kernels as the engine chooses them",
    "sae-lens": "SAETrainer.step as its fit calls it; 'sparse' is use_sparse_activations, which trains "
    "only with rescale_acts_by_decoder_norm off; 'autocast' is its bfloat16 autocast",
    "dictionary_learning": "the trainer's own update; its running threshold, which starts at step 1,000, is not reached",
    "sparsify": "the body of Trainer.fit for one hook point with optimizer=adam, float32 matmul precision 'high' as it sets it",
    "losses": f"squared error on held-out rows over their variance, before and after steps at a rate of {agreement.LEARNING_RATE:g} on a small problem "
    f"(d_in {agreement.SIZE['d_in']}, d_sae {agreement.SIZE['d_sae']}, batch {agreement.SIZE['batch']}) with fixed coefficients; the improvement is within "
    f"{agreement.TOLERANCE:.0%} of ours half way and at the end, and in the first steps at the row's own size, or the row is marked",
    "gated": "dictionary_learning trains Gated and JumpReLU with Adam's first moment off; sae-lens also trains the decoder on the gate's own "
    "reconstruction, which the paper and the others do not, so its error takes another course",
    "jumprelu": "dictionary_learning penalises the squared relative deviation from a target L0 instead of L0, so its error takes another course",
}

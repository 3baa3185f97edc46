"""dictionary_learning's trainers, stepped by their own ``update``, as its ``trainSAE`` does without logging."""

from __future__ import annotations

from importlib.metadata import version
from itertools import pairwise
from typing import Any

import torch
from dictionary_learning.trainers.batch_top_k import BatchTopKTrainer
from dictionary_learning.trainers.gdm import GatedSAETrainer
from dictionary_learning.trainers.jumprelu import JumpReluTrainer
from dictionary_learning.trainers.matryoshka_batch_top_k import MatryoshkaBatchTopKTrainer
from dictionary_learning.trainers.standard import StandardTrainer
from dictionary_learning.trainers.top_k import TopKTrainer
from protocol import Actions, serve
from torch import Tensor
from training_loop import copy_into, initial_state, strength, training_actions

TRAINERS = {
    "topk": TopKTrainer, "batchtopk": BatchTopKTrainer, "matryoshka": MatryoshkaBatchTopKTrainer,
    "relu": StandardTrainer, "jumprelu": JumpReluTrainer, "gated": GatedSAETrainer,
}  # fmt: skip
LINEAR = {"encoder.weight": "W_enc", "encoder.bias": "b_enc", "decoder.weight": "W_dec"}
PLACES = {
    "topk": LINEAR | {"b_dec": "b_dec"},
    "batchtopk": LINEAR | {"b_dec": "b_dec"},
    "relu": LINEAR | {"bias": "b_dec"},
    "gated": LINEAR | {"decoder_bias": "b_dec", "r_mag": "r_mag", "gate_bias": "b_enc", "mag_bias": "b_mag"},
    "matryoshka": {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec")},
    "jumprelu": {name: name for name in ("W_enc", "b_enc", "W_dec", "b_dec", "threshold")},
}
"""Parameter names here and in the common initial state; linear layers hold their weights transposed."""


class DictionaryLearning:
    """One trainer."""

    def __init__(self, setup: dict[str, Any]) -> None:
        self.setup, state = setup, initial_state(setup)
        steps = setup["total_steps"]
        self.trainer = TRAINERS[setup["architecture"]](
            steps=steps, activation_dim=setup["d_in"], dict_size=setup["d_sae"], layer=0, lm_name="none", lr=setup["lr"], device=setup["device"],
            warmup_steps=setup["warmup_steps"], decay_start=steps - setup["decay_steps"] if setup["decay_steps"] else None,
            **_settings(setup, strength(setup, state)),
        )  # fmt: skip
        if hasattr(self.trainer, "dead_feature_threshold"):
            self.trainer.dead_feature_threshold = setup["dead_tokens"]
        for name, parameter in self.trainer.ae.named_parameters():
            value = state[PLACES[setup["architecture"]][name]]
            if name == "b_enc" and setup["architecture"] == "jumprelu":
                value = value - state["b_dec"] @ state["W_enc"]  # it does not subtract b_dec from its input
            copy_into(parameter, value.t() if name.endswith(".weight") else value)
        # Step 0 would replace the common b_dec by a geometric median of its own.
        self.steps = 1

    def step(self, x: Tensor) -> None:
        """One update."""
        self.trainer.update(self.steps, x)
        self.steps += 1

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> tuple[float, float]:
        """Through the training loss; counters that it advances are put back."""
        trainer = self.trainer
        silent = trainer.num_tokens_since_fired.clone() if hasattr(trainer, "num_tokens_since_fired") else None
        found = trainer.loss(x, step=0, logging=True)
        if silent is not None:
            trainer.num_tokens_since_fired.copy_(silent)
        # The reconstruction and the latents are the second and the third of the tuple, whatever their names.
        return (found[1] - x).pow(2).sum(1).mean().item(), (found[2] > 0).float().sum(1).mean().item()

    def decoder(self) -> Tensor:
        """See Trainee."""
        sae = self.trainer.ae
        return sae.decoder.weight.t() if hasattr(sae, "decoder") else sae.W_dec


def _settings(setup: dict[str, Any], coefficient: float) -> dict[str, Any]:
    """The architecture's own options; a coefficient of a loss in units of the variance is brought to squared error."""
    if setup["architecture"] in ("topk", "batchtopk"):
        return {"k": setup["sparsity"]}
    if setup["architecture"] == "matryoshka":
        widths = [0, *setup["widths"]]
        return {"k": setup["sparsity"], "group_fractions": [(b - a) / setup["d_sae"] for a, b in pairwise(widths)]}
    if setup["architecture"] == "jumprelu":
        # Its penalty steers to the target by itself: the square of the relative deviation.
        return {
            "bandwidth": setup["bandwidth"],
            "target_l0": setup["sparsity"] / setup["strength"],
            "sparsity_penalty": setup["variance"],
            "sparsity_warmup_steps": None,
        }
    return {"l1_penalty": coefficient * setup["variance"] ** 0.5, "sparsity_warmup_steps": None}


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """The trainer, warm."""
    torch.set_num_threads(setup["threads"])
    return {"versions": {name: version(name) for name in ("dictionary_learning", "torch")}}, training_actions(setup, DictionaryLearning)


if __name__ == "__main__":
    serve(load)

"""SAELens's ``SAETrainer``, stepped as its ``fit`` steps it, without logging.

Options: ``sparse`` takes its sparse activations (TopK family), ``autocast`` its bfloat16 autocast; both are settings of
its own configuration.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from protocol import Actions, serve
from sae_lens import LoggingConfig
from sae_lens.config import SAETrainerConfig
from sae_lens.saes.batchtopk_sae import BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig
from sae_lens.saes.gated_sae import GatedTrainingSAE, GatedTrainingSAEConfig
from sae_lens.saes.jumprelu_sae import JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig
from sae_lens.saes.matryoshka_batchtopk_sae import MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig
from sae_lens.saes.sae import TrainStepInput
from sae_lens.saes.standard_sae import StandardTrainingSAE, StandardTrainingSAEConfig
from sae_lens.saes.topk_sae import TopKTrainingSAE, TopKTrainingSAEConfig
from sae_lens.training.sae_trainer import SAETrainer
from torch import Tensor
from training_loop import copy_into, initial_state, strength, training_actions

CLASSES = {
    "topk": (TopKTrainingSAE, TopKTrainingSAEConfig),
    "batchtopk": (BatchTopKTrainingSAE, BatchTopKTrainingSAEConfig),
    "matryoshka": (MatryoshkaBatchTopKTrainingSAE, MatryoshkaBatchTopKTrainingSAEConfig),
    "relu": (StandardTrainingSAE, StandardTrainingSAEConfig),
    "jumprelu": (JumpReLUTrainingSAE, JumpReLUTrainingSAEConfig),
    "gated": (GatedTrainingSAE, GatedTrainingSAEConfig),
}
PLACES = {"b_gate": "b_enc"}
"""Where a parameter of this name here is found in the common initial state."""


class SAELens:
    """One SAE and its trainer."""

    def __init__(self, setup: dict[str, Any]) -> None:
        state, options = initial_state(setup), setup["options"]
        sae_class, configuration = CLASSES[setup["architecture"]]
        self.sae = sae_class(
            configuration(
                d_in=setup["d_in"], d_sae=setup["d_sae"], dtype="float32", device=setup["device"],
                **_settings(setup, strength(setup, state)),
            )
        )  # fmt: skip
        for name, parameter in self.sae.named_parameters():
            copy_into(parameter, state[PLACES.get(name, name)])
        steps, batch = setup["total_steps"], setup["batch"]
        self.trainer: SAETrainer[Any, Any] = SAETrainer(
            SAETrainerConfig(
                total_training_samples=steps * batch, train_batch_size_samples=batch, lr=setup["lr"], lr_end=setup["lr"], device=setup["device"],
                lr_warm_up_steps=setup["warmup_steps"], lr_decay_steps=setup["decay_steps"], autocast=bool(options.get("autocast")),
                dead_feature_window=max(1, setup["dead_tokens"] // batch), logger=LoggingConfig(log_to_wandb=False),
            ),
            sae=self.sae, data_provider=iter(()),
        )  # fmt: skip

    def step(self, x: Tensor) -> None:
        """What ``fit`` does with a batch; the mean loss is read as its progress bar does."""
        self.trainer.maybe_reset_sparsity()
        output = self.trainer.step(x)
        self.trainer.n_training_steps += 1
        if self.trainer.n_training_steps % 100 == 0:
            output.loss.item()

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> tuple[float, float]:
        """Through the training forward pass; a BatchTopK's running threshold is put back."""
        buffers = {name: buffer.clone() for name, buffer in self.sae.named_buffers()}
        output = self.sae.training_forward_pass(
            TrainStepInput(
                sae_in=x, dead_neuron_mask=None, coefficients=self.trainer.get_coefficients(),
                n_training_steps=self.trainer.n_training_steps, is_logging_step=False,
            )
        )  # fmt: skip
        for name, buffer in buffers.items():
            setattr(self.sae, name, buffer)
        active = output.feature_acts.to_dense() if output.feature_acts.is_sparse else output.feature_acts
        return (output.sae_out.float() - x).pow(2).sum(1).mean().item(), (active > 0).float().sum(1).mean().item()

    def decoder(self) -> Tensor:
        """See Trainee."""
        return self.sae.W_dec


def _settings(setup: dict[str, Any], coefficient: float) -> dict[str, Any]:
    """The architecture's own options; a coefficient of a loss in units of the variance is brought to squared error."""
    if setup["architecture"] in ("topk", "batchtopk", "matryoshka"):
        sparse = bool(setup["options"].get("sparse"))
        # A sparse activation cannot be rescaled by the decoder's norms: torch has no backward for it (NotImplementedError).
        settings: dict[str, Any] = {"k": setup["sparsity"], "use_sparse_activations": sparse, "rescale_acts_by_decoder_norm": not sparse}
        return settings | ({"matryoshka_widths": setup["widths"]} if setup["architecture"] == "matryoshka" else {})
    if setup["architecture"] == "jumprelu":
        return {"l0_coefficient": coefficient * setup["variance"], "jumprelu_bandwidth": setup["bandwidth"]}
    return {"l1_coefficient": coefficient * setup["variance"] ** 0.5}


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """The trainer, warm."""
    torch.set_num_threads(setup["threads"])
    return {"versions": {name: version(name) for name in ("sae-lens", "torch")}}, training_actions(setup, SAELens)


if __name__ == "__main__":
    serve(load)

"""sparsify's ``SparseCoder``, trained as its ``Trainer.fit`` does with the Adam optimiser, on one hook point.

Its trainer has no step to call, because it trains inside the forward pass of a language model. The step below is what
its hook and its loop do with the activations of one batch, in their order; what belongs to the language model, the
progress bar and the log is left out. The decoder is its own choice: Triton on a GPU, embedding bags elsewhere.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

import torch
from protocol import Actions, serve
from torch import Tensor
from training_loop import copy_into, initial_state, training_actions


class Sparsify:
    """One sparse coder, its optimiser and its counters."""

    def __init__(self, setup: dict[str, Any]) -> None:
        # Imported here because sparsify prints while it is imported, and until now standard output belongs to the answers.
        from sparsify import SparseCoder, SparseCoderConfig
        from transformers import get_linear_schedule_with_warmup

        state = initial_state(setup)
        torch.set_float32_matmul_precision("high")  # as Trainer.fit sets it
        configuration = SparseCoderConfig(num_latents=setup["d_sae"], k=setup["sparsity"])
        self.sae = SparseCoder(setup["d_in"], configuration, setup["device"], dtype=torch.float32)
        copy_into(self.sae.encoder.weight, state["W_enc"].t())
        copy_into(self.sae.encoder.bias, state["b_enc"])
        copy_into(self.sae.W_dec, state["W_dec"])
        copy_into(self.sae.b_dec, state["b_dec"])
        self.optimiser = torch.optim.Adam([{"params": self.sae.parameters(), "lr": setup["lr"]}])
        self.schedule = get_linear_schedule_with_warmup(self.optimiser, setup["warmup_steps"], setup["total_steps"])
        self.silent = torch.zeros(setup["d_sae"], dtype=torch.long, device=setup["device"])
        self.fired = torch.zeros(setup["d_sae"], dtype=torch.bool, device=setup["device"])
        self.auxk, self.dead_tokens = setup["options"].get("auxk", 0.0), setup["dead_tokens"]
        self.loss = 0.0

    def step(self, x: Tensor) -> None:
        """One batch with no accumulation."""
        self.sae.set_decoder_norm_to_unit_norm()
        dead = self.silent > self.dead_tokens if self.auxk > 0 else None
        out = self.sae(x=x, y=x, dead_mask=dead, total_variance=(x - x.mean(0)).pow(2).sum())
        self.fired[out.latent_indices.flatten()] = True
        self.loss += float(out.fvu.detach())
        (out.fvu + self.auxk * out.auxk_loss + out.multi_topk_fvu / 8).backward()
        self.sae.remove_gradient_parallel_to_decoder_directions()
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.schedule.step()
        with torch.no_grad():
            self.silent += len(x)
            self.silent[self.fired] = 0
            self.fired.zero_()

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> tuple[float, float]:
        """Its forward pass."""
        out = self.sae(x)
        return (out.sae_out.float() - x).pow(2).sum(1).mean().item(), (out.latent_acts > 0).float().sum(1).mean().item()

    def decoder(self) -> Tensor:
        """See Trainee."""
        return self.sae.W_dec


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """The trainer, warm."""
    torch.set_num_threads(setup["threads"])
    return {"versions": {name: version(name) for name in ("eai-sparsify", "torch")}}, training_actions(setup, Sparsify)


if __name__ == "__main__":
    serve(load)

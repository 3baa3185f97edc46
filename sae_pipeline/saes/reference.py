"""Every architecture and objective as dense formulas for autograd: the readable form of what training computes.

Nothing here is fast. It says in a page what the sparse steps of ``architectures`` do by hand, and the tests hold those
against it: the same loss parts, the same gradients, the same end of a training run. It works in any dtype and width.

Symbols: x (n_tokens, d_model) normalised activations; V their total variance, so that predicting the mean has an error
of 1; pre = (x - b_dec) W_enc + b_enc (n_tokens, d_sae); f the latents; x_hat = f W_dec + b_dec. Rows of W_dec have unit
norm whenever a loss is computed.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from sae_pipeline.saes.architectures.auxk import AuxKArchitecture
from sae_pipeline.saes.architectures.jumprelu import BANDWIDTH
from sae_pipeline.saes.architectures.matryoshka import Matryoshka
from sae_pipeline.saes.architectures.sparse import SparseArchitecture
from sae_pipeline.saes.architectures.steered import SteeredArchitecture
from sae_pipeline.saes.objectives import DIVERSITY_TOKENS

Parameters = dict[str, Tensor]


# ------------------------------------------------------------------ activations


def topk(pre: Tensor, k: int) -> Tensor:
    """Every token's k largest pre-activations, rectified."""
    values, latents = pre.topk(k, dim=1)
    return torch.zeros_like(pre).scatter(1, latents, values.relu())


def batchtopk(pre: Tensor, k: int) -> Tensor:
    """The k * n_tokens largest pre-activations of the batch, rectified."""
    values, places = pre.flatten().topk(k * len(pre))
    return torch.zeros_like(pre).flatten().scatter(0, places, values.relu()).view_as(pre)


class StraightThroughJump(torch.autograd.Function):
    """pre * H(pre - threshold) and H(pre - threshold), with the straight-through gradients of Rajamanoharan et al. 2024.

    With K the rectangle of unit area and width ``bandwidth``: d value / d threshold = -threshold K(pre - threshold) and
    dH / d threshold = -K(pre - threshold); the value's gradient by pre is H, that of H by pre is none.
    """

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, bandwidth: float) -> tuple[Tensor, Tensor]:
        active = (pre > threshold).to(pre)
        ctx.save_for_backward(pre, threshold, active)
        ctx.bandwidth = bandwidth
        return pre * active, active

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        value_gradient, active_gradient = gradients
        pre, threshold, active = ctx.saved_tensors
        kernel = ((pre - threshold).abs() < ctx.bandwidth / 2).to(pre) / ctx.bandwidth
        return value_gradient * active, -(kernel * (value_gradient * threshold + active_gradient)).sum(0), None


def gated(projection: Tensor, p: Parameters) -> tuple[Tensor, Tensor]:
    """Latents, and the rectified gate, of a projection (x - b_dec) W_enc."""
    gate = projection + p["b_enc"]
    magnitude = projection * p["r_mag"].exp() + p["b_mag"]
    return (gate > 0).to(gate) * magnitude.relu(), gate.relu()


# ------------------------------------------------------------------ objectives


def tilted(losses: Tensor, t: float) -> Tensor:
    """(1/t) log mean exp(t * loss) over tokens; the mean for t = 0."""
    return losses.mean() if t == 0 else (torch.logsumexp(t * losses, 0) - math.log(len(losses))) / t


def diversity(f: Tensor, W_dec: Tensor) -> Tensor:
    """Mean squared cosine over ordered pairs of different latents active on one token, the first tokens of the batch."""
    active = (f[:DIVERSITY_TOKENS] > 0).to(f)
    together = active.t() @ active  # tokens on which both are active
    together.fill_diagonal_(0)
    return (together * (W_dec @ W_dec.t()).square()).sum() / together.sum().clamp_min(1)


def auxk(pre: Tensor, residual: Tensor, W_dec: Tensor, dead: Tensor) -> Tensor:
    """Error of the residual x - x_hat (a constant) as reconstructed by the d_model / 2 largest of the dead latents, over its energy."""
    among_dead = torch.where(dead, pre.relu(), torch.zeros_like(pre))
    kept = topk(among_dead, min(max(1, W_dec.shape[1] // 2), int(dead.sum())))
    target = residual.detach()
    return (kept @ W_dec - target).square().sum() / target.square().sum()


# ------------------------------------------------------------------ the loss


class Forward(NamedTuple):
    """What a batch looks like on its way through an SAE."""

    pre: Tensor
    """(n_tokens, d_sae)."""
    f: Tensor
    """(n_tokens, d_sae) latents."""
    reconstructions: list[Tensor]
    """(n_tokens, d_model) each; the SAE's own comes first."""
    sparsity: Tensor
    """(): the mean per token of what the steered coefficient weighs; 0 for architectures with a k."""


def forward(sae: SparseArchitecture, p: Parameters, x: Tensor) -> Forward:
    """The architecture ``sae`` with parameters ``p`` on a batch x (n_tokens, d_model)."""
    projection = (x - p["b_dec"]) @ p["W_enc"]
    pre = projection + p["b_enc"]
    n, spread = len(x), sae.statistics.variance**0.5
    W_dec, b_dec, sparsity = p["W_dec"], p["b_dec"], torch.zeros(())

    def decoded(f: Tensor) -> Tensor:
        return f @ W_dec + b_dec

    if sae.name == "relu":
        f = pre.relu()
        return Forward(pre, f, [decoded(f)], f.sum() / (n * spread))
    if sae.name == "gated":
        f, gate = gated(projection, p)
        frozen = gate @ W_dec.detach() + b_dec.detach()
        return Forward(pre, f, [decoded(f), frozen], gate.sum() / (n * spread))
    if sae.name == "jumprelu":
        f, active = StraightThroughJump.apply(pre, p["threshold"], BANDWIDTH * sae.statistics.rms)
        return Forward(pre, f, [decoded(f)], active.sum() / n)
    assert sae.arm.k is not None
    if isinstance(sae, Matryoshka):
        f = batchtopk(pre, sae.arm.k)
        nested = [f[:, :width] @ W_dec[:width] + b_dec for width in reversed(sae.prefixes)]
        return Forward(pre, f, nested, sparsity)
    f = {"topk": topk, "batchtopk": batchtopk}[sae.name](pre, sae.arm.k)
    return Forward(pre, f, [decoded(f)], sparsity)


def loss_parts(sae: SparseArchitecture, p: Parameters, x: Tensor) -> tuple[dict[str, Tensor], Tensor]:
    """The loss and its parts under the names that ``loss_and_gradients`` gives them, and the latents (n_tokens, d_sae)."""
    arm, variance = sae.arm, sae.statistics.variance
    pre, f, reconstructions, sparsity = forward(sae, p, x)
    errors = torch.stack([(x_hat - x).square().sum(1) / variance for x_hat in reconstructions])  # (reconstructions, n_tokens)
    parts = {"mse": errors[0].mean()}
    losses = errors.sum(0)
    if sae.name == "matryoshka":
        losses = errors.mean(0)
        parts["prefix_mse"] = errors.mean()
    if sae.name == "gated":
        parts["gate_mse"] = errors[1].mean()
    loss = tilted(losses, arm.tilt)
    if arm.tilt:
        weights = torch.softmax(arm.tilt * losses, 0)
        parts |= {"tilted_error": loss, "effective_sample_size": 1 / weights.square().sum()}
    if arm.l1_coefficient:
        parts["l1"] = f.sum() / (len(x) * variance**0.5)
        loss = loss + arm.l1_coefficient * parts["l1"]
    if arm.diversity_coefficient:
        parts["diversity"] = diversity(f, p["W_dec"])
        loss = loss + arm.diversity_coefficient * parts["diversity"]
    if isinstance(sae, SteeredArchitecture):
        coefficient = sae.controller.coefficient
        parts |= {"sparsity": sparsity, "coefficient": torch.tensor(coefficient, dtype=torch.float64)}
        loss = loss + coefficient * sparsity
    if isinstance(sae, AuxKArchitecture):
        parts["auxk"] = torch.zeros(())
        if arm.auxk_coefficient and sae.dead.any():
            parts["auxk"] = auxk(pre, x - reconstructions[0], p["W_dec"], sae.dead)
            loss = loss + arm.auxk_coefficient * parts["auxk"]
    parts["l0"] = (f > 0).sum(dtype=torch.float64) / len(x)
    return {"loss": loss, **parts}, f


# ------------------------------------------------------------------ training


def loss_and_gradients(sae: SparseArchitecture, x: Tensor) -> dict[str, float]:
    """What ``sae.loss_and_gradients(x)`` does, by autograd: fill the gradients, count what fired, return the parts."""
    leaves = {name: view.detach().clone().requires_grad_() for name, view in sae.views(sae.parameters).items()}
    parts, f = loss_parts(sae, leaves, x)
    parts["loss"].backward()
    for name, leaf in leaves.items():
        sae.gradient[name].copy_(torch.zeros_like(leaf) if leaf.grad is None else leaf.grad)
    sae.count_fired((f > 0).any(0), len(x))
    return {name: part.item() for name, part in parts.items()}


def take_step(sae: SparseArchitecture, optimiser: torch.optim.Optimizer, x: Tensor) -> dict[str, float]:
    """One whole training step on a batch, at the rate set in ``optimiser``, which holds ``sae.parameters``.

    The decoder's gradient loses its part along each row, the optimiser steps, rows get unit norm again, and the
    architecture reacts (controllers).
    """
    parts = loss_and_gradients(sae, x)
    W_dec, gradient = sae.W_dec, sae.gradient["W_dec"]
    gradient.sub_((gradient * W_dec).sum(1, keepdim=True) * W_dec)
    sae.parameters.grad = sae.gradients
    optimiser.step()
    W_dec.div_(W_dec.norm(dim=1, keepdim=True))
    sae.adjust(parts)
    return parts

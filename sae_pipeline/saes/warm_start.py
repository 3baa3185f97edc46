"""Warm start: an arm begins with the weights of a trained SAE instead of random ones (fine-tuning, Muhamed et al. 2024).

The given SAE works on raw activations and an arm on normalised ones, x_normalised = s x. With W_enc and W_dec unchanged and
s b_enc, s b_dec and s threshold, latents and reconstruction come out multiplied by s: the same function, and the inverse of
what an export folds. Decoder rows of an arm have unit norm, so each row is divided by its norm n, and the latent's
encoder column, bias and threshold are multiplied by n.

What the arm's function is before its first step, in exact arithmetic, where all of its latents come from the given SAE:

- relu, jumprelu, gated into gated; relu, jumprelu and gated into jumprelu: that of the given SAE, whatever its decoder
  norms. A gated SAE is a JumpReLU with W_enc exp(r_mag), b_mag and the threshold b_mag - exp(r_mag) b_gate (Rajamanoharan
  et al. 2024). The first step lifts thresholds that lie below the reach of JumpReLU's kernel to it.
- relu into relu: the same. A threshold goes into the bias: the same latents are active, by the threshold less.
- topk into topk: the same, if k is and the decoder rows have one norm (the norms decide which latents are largest).
- jumprelu into batchtopk or matryoshka: the same where all latents have one threshold, as SAEs of these architectures do.
- topk into one that is steered: the same weights, with a common threshold at which L0 is the target.
- anything else into topk, batchtopk, matryoshka: the same weights under the arm's own rule of selection.

An arm may have more latents than the given SAE: the rest begins as it would without a warm start. The optimiser, the
schedule and the dead-latent counters begin afresh; a penalty's coefficient goes on where the same architecture left it.
"""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from sae_pipeline.errors import BadInput, StudyError
from sae_pipeline.saes.architectures.base import Architecture
from sae_pipeline.saes.architectures.batchtopk import BatchTopK
from sae_pipeline.saes.architectures.steered import SteeredArchitecture
from sae_pipeline.saes.inference import InferenceSAE

COEFFICIENT = "sparsity_coefficient"
"""Metadata key under which steered architectures export the coefficient that they ended with."""


class Code(NamedTuple):
    """A given SAE's way from activations to latents, for decoder rows of unit norm and normalised inputs, float64."""

    W_enc: Tensor
    """(d_model, d_given)."""
    b_enc: Tensor
    """(d_given,)."""
    threshold: Tensor | None
    """(d_given,), >= 0: a latent is its pre-activation where that is above; None for topk, and where the gate is kept."""
    gate: tuple[Tensor, Tensor] | None = None
    """r_mag and b_mag (d_given,), if the gate is kept: ``b_enc`` is then the gate's."""


def given_sae(folder: Path) -> InferenceSAE:
    """The SAE in a folder, of any format that :class:`InferenceSAE` reads.

    Raises:
        StudyError: there is no such folder, no SAE that can be read in it, or a coefficient that no penalty can have.
    """
    if not folder.is_dir():
        raise StudyError(
            f"warm_start: expected the folder of an SAE, found none at {folder}; correct the path, or write one with `sae-pipeline export`"
        )
    try:
        sae = InferenceSAE.load(folder)
    except BadInput as error:
        raise StudyError(f"warm_start: {error}") from None
    found = sae.metadata.get(COEFFICIENT, 1.0)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 < found < math.inf:
        raise StudyError(
            f"warm_start: expected {COEFFICIENT} to be a finite number above 0, found {found!r} in the configuration of {folder}; "
            "correct it, or remove it to start from the coefficient of a fresh arm"
        )
    return sae


def content(sae: InferenceSAE) -> str:
    """SHA-256 over what an arm takes over: weights, activation function, and the coefficient a penalty goes on with."""
    hashed = hashlib.sha256(repr((sae.activation, sae.k, sae.metadata.get("architecture"), sae.metadata.get(COEFFICIENT))).encode())
    for name, tensor in sorted((name, value) for name, value in vars(sae).items() if isinstance(value, Tensor)):
        plain = tensor.detach().to("cpu", torch.float32).contiguous()
        hashed.update(f"{name}{tuple(plain.shape)}".encode())
        hashed.update(plain.view(-1).numpy().data)
    return hashed.hexdigest()


def check_widths(sae: InferenceSAE, d_model: int, d_sae: int, label: str) -> None:
    """Refuse an SAE that an arm of these widths cannot begin with (StudyError)."""
    if sae.d_model != d_model or sae.d_sae > d_sae:
        raise StudyError(
            f"{label}: warm_start: expected an SAE of width {d_model} with at most {d_sae} latents, found width {sae.d_model} and {sae.d_sae} latents; "
            "give the SAE of the same site, change the expansion, or restrict the arm with 'only'"
        )


def warm_start(architecture: Architecture, label: str) -> None:
    """Begin with the SAE that the arm names, if it names one.

    Raises:
        StudyError: it cannot be read, its widths do not fit, or it is another one than when the study was read.
    """
    arm = architecture.arm
    if arm.warm_start is None:
        return
    given = given_sae(Path(arm.warm_start))
    if arm.warm_start_content not in (None, content(given)):
        raise StudyError(f"{label}: warm_start: expected the SAE that {arm.warm_start} held when the study was read, found another one; start again")
    begin_with(architecture, given, label)


@torch.no_grad()
def begin_with(arm: Architecture, given: InferenceSAE, label: str) -> None:
    """Put a given SAE's weights into an arm that has taken no step yet; see the module for what is exact.

    Raises:
        StudyError: the widths do not fit; ``label`` says whose.
    """
    check_widths(given, arm.d_model, arm.d_sae, label)
    scale, taken = arm.statistics.scale, slice(0, given.d_sae)
    code = _for_unit_rows(given, scale, keep_gate="r_mag" in arm.latent)
    rows = given.W_dec.double()
    norms = rows.norm(dim=1, keepdim=True)
    # A latent without a decoder row does nothing; it keeps a fresh direction, and its encoder has become zero.
    arm.W_dec[taken] = torch.where(norms > 0, rows / norms, arm.W_dec[taken].cpu().double()).to(arm.W_dec)
    arm.W_enc[:, taken] = code.W_enc.to(arm.W_enc)
    arm.b_enc[taken] = code.b_enc.to(arm.b_enc)
    arm.b_dec.copy_(given.b_dec.double() * scale)
    if isinstance(arm, SteeredArchitecture):
        _steered(arm, code, taken)
        if given.metadata.get("architecture") == arm.name and COEFFICIENT in given.metadata:
            arm.steer_from(given.metadata[COEFFICIENT])
    elif isinstance(arm, BatchTopK) and code.threshold is not None:
        arm.take_threshold(code.threshold.mean().item())


def _for_unit_rows(given: InferenceSAE, scale: float, *, keep_gate: bool) -> Code:
    """Decoder norms and the inputs' scale moved into the encoder; gating written as a threshold unless it is kept."""
    norms = given.W_dec.double().norm(dim=1)
    W_enc, unit = given.W_enc.double(), norms * scale
    if given.activation == "gated":
        assert given.r_mag is not None
        assert given.b_mag is not None
        b_mag, gain = given.b_mag.double(), given.r_mag.double().exp()
        if keep_gate:
            return Code(W_enc * norms, given.b_enc.double() * unit, None, (given.r_mag.double(), b_mag * unit))
        # Open above 0 is the same as a magnitude above that of a gate at 0; rectified too, so that below 0 it acts as 0.
        threshold = (b_mag - gain * given.b_enc.double()).clamp_min(0)
        return Code(W_enc * gain * norms, b_mag * unit, threshold * unit)
    b_enc = given.b_enc.double() * unit
    if given.activation == "topk":
        return Code(W_enc * norms, b_enc, None)
    threshold = torch.zeros_like(b_enc) if given.threshold is None else given.threshold.double().clamp_min(0)
    return Code(W_enc * norms, b_enc, threshold * unit)


def _steered(arm: SteeredArchitecture, code: Code, taken: slice) -> None:
    """Thresholds of an architecture with a penalty, in the form that it has them."""
    if "r_mag" in arm.latent:
        gain, magnitude = code.gate or (torch.zeros_like(code.b_enc), code.b_enc)
        arm.latent["r_mag"][taken] = gain.to(arm.b_enc)
        arm.latent["b_mag"][taken] = magnitude.to(arm.b_enc)
    if code.gate is not None:
        return
    if "threshold" in arm.latent:
        if code.threshold is None:
            arm.start()  # the same rule on the given weights
        else:
            arm.latent["threshold"][taken] = code.threshold.to(arm.b_enc)
    elif code.threshold is None:
        arm.b_enc.sub_(arm.initial_threshold())
    else:
        arm.b_enc[taken] = (code.b_enc - code.threshold).to(arm.b_enc)

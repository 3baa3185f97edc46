"""How much memory arms need in training, and which of them fit side by side.

The estimate is a formula, so that a plan can state it before anything is allocated. Imports no torch for the same reason.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sae_pipeline.saes.arm import WITH_AUXK, Arm
from sae_pipeline.saes.chunks import CHUNK
from sae_pipeline.saes.schedule import steps_of, trunk_of

MEMORY_SHARE = 0.5
"""Share of the free memory that arms may take when the study states no amount."""

ESTIMATE_FACTOR = 2.0
"""The estimate and the measured peak of a group lie within this factor of each other, for arms above about 100 MB."""

ENCODING_BYTES = 8
"""Per pre-activation of an encoded chunk: itself and the latents."""

RANKING_BYTES = 16
"""Per pre-activation of a ranked chunk: the candidates among them, a copy in rank order and int64 places."""

BYTES_PER_ENTRY = 64
"""An active latent of a token: its value, index and gradients, and the same once more in the order of the latents."""


@dataclass(frozen=True)
class MemoryGroup:
    """Arms that are trained side by side."""

    labels: tuple[str, ...]
    bytes: int
    """Estimated peak."""


def state_bytes(arm: Arm, d_model: int, d_sae: int) -> int:
    """What an arm holds from its first step to its last: parameters, gradients and Adam's two moments in float32, the counters.

    Up to four vectors of d_sae are counted, of which architectures use one to four.
    """
    return 16 * _parameters(d_model, d_sae) + 8 * d_sae


def step_bytes(arm: Arm, d_model: int, d_sae: int) -> int:
    """What an arm needs for the length of a step, a checkpoint or its end, so as often as arms take steps at once.

    A step's memory is kept from step to step: the chunk of pre-activations twice, five tensors of the batch's shape, its
    entries, one matrix for the decoder's gradient, the sum of the gradients when they are accumulated, and AuxK with half
    of the latents dead, three tensors (n_tokens, dead) and the dead rows of both matrices. Beside it comes the larger of a
    checkpoint on its way to disk (parameters and moments, 12 bytes per parameter) and of the end: a chunk of the held-out
    sample is encoded and, where a threshold is calibrated, its scores are ranked.
    """
    n_tokens, matrix = arm.batch_size // arm.accumulate, 4 * d_model * d_sae
    step = 8 * min(n_tokens, CHUNK) * d_sae + 20 * n_tokens * d_model + round(BYTES_PER_ENTRY * n_tokens * min(arm.sparsity, d_sae)) + matrix
    if arm.accumulate > 1:
        step += 4 * _parameters(d_model, d_sae)
    if arm.architecture in WITH_AUXK and arm.auxk_coefficient:
        step += 12 * n_tokens * (d_sae // 2) + matrix
    end = (ENCODING_BYTES if arm.architecture == "topk" else RANKING_BYTES) * CHUNK * d_sae
    return step + max(12 * _parameters(d_model, d_sae), end)


def group_bytes(arms: list[Arm], d_model: int, d_sae: int, threads: int) -> int:
    """Peak of arms side by side: all their states, the largest step for as many as there are threads, and a batch as read and
    as normalised."""
    batch = 8 * d_model * max(arm.batch_size for arm in arms)
    steps = min(threads, len(arms)) * max(step_bytes(arm, d_model, d_sae) for arm in arms)
    return sum(state_bytes(arm, d_model, d_sae) for arm in arms) + steps + batch


def memory_groups(arms: Mapping[str, Arm], d_model: int, d_sae: int, budget: int, threads: int) -> list[MemoryGroup]:
    """Split arms into groups of one data order and batch size whose estimate fits the budget, as few as first-fit finds.

    An arm that does not fit on its own is a group by itself. Which group an arm is in changes nothing but time. In a trunk
    longer budgets come first, because they write the states that the shorter ones begin with.

    Args:
        budget: bytes.
        threads: arms that take steps at once.
    """
    groups: list[list[str]] = []
    for name in _trunks_together(arms):
        arm = arms[name]
        for group in groups:
            first = arms[group[0]]
            together = [*(arms[other] for other in group), arm]
            if (first.data_seed, first.batch_size) == (arm.data_seed, arm.batch_size) and group_bytes(together, d_model, d_sae, threads) <= budget:
                group.append(name)
                break
        else:
            groups.append([name])
    return [MemoryGroup(tuple(group), group_bytes([arms[name] for name in group], d_model, d_sae, threads)) for group in groups]


def memory_budget(device: str, memory_gib: float | None = None) -> int:
    """Bytes for arms side by side: what the study states, or half of what is free on the device or machine now."""
    return round(memory_gib * 2**30) if memory_gib is not None else round(MEMORY_SHARE * free_bytes(device))


def free_bytes(device: str) -> int:
    """Free memory of a GPU or, for other devices, of the machine (its whole memory where the system does not tell)."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0]
    from sae_pipeline.activations.batch_size import available_memory

    return available_memory() or os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _parameters(d_model: int, d_sae: int) -> int:
    return 2 * d_model * d_sae + d_model + 4 * d_sae


def _trunks_together(arms: Mapping[str, Arm]) -> list[str]:
    """Labels in their order, but the arms of a trunk one after the other, longest first."""
    order: dict[Arm | str, list[str]] = {}
    for name, arm in arms.items():
        order.setdefault(trunk_of(arm) or name, []).append(name)
    return [name for names in order.values() for name in sorted(names, key=lambda name: -steps_of(arms[name].tokens, arms[name].batch_size))]

"""Adam (Kingma & Ba 2015) on a flat buffer of which one part holds unit rows, in one pass over the memory.

Rows of W_dec keep unit norm: the part of their gradient along the row is removed before the step and the norm reset
after it. Both act row by row like Adam itself, so a compiled kernel does all three while a row is in cache.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sae_pipeline.saes.chunks import CHUNK
from sae_pipeline.saes.kernels.choice import numba_for
from sae_pipeline.saes.kernels.team import chunks_of, shared

BETAS = (0.9, 0.999)

EPSILON = 6.25e-10
"""As in Gao et al. 2024: gradients of a normalised loss are small against the usual 1e-8."""

WIDTH = 1_024
"""Numbers per row in which the parts without rows of their own are updated."""


class UnitRowAdam:
    """The optimiser of one flat buffer.

    Attributes:
        state: ``step`` (), ``exp_avg`` and ``exp_avg_sq`` in the layout of the parameters, for checkpoints.
    """

    def __init__(self, parameters: Tensor, gradients: Tensor, unit_rows: Tensor) -> None:
        """Optimise ``parameters`` by ``gradients`` (same flat layout); ``unit_rows`` (rows, width) is a view into the parameters."""
        self._parameters, self._gradients, self._unit_rows = parameters, gradients, unit_rows
        self._first = unit_rows.storage_offset() - parameters.storage_offset()
        self.load({"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameters), "exp_avg_sq": torch.zeros_like(parameters)})

    def load(self, state: dict[str, Tensor]) -> None:
        """Go on from what :attr:`state` was; the tensors are taken over."""
        device = self._parameters.device
        self.state = {name: tensor.to(device) for name, tensor in state.items()}

    def step(self, rate: float) -> None:
        """Update all parameters with this learning rate; the gradients of unit rows are projected in place."""
        self.state["step"] += 1
        if compiled := numba_for(self._parameters):
            count = self.state["step"].item()
            correction = (1 - BETAS[1] ** count) ** 0.5
            compiled.adam(self._parts(), *BETAS, rate / (1 - BETAS[0] ** count), correction, EPSILON)
            return
        flat = (self._parameters, self._gradients, self.state["exp_avg"], self.state["exp_avg_sq"])
        unit, taken = self._unit_rows, self.state["step"]
        gradient = self._gradients[self._first :][: unit.numel()].view_as(unit)

        def project(_: int, first: int, last: int) -> None:
            for rows in chunks_of(first, last, unit.device):
                gradient[rows].addcmul_((gradient[rows] * unit[rows]).sum(1, keepdim=True), unit[rows], value=-1)

        def update(_: int, first: int, last: int) -> None:
            p, g, m, v = ([tensor[first:last]] for tensor in flat)
            torch._fused_adam_(
                p, g, m, v, [], [taken], lr=rate, beta1=BETAS[0], beta2=BETAS[1], eps=EPSILON, weight_decay=0.0, amsgrad=False, maximize=False
            )

        def renormalise(_: int, first: int, last: int) -> None:
            for rows in chunks_of(first, last, unit.device):
                unit[rows].div_(unit[rows].norm(dim=1, keepdim=True))

        shared(project, len(unit), CHUNK)
        shared(update, len(self._parameters), WIDTH)
        shared(renormalise, len(unit), CHUNK)

    def _parts(self) -> list[tuple[bool, tuple[Tensor, ...]]]:
        """Everything as (rows, width): before the unit rows, these, and after them."""
        flat = (self._parameters, self._gradients, self.state["exp_avg"], self.state["exp_avg_sq"])
        first, last, end = self._first, self._first + self._unit_rows.numel(), len(self._parameters)
        parts = [(True, tuple(tensor[first:last].view_as(self._unit_rows) for tensor in flat))]
        for start, stop in ((0, first), (last, end)):
            whole = start + (stop - start) // WIDTH * WIDTH
            parts.append((False, tuple(tensor[start:whole].view(-1, WIDTH) for tensor in flat)))
            parts.append((False, tuple(tensor[whole:stop].view(1, -1) for tensor in flat)))
        return parts

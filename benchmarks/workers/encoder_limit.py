"""The limit of a training step: the product of a batch with the encoder, and nothing else; and the machine's rates.

A step that encodes exactly cannot do without this product (a step that finds the active latents in bfloat16 cannot do
without it in bfloat16). The product is taken whole and in pieces of 1,024 rows, and the faster way counts.
"""

from __future__ import annotations

import time
from typing import Any

import torch
from protocol import Actions, serve
from yardsticks import yardsticks

PIECE = 1_024
"""Rows of a piece: its output stays in a processor's cache."""


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Operands in both precisions."""
    torch.set_num_threads(setup["threads"])
    device, batch = torch.device(setup["device"]), setup["batch"]
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, setup["d_in"], generator=generator)
    weights = torch.randn(setup["d_sae"], setup["d_in"], generator=generator) / setup["d_in"] ** 0.5

    def products(dtype: torch.dtype) -> tuple[float, float]:
        """Seconds of one product, whole and in pieces."""
        rows, columns = x.to(device, dtype), weights.to(device, dtype).t()
        out = torch.zeros(batch, setup["d_sae"], dtype=dtype, device=device)
        piece = out[: min(PIECE, batch)]
        pieces = [rows[start : start + PIECE] for start in range(0, batch, PIECE)]

        def whole() -> None:
            torch.mm(rows, columns, out=out)

        def by_pieces() -> None:
            for part in pieces:
                torch.mm(part, columns, out=piece[: len(part)])

        return _seconds(whole, device), _seconds(by_pieces, device)

    @torch.no_grad()
    def limit() -> dict[str, Any]:
        return {f"{name}_seconds": min(products(dtype)) for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16))}

    return {"versions": {"torch": torch.__version__}}, {"limit": limit, "yardsticks": yardsticks}


def _seconds(run: Any, device: torch.device) -> float:
    """Mean seconds of calls that fill a tenth of a second, after one that is not counted."""
    run()
    count, elapsed = 0, 0.0
    started = time.perf_counter()
    while elapsed < 0.1 or count < 2:
        run()
        count += 1
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elapsed = time.perf_counter() - started
    return elapsed / count


if __name__ == "__main__":
    serve(load)

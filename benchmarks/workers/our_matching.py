"""This project's one-to-one matching of two dictionaries."""

from __future__ import annotations

import time
from typing import Any

import scipy
import torch
from dictionaries import dictionaries
from protocol import Actions, serve
from yardsticks import yardsticks

from sae_pipeline.matching.assignment import DENSE, assign

BLOCK = 512
"""Rows that the product alone is computed of at a time."""


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Compile what compiles, on a pair just too large for the dense solver."""
    torch.set_num_threads(setup["threads"])
    torch.set_grad_enabled(False)
    assign(*dictionaries("unrelated", int(DENSE**0.5) + 1, setup["d_model"]))

    def match(kind: str, n: int) -> dict[str, Any]:
        a, b = dictionaries(kind, n, setup["d_model"])
        started = time.perf_counter()
        found = assign(a, b)
        return {"seconds": time.perf_counter() - started, "total": found.total, "exact": found.exact, "bound": found.bound}

    def product(kind: str, n: int) -> dict[str, Any]:
        """All cosines in float32, none of them kept."""
        a, b = dictionaries(kind, n, setup["d_model"])
        out = torch.empty(BLOCK, n)
        started = time.perf_counter()
        for first in range(0, n, BLOCK):
            rows = a[first : first + BLOCK]
            torch.mm(rows, b.T, out=out[: len(rows)])
        return {"seconds": time.perf_counter() - started}

    versions = {"torch": torch.__version__, "scipy": scipy.__version__}
    return {"versions": versions}, {"match": match, "product": product, "yardsticks": yardsticks}


if __name__ == "__main__":
    serve(load)

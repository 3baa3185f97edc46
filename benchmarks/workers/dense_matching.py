"""SciPy's one-to-one matching of two dictionaries, on the matrix of all their cosines."""

from __future__ import annotations

import time
from typing import Any

import scipy
import torch
from dictionaries import dictionaries
from protocol import Actions, serve
from scipy.optimize import linear_sum_assignment


def load(setup: dict[str, Any]) -> tuple[dict[str, Any], Actions]:
    """Nothing is prepared."""
    torch.set_num_threads(setup["threads"])
    torch.set_grad_enabled(False)

    def match(kind: str, n: int) -> dict[str, Any]:
        a, b = dictionaries(kind, n, setup["d_model"])
        started = time.perf_counter()
        rows, columns = linear_sum_assignment((a @ b.T).numpy(), maximize=True)
        seconds = time.perf_counter() - started
        return {"seconds": seconds, "total": float((a[rows].double() * b[columns].double()).sum())}

    return {"versions": {"torch": torch.__version__, "scipy": scipy.__version__}}, {"match": match}


if __name__ == "__main__":
    serve(load)

"""A table of results in the columns of a published sweep, with planted effects: five mixes, two layers, three widths, four budgets."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd

SHARE = {"C4": 1.0, "PRE": 0.7, "EQ": 0.5, "INS": 0.3, "lmsys": 0.0}
"""Share of the mix that is of the kind of c4-sample; the rest is of the kind of GAIR/lima."""
SETS = ("c4-sample", "GAIR/lima")
BUDGETS = (50, 125, 250, 419)
LAYERS, EXPANSIONS = (6, 25), (2, 4, 8)
D_MODEL = 2048
DECLARED = tuple(f"{mix}={name}:{share:g}" for mix in SHARE for name, share in zip(SETS, (SHARE[mix], 1 - SHARE[mix]), strict=True) if share)

IN_DOMAIN, PER_DOUBLED_WIDTH, PER_LAYER, BUDGET = 0.06, 0.02, 0.003, 0.08
"""Explained variance gained by a whole share of matching text, by doubling the width, per layer, and at most by more tokens."""


def explained_variance(mix: str, name: str, layer: int, expansion: float, millions: float) -> float:
    """The planted value: linear in the share of matching text, in log2 of the width and in the layer, saturating in the budget."""
    own = SHARE[mix] if name == SETS[0] else 1 - SHARE[mix]
    return (
        0.55 + IN_DOMAIN * own + PER_DOUBLED_WIDTH * np.log2(expansion) + PER_LAYER * layer + BUDGET * (1 - 50 / millions) - 0.02 * SETS.index(name)
    )


def results(noise: float = 0.002, seed: int = 0) -> pd.DataFrame:
    """The table under the long names of such sweeps; noise is added to every value."""
    generator = np.random.default_rng(seed)
    rows = []
    for mix, layer, expansion, millions, name in product(SHARE, LAYERS, EXPANSIONS, BUDGETS, SETS):
        explained = explained_variance(mix, name, layer, expansion, millions) + noise * generator.normal()
        rows.append({
            "sae_train_dataset": mix, "eval_dataset": name, "layer": layer, "sae_expansion_factor": expansion, "sae_token_size_mil": millions,
            "d_sae": D_MODEL * expansion, "explained_variance": explained, "mse": 3 * (1 - explained), "activation_sparsity_l0": 64 / (D_MODEL * expansion),
            "dead_features_pct": 5.0 * expansion,
        })  # fmt: skip
    return pd.DataFrame(rows)


def written(folder: Path, frame: pd.DataFrame | None = None, name: str = "results.csv") -> Path:
    """The table as a file."""
    path = folder / name
    frame = results() if frame is None else frame
    if path.suffix == ".parquet":
        frame.to_parquet(path, index=False)
    else:
        frame.to_csv(path, index=False)
    return path

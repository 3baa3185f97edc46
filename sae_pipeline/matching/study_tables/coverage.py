"""How much of an SAE a union of other seeds' dictionaries holds: what one seed missed, and whether more seeds find it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from sae_pipeline.matching.pairs import DeclaredSae, differences

COLUMNS: dict[str, Any] = {"setting": "string", "seeds": "int64", "saes": "int64"} | dict.fromkeys(
    ("share", "low", "high", "chance_share"), "float64"
)


def seed_groups(saes: Sequence[DeclaredSae]) -> list[list[DeclaredSae]]:
    """The SAEs that differ in nothing but their seeds, settings with one seed left out; in the order given."""
    groups: list[list[DeclaredSae]] = []
    for sae in saes:
        own = next((group for group in groups if differences(group[0], sae).keys() <= {"seed"}), None)
        if own is None:
            groups.append([sae])
        else:
            own.append(sae)
    return [group for group in groups if len(group) > 1]


def union_share(found_in: np.ndarray, others: int, n: int) -> float:
    """Expected share of latents that at least one of n dictionaries has, drawn at random without return from all others.

    A latent that m of the others have is missed by all n with probability C(others - m, n) / C(others, n).

    Args:
        found_in: (n_latents,) int, how many of the others have each latent; nan without latents.
        others: how many there are.
        n: how many are drawn, from 1 to ``others``.
    """
    from scipy.special import comb

    return float(1 - (comb(others - found_in, n) / comb(others, n)).mean()) if len(found_in) else float("nan")


def coverage_frame(
    groups: Sequence[Sequence[DeclaredSae]], nearest: Callable[[str, str], np.ndarray], threshold: float, chance: Callable[[int], float]
) -> pd.DataFrame:
    """A row per setting and number of other seeds.

    Args:
        groups: as :func:`seed_groups` finds them.
        nearest: (SAE, other SAE) -> (n_alive,) highest decoder cosine of each alive latent with the other's.
        threshold: a latent is found where its cosine is above it.
        chance: rows -> expected share of random directions that are found among as many random others.

    Returns:
        ``share`` is the mean over the SAEs of the setting and over all choices of ``seeds`` others; ``low`` and ``high`` are
        the lowest and the highest SAE's. ``chance_share`` is what as many random directions as the others have alive latents
        hold together, at the mean number over the choices. An SAE without alive latents is left out of all four, and adds
        nothing as one of the others; nan where no SAE of the setting has any.
    """
    rows: list[dict[str, Any]] = []
    for group in groups:
        others = len(group) - 1
        found_in = {sae.sae_id: _found_in(sae, group, nearest, threshold) for sae in group}
        living = [sae for sae in group if len(found_in[sae.sae_id])]
        of_others = [np.mean([len(nearest(other.sae_id, sae.sae_id)) for other in group if other is not sae]) for sae in living]
        for n in range(1, others + 1):
            shares = [union_share(found_in[sae.sae_id], others, n) for sae in living] or [float("nan")]
            floors = [chance(round(n * alive)) for alive in of_others] or [float("nan")]
            setting = {"setting": group[0].setting_of_seeds, "seeds": n, "saes": len(group)}
            figures = {"share": float(np.mean(shares)), "low": min(shares), "high": max(shares), "chance_share": float(np.mean(floors))}
            rows.append(setting | figures)
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _found_in(sae: DeclaredSae, group: Sequence[DeclaredSae], nearest: Callable[[str, str], np.ndarray], threshold: float) -> np.ndarray:
    """(n_alive,) in how many of the group's other dictionaries each latent has a match."""
    return np.sum([nearest(sae.sae_id, other.sae_id) > threshold for other in group if other is not sae], axis=0)

"""How much of what two SAEs of one seed have in common is only where both began.

Two SAEs of one width and one initialisation seed start from the same directions in the same order. After a short training
most latents still lie near their start, find themselves in the other SAE, and so tell nothing of what was learned. Latents
have no order otherwise: features learned anew meet at the same index by chance alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

CUT = 0.5
"""Share above which most of what is found is where it began."""

IDS = ["sae_id", "other_sae_id"]
LEFT_OUT = ("seed", "expansion", "tokens")
"""Pairs of two seeds begin apart, of two widths a latent of one may have no place in the other's order, and those of two
budgets may be one training seen twice, which keeps its order however long it is."""


@dataclass(frozen=True)
class SharedStart:
    """Of latents found in an SAE of the same width and the same seed of initialisation, those found at their own index."""

    share: float
    chance: float
    """The mean of one over the latents of the other SAE."""
    latents: int
    """How many are found, summed over the ordered pairs."""
    pairs: int
    """Unordered pairs of SAEs in which any is found."""

    @property
    def decides(self) -> bool:
        """Whether most of what is found is where it began."""
        return self.share > CUT

    @property
    def sentence(self) -> str:
        """The figure, without a capital and a full stop."""
        return (
            f"of the latents found in another SAE of the same seed of initialisation {100 * self.share:.1f} % are found at their own index "
            f"(by chance {100 * self.chance:.1f} %; {self.latents:,} latents in {self.pairs} pairs)"
        )

    @property
    def remedy(self) -> str:
        """What a share above the cut means, and what to do."""
        return (
            f"above {100 * CUT:.0f} % most of what such pairs share is the start they have in common and not what they learned: "
            "train longer, or compare SAEs of different seeds with each other, which `sae-pipeline match` does"
        )


def shared_start(matching: Mapping[str, pd.DataFrame], saes: pd.DataFrame, factors: Sequence[str] | None = None) -> SharedStart | None:
    """Where the latents are found that pairs of one seed of initialisation share.

    Args:
        matching: the matching tables; of ``matches`` the columns ``sae_id``, ``other_sae_id``, ``factor`` and ``threshold``
            are read, of ``feature_neighbours`` the ids, ``latent``, ``other_latent`` and ``cosine``.
        saes: columns ``sae_id``, ``init_seed`` and ``d_sae``; pairs of other SAEs are left out.
        factors: those that pairs may differ in; all but :data:`LEFT_OUT` where None.

    Returns:
        None where nothing can be told: no neighbours in the tables, no such pair, or nothing found above the threshold.
    """
    if "feature_neighbours" not in matching or not len(matching["feature_neighbours"]):
        return None
    compared = matching["matches"][[*IDS, "factor", "threshold"]].drop_duplicates(IDS)
    compared = compared[~compared["factor"].isin(LEFT_OUT) if factors is None else compared["factor"].isin(factors)]
    of = saes.set_index("sae_id")[["init_seed", "d_sae"]].astype(float)
    compared = compared[compared["sae_id"].isin(of.index) & compared["other_sae_id"].isin(of.index)]
    one, other = of.loc[compared["sae_id"]].to_numpy(), of.loc[compared["other_sae_id"]].to_numpy()
    compared = compared[(one == other).all(axis=1)]
    found = matching["feature_neighbours"].merge(compared, on=IDS)
    found = found[found["cosine"] > found["threshold"]]
    if found.empty:
        return None
    return SharedStart(
        share=float((found["latent"] == found["other_latent"]).mean()),
        chance=float((1 / found["other_sae_id"].map(of["d_sae"])).mean()),
        latents=len(found),
        pairs=len({frozenset(pair) for pair in found[IDS].drop_duplicates().itertuples(index=False)}),
    )

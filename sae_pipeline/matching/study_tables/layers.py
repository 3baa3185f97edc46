"""One arm at every layer: how much of each layer's dictionary every other layer's has."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Any

import pandas as pd
from torch import Tensor

from sae_pipeline.matching.pairs import DeclaredSae
from sae_pipeline.matching.study_tables.shelf import Shelf
from sae_pipeline.matching.weights.cosine import nearest
from sae_pipeline.matching.weights.ratios import Matched, matched

COLUMNS: dict[str, Any] = (
    dict.fromkeys(("sae_id", "other_sae_id"), "string")
    | {"layer": "int64", "other_layer": "int64", "site": "string", "setting": "string", "n": "int64", "n_other": "int64", "threshold": "float64"}
    | dict.fromkeys(("match_ratio", "mmcs", "chance_match_ratio", "alive_match_ratio", "alive_mmcs", "alive_chance_match_ratio"), "float64")
)


def arms_across_layers(saes: Iterable[DeclaredSae], sparsities: int) -> dict[tuple[str, str], list[DeclaredSae]]:
    """Of one cell at every layer: by site and setting the SAEs of one arm, in the order of the layers.

    Of each architecture the first arm of each of the first ``sparsities`` sparsities is taken, in the study's order.

    Args:
        saes: of one mix and expansion factor.
        sparsities: most that are taken per architecture.
    """
    chosen: dict[tuple[str, str], dict[float, str]] = {}
    by_arm: dict[tuple[str, str], list[DeclaredSae]] = {}
    for sae in saes:
        site = sae.cell.point.site
        of_architecture = chosen.setdefault((site, sae.arm.architecture), {})
        if sae.arm.sparsity not in of_architecture and len(of_architecture) < sparsities:
            of_architecture[sae.arm.sparsity] = sae.label
        if of_architecture.get(sae.arm.sparsity) == sae.label:
            by_arm.setdefault((site, sae.setting), []).append(sae)
    return {key: sorted(found, key=lambda sae: sae.cell.point) for key, found in by_arm.items()}


def layer_frame(arms: Iterable[Sequence[DeclaredSae]], shelf: Shelf, threshold: float) -> pd.DataFrame:
    """Match every two layers' decoder features both ways; rows of ``layer_matches``."""
    rows: list[dict[str, Any]] = []
    for saes in arms:
        for a, b in combinations(saes, 2):
            whole = _matched(shelf.prepared(a.sae_id).features, shelf.prepared(b.sae_id).features, threshold)
            alive = _matched(shelf.alive_directions(a.sae_id), shelf.alive_directions(b.sae_id), threshold)
            for here, there, figures, of_alive in zip((a, b), (b, a), whole, alive, strict=True):
                rows.append(_row(here, there, threshold, figures, of_alive))
    return pd.DataFrame(rows, columns=list(COLUMNS)).astype(COLUMNS)


def _row(here: DeclaredSae, there: DeclaredSae, threshold: float, figures: Matched | None, alive: Matched | None) -> dict[str, Any]:
    assert figures is not None  # every SAE has a latent
    return {
        "sae_id": here.sae_id,
        "other_sae_id": there.sae_id,
        "layer": here.cell.point.layer,
        "other_layer": there.cell.point.layer,
        "site": here.cell.point.site,
        "setting": here.setting,
        "threshold": threshold,
        "alive_match_ratio": alive.match_ratio if alive else None,
        "alive_mmcs": alive.mmcs if alive else None,
        "alive_chance_match_ratio": alive.chance_match_ratio if alive else None,
    } | {name: getattr(figures, name) for name in ("n", "n_other", "match_ratio", "mmcs", "chance_match_ratio")}


def _matched(a: Tensor, b: Tensor, threshold: float) -> tuple[Matched | None, Matched | None]:
    """Figures of a's rows among b's and the other way; None where one side has none."""
    if not len(a) or not len(b):
        return None, None
    forward, backward = nearest(a, b, top=1)
    return matched(forward.best, len(b), a.shape[1], threshold), matched(backward.best, len(a), a.shape[1], threshold)

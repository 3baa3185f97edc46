"""Made-up matching tables and texts of latents: latent n of every SAE points where latent n of every other does, more or less."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd

LATENTS = 12
THRESHOLD = 0.7
FACTORS = {"mix": 0.3, "expansion": 0.6, "seed": 0.75, "architecture": 0.5}
"""Share of latents found in the other SAE, by the factor that a pair differs in."""

CHANCE = 0.001
KEYS = ("mix", "layer", "expansion", "architecture", "sparsity", "tokens", "init_seed")
LEVELS = {"mix": "mix", "expansion": "expansion", "seed": "init_seed", "architecture": "architecture"}


def pairs(saes: pd.DataFrame) -> list[tuple[str, pd.Series, pd.Series]]:
    """Every pair at sparsity 16 and the largest budget that differs in one factor alone, the narrower SAE first."""
    arms = saes[(saes["sparsity"] == 16) & (saes["tokens"] == saes["tokens"].max())].sort_values("d_sae", kind="stable")
    found = []
    for (_, one), (_, other) in combinations(arms.iterrows(), 2):
        differ = [key for key in KEYS if one[key] != other[key]]
        factor = next((name for name, key in LEVELS.items() if differ == [key]), None)
        if factor:
            found.append((factor, one, other))
    return found


def matching(saes: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The matching tables of these SAEs, by name, with ``factor_effects``."""
    drawn = pairs(saes)
    matches, tops, one_to_one, neighbours = [], [], [], []
    for factor, one, other in drawn:
        place = {"factor": factor, "layer": one["layer"], "site": "resid_post"}
        for a, b in ((one, other), (other, one)):
            ids = {"sae_id": a["sae_id"], "other_sae_id": b["sae_id"]}
            levels = {"level": str(a[LEVELS[factor]]), "other_level": str(b[LEVELS[factor]])}
            ratio = FACTORS[factor] + (0.2 if a["d_sae"] < b["d_sae"] else 0.0) + 0.01 * a["layer"]
            for side, unit, population in (
                *((side, "feature", which) for side in ("encoder", "decoder") for which in ("all", "alive")),
                *((side, "neuron", "all") for side in ("encoder", "decoder")),
            ):
                shown = ratio * (0.8 if side == "encoder" else 1.0) * (1.0 if unit == "feature" else 0.1)
                matches.append(
                    ids | place | levels | {"side": side, "unit": unit, "population": population, "n": a["d_sae"], "n_other": b["d_sae"], "threshold": THRESHOLD,
                                            "match_ratio": shown, "mmcs": 0.3 + shown / 2, "q10": 0.1, "q50": 0.4, "q90": 0.9, "chance_match_ratio": CHANCE, "chance_mmcs": 0.25}
                )  # fmt: skip
            edges = np.round(np.arange(-1, 1, 0.05), 2)
            tops += [
                ids | {"side": side, "unit": "feature", "place": at, "low": low, "high": round(low + 0.05, 2), "count": int(100 * np.exp(-(((low - 0.9 + 0.15 * at) / 0.2) ** 2)))}
                for side in ("encoder", "decoder") for at in (1, 2, 3, 4) for low in edges
            ]  # fmt: skip
            neighbours += [
                {**ids, "latent": n, "other_latent": n, "cosine": 0.99 - 0.07 * n, "matched_one_to_one": n != 5} for n in range(LATENTS)
            ]  # fmt: skip
        for population in ("all", "alive"):
            one_to_one.append(
                {"sae_id": one["sae_id"], "other_sae_id": other["sae_id"], **place, "level": str(one[LEVELS[factor]]), "other_level": str(other[LEVELS[factor]]),
                 "population": population, "n": one["d_sae"], "n_other": other["d_sae"], "threshold": THRESHOLD, "shared_feature_ratio": FACTORS[factor], "greedy_shared_feature_ratio": FACTORS[factor] + 0.01,
                 "shared_both": FACTORS[factor] / 2, "mean_cosine": 0.6, "exact": True, "bound": 0.0, "chance_shared_feature_ratio": CHANCE, "chance_shared_both": 0.0,
                 "folded_shared_feature_ratio": None, "correlation_match_ratio": FACTORS[factor] / 1.5, "correlation_mean": 0.4, "feature_count_difference": 12.0}
            )  # fmt: skip
    ids = list(dict.fromkeys(row["sae_id"] for row in matches))
    layer = saes.set_index("sae_id")["layer"].to_dict()
    return {
        "match_pairs": pd.DataFrame(
            [{"layer": 1, "site": "resid_post", "factor": factor, "possible": 20, "matched": 15, "left_out": 5 * (factor == "seed")} for factor in FACTORS]
        ),
        "matches": pd.DataFrame(matches),
        "top_cosines": pd.DataFrame(tops),
        "one_to_one": pd.DataFrame(one_to_one),
        "splits": pd.DataFrame(
            [
                {"sae_id": one["sae_id"], "other_sae_id": other["sae_id"], "layer": one["layer"], "site": "resid_post", "children": n, "parents": 100 >> n}
                for factor, one, other in drawn if factor == "expansion" for n in range(5)
            ]
        ),
        "feature_neighbours": pd.DataFrame(neighbours),
        "orphans": pd.DataFrame(
            [
                {"sae_id": name, "factor": factor, "status": status, "latents": 50, "mean_density": rate * 2, "median_density": rate, "mean_activation": 1.0, "site": "resid_post"}
                for name in ids for factor in FACTORS for status, rate in (("matched", 0.02), ("orphan", 0.004))
            ]
        ),
        "orphan_features": pd.DataFrame(
            [{"sae_id": name, "factor": "mix", "latent": n, "best_cosine": 0.99 - 0.07 * n, "density": 0.01 / n, "site": "resid_post"} for name in ids for n in range(6, LATENTS)]
        ),
        "coverage": pd.DataFrame(
            [
                {"setting": f"{mix} ×4 topk-k16", "layer": at, "site": "resid_post", "seeds": n, "share": 0.5 + 0.1 * n, "low": 0.45 + 0.1 * n, "high": 0.55 + 0.1 * n,
                 "chance_share": n * CHANCE}
                for mix in ("PRE", "INS") for at in (1, 3) for n in (1, 2, 3)
            ]
        ),
        "layer_matches": pd.DataFrame(
            [
                {"sae_id": f"PRE.L{a:02d}", "other_sae_id": f"PRE.L{b:02d}", "layer": a, "other_layer": b, "site": "resid_post", "setting": "PRE ×4 topk-k16",
                 "match_ratio": 0.9 ** abs(a - b), "mmcs": 0.5, "chance_match_ratio": CHANCE,
                 "alive_match_ratio": 0.8 ** abs(a - b), "alive_mmcs": 0.4, "alive_chance_match_ratio": CHANCE / 2}
                for a in (1, 2, 3) for b in (1, 2, 3) if a != b
            ]
        ),
        "directions_map": pd.DataFrame(
            [{"sae_id": name, "layer": layer[name], "site": "resid_post", "setting": name.split(".")[-1], "latent": n, "x": float(layer[name] + np.cos(n)), "y": float(np.sin(n))} for name in ids[:4] for n in range(LATENTS)]
        ),
        "factor_effects": effects(),
    }  # fmt: skip


def effects() -> pd.DataFrame:
    """What pairs have in common by factor, with intervals; the differences to the mix, the first by rank, are those of the means."""
    rows = [
        {"layer": layer, "site": "resid_post", "measure": measure, "side": "decoder", "population": "alive", "factor": factor, "pairs": 12, "estimate": value, "low": value - 0.05,
         "high": value + 0.05, "chance": CHANCE, "against": "mix", "difference": value - FACTORS["mix"],
         **({"difference_low": None, "difference_high": None} if factor == "mix" else {"difference_low": value - 0.35, "difference_high": value - 0.25}), "rank": rank}
        for layer in (1, 3) for measure in ("match_ratio", "shared_feature_ratio")
        for rank, (factor, value) in enumerate(sorted(FACTORS.items(), key=lambda item: item[1]), 1)
    ]  # fmt: skip
    return pd.DataFrame(rows).astype({"layer": "Int64", "rank": "Int64", "difference_low": float, "difference_high": float})


def features(saes: pd.DataFrame) -> pd.DataFrame:
    """How often and how strongly latents fire on two sets; latent 1 is dense."""
    densities = [0.1, 0.4, *(0.05 / n for n in range(2, LATENTS))]
    rows = [
        {"sae_id": name, "evaluation_set": on, "latent": n, "density": density, "mean_active": 1.0, "max": 4.0} | {f"q{share}": share / 50 for share in range(10, 100, 10)}
        for name in saes["sae_id"] for on in ("prose", "chat") for n, density in enumerate(densities)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def traces(saes: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Two texts per latent; those of latent 2 look like markup."""
    where = {"evaluation_set": "prose", "document": 0}
    contexts = [
        {"sae_id": name, "latent": n, "place": place, "activation": 4.0 - place, "context": n, "position": 5 + place, **where}
        for name in saes["sae_id"]
        for n in range(LATENTS)
        for place in (0, 1)
    ]
    text = [
        {**where, "context": n, "position": 5 + place, "token": 7, "before": "once upon a ", "text": "<b>time</b>" if n == 2 else f"time{n}", "after": "\nthere was"}
        for n in range(LATENTS) for place in (0, 1)
    ]  # fmt: skip
    return {"top_contexts": pd.DataFrame(contexts), "context_text": pd.DataFrame(text)}

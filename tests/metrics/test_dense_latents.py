"""The ids of dense latents, for whoever filters features."""

from __future__ import annotations

import pandas as pd

from sae_pipeline.metrics.latents.dense_latents import dense_latents, filter_sets


def test_ids_lie_strictly_above_each_cut_with_their_density() -> None:
    """Densities 0.81, exactly 0.1, 0.11 and 0.5 against the cuts 0.1, 0.5, 0.8 and 0.95."""
    latents = pd.DataFrame({"latent": [3, 0, 7, 5], "density": [0.81, 0.1, 0.11, 0.5]})
    assert dense_latents(latents) == {
        "cuts": {"0.1": [3, 5, 7], "0.5": [3], "0.8": [3], "0.95": []},
        "density": {"3": 0.81, "5": 0.5, "7": 0.11},
    }


def test_a_study_has_an_entry_for_every_sae_and_set_with_its_layer() -> None:
    """Two SAEs of two layers, one of them on two sets."""
    features = pd.DataFrame(
        {"sae_id": ["a", "a", "b"], "evaluation_set": ["prose", "code", "prose"], "latent": [0, 0, 4], "density": [0.9, 0.0, 0.2]}
    )
    saes = pd.DataFrame({"sae_id": ["b", "a"], "layer": [3, 1], "site": "resid_post"})
    found = filter_sets(features, saes)
    assert [(entry["sae_id"], entry["layer"], entry["evaluation_set"], entry["cuts"]["0.8"]) for entry in found] == [
        ("a", 1, "prose", [0]),
        ("a", 1, "code", []),
        ("b", 3, "prose", []),
    ]

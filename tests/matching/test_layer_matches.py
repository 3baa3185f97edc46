"""The same arm across layers, and its directions in the plane."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from planted import random_sae, sae_of
from scipy import stats

from sae_pipeline.matching.pairs import DeclaredSae
from sae_pipeline.matching.study_tables.directions_map import MOST_LATENTS, map_frame, plane
from sae_pipeline.matching.study_tables.layers import arms_across_layers, layer_frame
from sae_pipeline.matching.study_tables.shelf import MatchableSae, Shelf
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.study import Study, cells


def declared(arms: list[dict[str, Any]], **activations: Any) -> list[DeclaredSae]:
    data: dict[str, Any] = {
        "name": "toy",
        "subject": {"model": "bundled"},
        "sources": {"prose": {"kind": "installed_docs"}},
        "mixes": {"PROSE": {"prose": 1.0}},
        "held_out": {"prose": {"shares": {"prose": 1.0}, "kind": "in_sample"}},
        "activations": {"layers": [0, 1, 2], "tokens": 200_000} | activations,
        "saes": {"expansions": [2], "arms": arms},
    }
    return [DeclaredSae(cell, label) for cell in cells(Study.model_validate(data)) for label in cell.arms]


def shelf(saes: dict[str, tuple[DeclaredSae, InferenceSAE]], dead: tuple[int, ...] = ()) -> Shelf:
    """SAEs of which some latents never fired."""

    def latents(sae: InferenceSAE) -> pd.DataFrame:
        fired = np.array([0 if n in dead else 5 for n in range(sae.d_sae)])
        return pd.DataFrame({"fired": fired, "density": fired / 100, "mean_active": 1.0})

    def kept(sae: InferenceSAE) -> Any:
        return lambda: sae

    return Shelf({name: MatchableSae(sae, kept(weights), latents(weights)) for name, (sae, weights) in saes.items()})


def test_of_each_architecture_the_first_arm_of_its_first_sparsities_is_followed_through_the_layers() -> None:
    arms = [
        {"architecture": "topk", "k": [8, 16, 32], "seeds": [0, 1]},
        {"architecture": "relu", "target_l0": 8},
        {"architecture": "batchtopk", "k": 8, "only": {"layers": [2]}},
    ]
    found = arms_across_layers(declared(arms, site=["resid_post", "mlp_out"]), sparsities=2)
    assert {site for site, _ in found} == {"resid_post", "mlp_out"}
    settings = {setting.split(" ")[2]: [sae.cell.point.layer for sae in saes] for (site, setting), saes in found.items() if site == "mlp_out"}
    assert settings == {"topk-k8-t200k-s0": [0, 1, 2], "topk-k16-t200k-s0": [0, 1, 2], "relu-l8-t200k-s0": [0, 1, 2], "batchtopk-k8-t200k-s0": [2]}


def test_every_two_layers_are_matched_both_ways() -> None:
    """Layers 0 and 1 share the axes 0 and 1, layers 1 and 2 nothing; axis 0 is dead everywhere."""
    saes = declared([{"architecture": "topk", "k": 2}])
    weights = [torch.eye(8)[[0, 1, 2, 3]], torch.eye(8)[[0, 1, 4, 5]], -torch.eye(8)[[0, 1, 4, 5]]]
    on_shelf = shelf({sae.sae_id: (sae, sae_of(rows)) for sae, rows in zip(saes, weights, strict=True)}, dead=(0,))
    frame = layer_frame([saes], on_shelf, threshold=0.7)
    assert sorted(zip(frame["layer"], frame["other_layer"], strict=True)) == [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]
    by_layers = frame.set_index(["layer", "other_layer"])
    for way in ((0, 1), (1, 0)):
        assert by_layers.loc[way, ["match_ratio", "alive_match_ratio"]].tolist() == pytest.approx([0.5, 1 / 3])
        assert by_layers.loc[way, ["mmcs", "alive_mmcs"]].tolist() == pytest.approx([0.5, 1 / 3])
    assert by_layers.loc[(1, 2), "match_ratio"] == 0
    below = stats.beta(3.5, 3.5).cdf((1 + 0.7) / 2)  # of the cosine in eight dimensions, mapped onto the unit interval
    assert by_layers.loc[(0, 1), ["chance_match_ratio", "alive_chance_match_ratio"]].tolist() == pytest.approx([1 - below**4, 1 - below**3])
    assert set(frame["setting"]) == {"PROSE x02 topk-k2-t200k-s0"}


def test_an_sae_without_an_alive_latent_has_no_figures_of_alive_ones() -> None:
    saes = declared([{"architecture": "topk", "k": 2}], layers=[0, 1])
    on_shelf = shelf({sae.sae_id: (sae, sae_of(torch.eye(8)[:2])) for sae in saes}, dead=(0, 1))
    frame = layer_frame([saes], on_shelf, threshold=0.7)
    assert frame["match_ratio"].tolist() == [1, 1]
    assert frame[["alive_match_ratio", "alive_chance_match_ratio"]].isna().all(axis=None)


def test_one_layer_and_no_map_give_empty_typed_tables() -> None:
    empty = layer_frame([declared([{"architecture": "topk", "k": 2}], layers=[1])], shelf({}), threshold=0.7)
    mapped = map_frame([], shelf({}), seed=0)
    assert empty.empty
    assert mapped.empty
    assert empty.dtypes["layer"] == mapped.dtypes["latent"] == np.int64


@pytest.mark.slow
def test_groups_of_directions_lie_apart_in_the_plane_and_the_seed_decides() -> None:
    pytest.importorskip("umap")
    generator = torch.Generator().manual_seed(0)
    directions = torch.cat([torch.randn(30, 16, generator=generator) * 0.1 + centre for centre in (torch.eye(16)[0], torch.eye(16)[5])]).numpy()
    points = plane(directions, seed=3)
    assert points.shape == (60, 2)
    assert np.array_equal(points, plane(directions, seed=3))
    groups = points[:30], points[30:]
    apart = float(np.linalg.norm(groups[0].mean(0) - groups[1].mean(0)))
    assert apart > 2 * max(np.linalg.norm(group - group.mean(0), axis=1).mean() for group in groups)


def test_alive_latents_are_laid_out_up_to_the_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sae_pipeline.matching.study_tables.directions_map.plane", lambda directions, seed: directions[:, :2])
    sae = declared([{"architecture": "topk", "k": 2}], layers=[1])[0]
    for d_sae, dead, expected in ((40, (0, 1, 2), 37), (MOST_LATENTS + 1_000, (), MOST_LATENTS), (12, (), 0)):
        frame = map_frame([sae], shelf({sae.sae_id: (sae, random_sae(d_sae, 4, seed=1))}, dead), seed=0)
        assert len(frame) == expected
        assert frame["latent"].is_unique
        assert not set(dead) & set(frame["latent"])
        assert math.isclose(frame["latent"].max(), d_sae - 1, abs_tol=2) if expected else frame.empty

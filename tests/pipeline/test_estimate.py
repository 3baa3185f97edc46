"""What a study is said to cost before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy

from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.estimate import estimate
from sae_pipeline.store import Home
from sae_pipeline.study import load_study


def test_the_seconds_are_those_of_the_steps_that_budgets_with_a_trunk_take(small_study: SmallStudy, tmp_path: Path) -> None:
    """Of budgets b and 2b with a tenth of decay, the larger takes the 0.9 b steps before the smaller branches off."""

    def seconds(**arm: Any) -> float:
        def edit(data: dict[str, Any]) -> None:
            data["subject"] = {"model": "bundled", "bundled": {"d_model": 64, "n_layers": 2, "n_heads": 2, "vocab_size": 300, "tokens": 2_000}}
            data["corpus"] = {"repeat": True}
            data["saes"]["arms"] = [{"architecture": "topk", "k": 4, "decay_share": 0.1} | arm]

        return estimate(StudyContext.open(load_study(small_study.write(edit)), Home(tmp_path / "home")))["seconds"]

    budget = 512_000_000_000
    nothing = seconds(tokens=256)
    separate, trunk = (seconds(tokens=[budget, 2 * budget], budgets=budgets) - nothing for budgets in ("separate", "trunk"))
    assert trunk / separate == pytest.approx((3 - 0.9) / 3, rel=1e-3)


def test_a_cell_that_is_at_one_of_several_layers_is_told_before_it_is_matched_across_them(small_study: SmallStudy, tmp_path: Path) -> None:
    """At expansion factor 2, the first, one layer is trained; at 4 both are."""

    def notes(matching: dict[str, Any] | None) -> list[str]:
        def edit(data: dict[str, Any]) -> None:
            arm = {"architecture": "topk", "k": 4}
            data["saes"]["arms"] = [arm | {"only": {"layers": [1]}}, arm | {"only": {"layers": [0], "expansions": [4]}}]
            if matching is not None:
                data["matching"] = matching

        found = estimate(StudyContext.open(load_study(small_study.write(edit)), Home(tmp_path / "home")))["notes"]
        return [note for note in found if "across layers" in note]

    assert notes(None) == notes({"layers": {"expansion": 4}}) == []
    assert notes({}) == [
        "nothing is matched across layers: the SAEs of MORE at expansion factor 2, which matching.layers names, are at layer 1 alone, those of the study "
        "at 0, 1; let matching.layers name one that is at several: MORE at 4, LESS at 4"
    ]


def test_the_price_of_a_layout_by_umap_is_told(small_study: SmallStudy, tmp_path: Path) -> None:
    """Two seeds at two layers with 64 latents each are laid out in less than a second, after fifteen in which UMAP is compiled."""

    def cost(umap: bool) -> tuple[int, list[str]]:
        def edit(data: dict[str, Any]) -> None:
            data["subject"] = {"model": "bundled", "bundled": {"d_model": 32, "n_layers": 2, "n_heads": 2, "vocab_size": 300, "tokens": 2_000}}
            data["matching"] = {"umap": umap}

        found = estimate(StudyContext.open(load_study(small_study.write(edit)), Home(tmp_path / "home")))
        return found["seconds"], [note for note in found["notes"] if "umap" in note]

    (without, none), (with_it, [note]) = cost(False), cost(True)
    assert none == []
    assert with_it - without == 16
    assert note == "matching.umap takes about 16 s of one core, 15 of them to compile UMAP, however few the latents"


def test_a_budget_that_reaches_into_what_is_held_back_is_told(small_study: SmallStudy, tmp_path: Path) -> None:
    """An eighth of a small mix sets and measures sparsity: of 8,000 tokens 1,000."""

    def notes(tokens: int) -> list[str]:
        def edit(data: dict[str, Any]) -> None:
            data["activations"]["tokens"] = 8_000
            data["saes"]["arms"] = [{"architecture": "topk", "k": 4, "tokens": tokens}]

        return estimate(StudyContext.open(load_study(small_study.write(edit)), Home(tmp_path / "home")))["notes"]

    assert not [note for note in notes(7_000) if "held back" in note]
    [note] = [note for note in notes(7_001) if "held back" in note]
    assert note.startswith("up to 1,000 of the 8,000 tokens of a mix are held back")
    assert "above 7,000 sees some tokens twice" in note

"""What a study is said to cost before it runs."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy

from sae_pipeline.errors import StorageError
from sae_pipeline.stages import activations, reachable, reports
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.estimate import check_budget, estimate
from sae_pipeline.store import Artifact, Home, Store
from sae_pipeline.store.budget import stored_bytes
from sae_pipeline.store.shared import SharedStore
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


@pytest.fixture
def with_activations(small_study: SmallStudy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[StudyContext, Store, int]:
    """A study of which the home and a shared store may hold things, its home's store, and the bytes that it takes from nothing."""
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv("SAE_STORE", (tmp_path / "shared").as_uri())
    ctx = StudyContext.open(load_study(small_study.write(lambda data: data["subject"].update(model="bundled"))), Home(tmp_path / "home"))
    return ctx, ctx.store, estimate(ctx)["bytes"]


def stored(store: Store, stage: str, fingerprint: str, size: int) -> Artifact:
    with store.draft(stage, fingerprint, {}) as draft:
        (draft.path / "data.bin").write_bytes(bytes(size))
        return draft.publish({})


def left(ctx: StudyContext, *artifacts: Artifact, monkeypatch: pytest.MonkeyPatch) -> float:
    """Bytes that the refusal says are still needed, the study having reached these artifacts."""
    monkeypatch.setattr(reachable, "artifacts", lambda ctx: [("", artifact) for artifact in artifacts])
    monkeypatch.setenv("SAE_DISK_BUDGET", "1")
    with pytest.raises(StorageError) as refused:
        check_budget(ctx)
    [needed] = re.findall(r"where about ([\d.e-]+) GB are needed", str(refused.value))
    return float(needed) * 1e9


def test_only_activations_and_weights_that_lie_in_the_home_need_no_room_any_more(
    with_activations: tuple[StudyContext, Store, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing else is part of the estimate; what only the shared store has must be fetched, and what may go for room counts as free already."""
    ctx, store, whole = with_activations
    elsewhere = Store(tmp_path / "other" / "store", SharedStore((tmp_path / "shared").as_uri()))
    part = whole // 4
    report = stored(store, reports.STAGE, "page", part)
    stored(elsewhere, activations.STAGE, "far", part)
    store.shared.refresh()
    far = store.find(activations.STAGE, "far")
    here = stored(store, activations.STAGE, "here", part)
    assert left(ctx, monkeypatch=monkeypatch) == pytest.approx(whole, rel=0.01)
    assert left(ctx, report, far, monkeypatch=monkeypatch) == pytest.approx(whole, rel=0.01)
    assert left(ctx, report, far, here, monkeypatch=monkeypatch) == pytest.approx(whole - part, rel=0.01)
    two_days_ago = time.time() - 48 * 3_600
    os.utime(here.folder, (two_days_ago, two_days_ago))
    store.shared.refresh()
    assert left(ctx, here, monkeypatch=monkeypatch) == pytest.approx(whole, rel=0.01)


def test_a_study_that_fits_only_if_a_copy_were_counted_twice_is_refused(
    with_activations: tuple[StudyContext, Store, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ctx, store, whole = with_activations
    copy = stored(store, activations.STAGE, "copy", whole // 2)
    two_days_ago = time.time() - 48 * 3_600
    os.utime(copy.folder, (two_days_ago, two_days_ago))
    monkeypatch.setattr(reachable, "artifacts", lambda ctx: [("", copy)])
    store.shared.refresh()
    beside = stored_bytes(store.root) - stored_bytes(copy.folder)
    monkeypatch.setenv("SAE_DISK_BUDGET", str(beside + whole))
    check_budget(ctx)
    monkeypatch.setenv("SAE_DISK_BUDGET", str(beside + whole - 1))
    with pytest.raises(StorageError, match="expected room for the study 'toy'"):
        check_budget(ctx)

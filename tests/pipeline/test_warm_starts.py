"""Warm starts in a study: an arm follows the weights it begins with, and a folder that does not fit is refused at once."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small_study import SmallStudy

from sae_pipeline.errors import StudyError
from sae_pipeline.saes.inference import InferenceSAE
from sae_pipeline.stages import saes, slices
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.preflight import preflight
from sae_pipeline.stages.warm_starts import identified, with_contents
from sae_pipeline.store import Home
from sae_pipeline.study import Study, cells, load_study

WIDTH = 32


def given_sae(folder: Path, d_model: int = WIDTH, seed: int = 0) -> InferenceSAE:
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(2 * d_model, d_model, generator=draw)
    sae = InferenceSAE(rows.T.contiguous(), torch.zeros(2 * d_model), rows, torch.zeros(d_model), "topk", k=4)
    folder.mkdir(parents=True, exist_ok=True)
    sae.save(folder)
    return sae


@pytest.fixture
def load(small_study: SmallStudy):
    """Loads the small study with further keys in its first group of arms."""

    def loaded(**changes: Any) -> Study:
        return load_study(small_study.write(lambda data: data["saes"]["arms"][0].update(seeds=[0], **changes)))

    return loaded


def contents(study: Study) -> set[str | None]:
    return {arm.warm_start_content for cell in cells(study) for arm in with_contents(cell).arms.values()}


def test_a_path_is_relative_to_the_study_and_the_identity_is_that_of_the_weights(load, tmp_path):
    given_sae(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "inner/b")
    one, other = load(warm_start="a"), load(warm_start="inner/b")
    assert one.saes.arms[0].warm_start == str(tmp_path / "a")
    assert contents(one) == contents(other)
    assert None not in contents(one)
    assert slices.saes(one, "MORE") == slices.saes(other, "MORE")
    (first, *_), (second, *_) = (list(with_contents(next(cells(study))).arms.values()) for study in (one, other))
    assert first.identity() == second.identity()


def test_other_weights_in_the_same_folder_are_another_sae(load, tmp_path):
    given_sae(tmp_path / "a")
    study = load(warm_start="a")
    before, recipe = contents(study), slices.saes(study, "MORE")
    given_sae(tmp_path / "a", seed=1)
    assert contents(study) != before
    assert slices.saes(study, "MORE") != recipe


def test_an_arm_without_a_warm_start_has_no_content(load):
    assert contents(load()) == {None}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (None, "expected the folder of an SAE, found none at .*/missing; correct the path, or write one with"),
        (WIDTH + 1, r"MORE\.L00\.x02\.topk-.*: warm_start: expected an SAE of width 32 with at most 64 latents, found width 33 and 66 latents"),
    ],
)
def test_an_sae_that_is_missing_or_does_not_fit_is_refused_before_anything_runs(load, tmp_path, given, words):
    if given:
        given_sae(tmp_path / "missing", d_model=given)
    ctx = StudyContext.open(load(warm_start="missing"), Home(tmp_path / "home"))
    with pytest.raises(StudyError, match=words):
        preflight(ctx)


def test_arms_that_begin_with_copies_of_one_sae_are_refused(load, tmp_path):
    given_sae(tmp_path / "a")
    given_sae(tmp_path / "b")
    cell = next(cells(load(warm_start="a")))
    label, arm = next(iter(cell.arms.items()))
    doubled = replace(cell, arms={**cell.arms, f"{label}-2": replace(arm, warm_start=str(tmp_path / "b"))})
    with pytest.raises(StudyError, match="begin with equal weights"):
        with_contents(doubled)


def test_what_was_trained_from_a_folder_is_found_after_the_folder_is_gone(load, tmp_path):
    home = Home(tmp_path / "home")
    given_sae(tmp_path / "a")
    ctx = StudyContext.open(load(warm_start="a"), home)
    cell = next(cells(ctx.study))
    preflight(ctx)
    known = identified(home, cell)
    assert known == with_contents(cell)
    shutil.rmtree(tmp_path / "a")
    assert identified(home, cell) == known
    assert identified(Home(tmp_path / "another"), cell).arms == {}
    with pytest.raises(StudyError, match="expected the folder of an SAE"):
        preflight(ctx)


def test_a_folder_that_is_gone_and_was_never_seen_stops_no_look_at_the_store(load, tmp_path, monkeypatch):
    """Cleaning up, lineage and state ask for what there is; only a run needs the given SAE."""
    ctx = StudyContext.open(load(warm_start="nowhere"), Home(tmp_path / "home"))
    monkeypatch.setattr(saes.activations, "find", lambda *_: SimpleNamespace(fingerprint="f", summary={"batch_size": 32}))
    point = ctx.study.hook_points[0]
    assert saes.find(ctx, "MORE", point, 2) is None
    assert saes.partial(ctx, "MORE", point, 2).saes == {}


def test_a_study_with_a_missing_sae_still_loads_and_its_recipe_says_so(load, tmp_path):
    study = load(warm_start="nowhere")
    assert slices.saes(study, "MORE")["arms"][0]["warm_start"] == "missing"

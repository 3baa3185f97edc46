"""Cleaning up after something was lost or cut short: what rests on it stays, for it is used again when that has been made again."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import answer
from small_study import SmallStudy

from sae_pipeline.compute import Compute
from sae_pipeline.stages import activations, corpora, derived, evaluation, saes, subject
from sae_pipeline.stages.cleaning import reclaim, reclaim_shared
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.stages.sharing import upload_finished
from sae_pipeline.store import Artifact, Home
from sae_pipeline.store.shared import SharedStore
from sae_pipeline.study import Study

LANES = ("MORE", "held_out/stories")


def opened(data: dict[str, Any], root: Path) -> StudyContext:
    home = Home(root)
    return StudyContext(Study.model_validate(data), home, Compute("cpu", None, home.locks))


def results(ctx: StudyContext) -> Iterator[Artifact]:
    """What a study of one cell is made of up to its metrics, computed where it is missing."""
    [point] = ctx.study.hook_points
    yield subject.prepare(ctx).artifact
    for lane in LANES:
        yield corpora.build(ctx, lane)
        yield from activations.harvest(ctx, lane, [point]).values()
    yield from saes.train(ctx, "MORE", point, 2).saes.values()
    yield evaluation.measure_baseline(ctx, "stories", point)
    evaluated = evaluation.evaluate(ctx, "MORE", point, 2)
    yield evaluated.artifact


def put(ctx: StudyContext, inputs: dict[str, Any]) -> None:
    """An artifact that no study needs."""
    with ctx.store.draft("toy", "0" * 24, inputs) as draft:
        assert not isinstance(draft, Artifact)
        draft.publish({})


@pytest.fixture(scope="module")
def data(small_study_data: dict[str, Any]) -> dict[str, Any]:
    """One SAE on one mix, and one evaluation set."""
    small = copy.deepcopy(small_study_data)
    small["mixes"].pop("LESS")
    small["held_out"].pop("recipes")
    small["activations"]["layers"] = [1]
    small["saes"] |= {"expansions": [2], "arms": [{"architecture": "topk", "k": 4}]}
    return small


@pytest.fixture(scope="module")
def finished(data: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home in which the study has been evaluated."""
    root = tmp_path_factory.mktemp("finished")
    assert not any(artifact.reused for artifact in results(opened(data, root)))
    return root


@pytest.fixture
def ctx(data: dict[str, Any], finished: Path, tmp_path: Path) -> StudyContext:
    """The study on a copy of that home."""
    shutil.copytree(finished, tmp_path / "home")
    return opened(data, tmp_path / "home")


@pytest.mark.parametrize("stage", ["subject", "corpus", "activations", "spelling", "baselines", "saes"])
def test_what_rests_on_a_missing_artifact_stays_and_is_used_again(ctx: StudyContext, stage: str) -> None:
    shutil.rmtree(ctx.store.root / stage)
    put(ctx, {})
    assert [item.stage for item in reclaim([ctx], dry_run=True)] == ["toy"]
    assert [item.stage for item in reclaim([ctx])] == ["toy"]
    assert {artifact.stage for artifact in results(ctx) if not artifact.reused} == {stage} - {"spelling"}  # of which the baseline takes care


def test_what_rests_on_a_damaged_artifact_stays(ctx: StudyContext) -> None:
    for file in ctx.store.root.glob("corpus/*/*.safetensors"):
        file.write_bytes(b"")
    assert {item.stage for item in reclaim([ctx])} <= {"quarantine"}
    assert {artifact.stage for artifact in results(ctx) if not artifact.reused} == {"corpus"}


def test_a_study_that_never_ran_keeps_nothing_of_another(ctx: StudyContext, data: dict[str, Any]) -> None:
    other = opened(data | {"corpus": {"seed": 7}}, ctx.home.root)
    gone = {item.stage for item in reclaim([other])}
    assert gone == {"corpus", "activations", "saes", "baselines", "evaluations", "metrics"}
    assert {path.parent.parent.name for path in ctx.store.root.glob("*/*/manifest.json")} == {"subject", "spelling"}


def test_in_a_shared_store_it_stays_as_well(ctx: StudyContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shared").mkdir()
    monkeypatch.setenv("SAE_STORE", (tmp_path / "shared").as_uri())
    monkeypatch.setenv("SAE_LEASE_SECONDS", "1")
    upload_finished(ctx)
    put(ctx, {})
    shared = SharedStore.from_environment()
    assert shared is not None
    shared.refresh()
    for stage, fingerprint in [address for address in shared.listing() if address[0] == "corpus"]:
        found = shared.ask(stage, fingerprint)
        assert found is not None
        shared.condemn(found)
        shutil.rmtree(ctx.store.folder(stage, fingerprint))
    assert {item.stage for item in reclaim_shared([ctx], recent=True)} - {"heartbeats"} == {"toy"}
    for stage in ("activations", "saes", "evaluations"):
        shutil.rmtree(ctx.store.root / stage)
    assert {artifact.stage for artifact in results(ctx) if not artifact.reused} == {"corpus"}


class Cut(Exception):
    """Stands for whatever ends a process half way."""


@pytest.mark.parametrize(
    ("engine", "lost"),
    [
        ("sae_pipeline.corpora.mixing.build_corpus", "corpus"),
        ("sae_pipeline.activations.harvest.harvest", "activations"),
        ("sae_pipeline.corpora.generation.generate", "generated"),
        ("sae_pipeline.saes.trainer.train_arms", "saes"),
    ],
)
def test_what_was_cut_short_stays_for_the_study_that_goes_on_from_it(
    ctx: StudyContext, data: dict[str, Any], engine: str, lost: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut(*_: Any, **__: Any) -> None:
        raise Cut

    monkeypatch.setattr(engine, cut)
    named = opened(data | {"sources": data["sources"] | {"own": {"kind": "self_generated", "tokens": 2_000}}}, ctx.home.root)
    shutil.rmtree(ctx.store.root / lost, ignore_errors=True)
    with pytest.raises(Cut):
        derived.make(named, "own") if lost == "generated" else list(results(named))
    drafts = [folder for folder in ctx.store.root.glob(".partial/*/*") if folder.is_dir()]
    assert {folder.parent.name for folder in drafts} == {lost}
    assert reclaim([named]) == []
    assert all(folder.is_dir() for folder in drafts)
    other = opened(data | {"corpus": {"seed": 7}}, ctx.home.root)
    assert lost in {item.stage for item in reclaim([other])}
    assert not any(folder.is_dir() for folder in drafts)


@pytest.mark.slow
def test_a_study_that_lacks_nothing_keeps_nothing_that_is_cut_off(data: dict[str, Any], tmp_path: Path) -> None:
    home, study = tmp_path / "home", SmallStudy(tmp_path / "toy.yaml", data).write()
    answer(home, "run", study, "--json")
    put(opened(data, home), {"corpus": "f" * 24})
    promised = answer(home, "gc", study, "--dry-run", "--json")["removed"]
    assert [item["stage"] for item in promised] == ["toy"]
    shutil.rmtree(home / "store" / "corpus")
    assert answer(home, "gc", study, "--json")["removed"] == []
    assert answer(home, "run", study, "--json")["computed_by_asset"] == {"toy/MORE/corpus": 1, "toy/held_out/stories/corpus": 1}
    assert answer(home, "gc", study, "--json")["removed"] == promised

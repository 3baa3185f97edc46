"""A cell of which one arm diverges keeps the others, and memory for one arm at a time changes nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy

from sae_pipeline.errors import TrainingError
from sae_pipeline.stages import activations, corpora, saes, subject
from sae_pipeline.stages.cleaning import reclaim
from sae_pipeline.stages.context import StudyContext
from sae_pipeline.store import Home
from sae_pipeline.study import load_study

TRUNK = {"architecture": "topk", "k": 4, "tokens": [2_048, 6_144], "budgets": "trunk"}
STEEP = {"architecture": "relu", "target_l0": 4, "learning_rate": 1e6}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """One home for all tests of this file: activations are harvested once."""
    return Home(tmp_path_factory.mktemp("home"))


def opened(study: SmallStudy, home: Home, arms: list[dict[str, Any]], **compute: Any) -> StudyContext:
    """A study of one cell with these arms, on a home where its activations are cached."""

    def edit(data: dict[str, Any]) -> None:
        data["mixes"] = {"MORE": data["mixes"]["MORE"]}
        data["activations"]["layers"] = [1]
        data["saes"] |= {"expansions": [2], "arms": arms, "monitor_every": 10}
        data["compute"] |= compute

    ctx = StudyContext.open(load_study(study.write(edit)), home)
    subject.prepare(ctx)
    corpora.build(ctx, "MORE")
    activations.harvest(ctx, "MORE", ctx.study.hook_points)
    return ctx


def train(ctx: StudyContext) -> saes.TrainedCell:
    return saes.train(ctx, "MORE", ctx.study.hook_points[0], 2)


def published(home: Home) -> set[Path]:
    return set((home.root / "store/saes").glob("*"))


def test_the_arms_beside_a_diverged_one_are_published(small_study: SmallStudy, home: Home) -> None:
    ctx = opened(small_study, home, [STEEP, {"architecture": "topk", "k": 4, "seeds": [0, 1]}, STEEP | {"data_seed": 3}])
    before = published(home)
    with pytest.raises(TrainingError, match=r"MORE L01 x02: .* found 2 of 4 arms diverged: .*lower learning_rate") as failure:
        train(ctx)
    assert "relu-l4-t6144-s0 has loss" in str(failure.value)
    assert "relu-l4-t6144-s0-2 has loss" in str(failure.value)
    assert len(published(home) - before) == 4
    found = saes.find(ctx, "MORE", ctx.study.hook_points[0], 2)
    assert found is not None
    assert sorted(found.saes) == ["topk-k4-t6144-s0", "topk-k4-t6144-s1"]
    assert sorted(found.diverged) == ["relu-l4-t6144-s0", "relu-l4-t6144-s0-2"]


def test_a_diverged_arm_is_told_again_and_not_trained_again(small_study: SmallStudy, home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    ctx = opened(small_study, home, [STEEP | {"seeds": [5]}, {"architecture": "topk", "k": 4}])
    with pytest.raises(TrainingError):
        train(ctx)
    monkeypatch.setattr("sae_pipeline.saes.trainer.train_arms", lambda *_, **__: pytest.fail("trained again"))
    cell = train(ctx)
    assert list(cell.saes) == ["topk-k4-t6144-s0"]
    [row] = saes.diverged_rows(cell)
    assert (row["sae_id"], row["steps"], row["learning_rate"]) == ("MORE.L01.x02.relu-l4-t6144-s5", 24, 1e6)
    assert 1 <= row["step"] <= 24
    [record] = cell.diverged.values()
    assert list(record.manifest["files"]) == ["divergence.json"]


def test_cleaning_keeps_what_a_partly_trained_cell_has(small_study: SmallStudy, home: Home) -> None:
    """Finished SAEs beside a diverged one, and beside one whose training was cut short, with its checkpoint."""
    arms = [STEEP | {"seeds": [6]}, {"architecture": "topk", "k": 4, "seeds": [6, 7]}]
    with pytest.raises(TrainingError):
        train(opened(small_study, home, arms))
    more = opened(small_study, home, [*arms, {"architecture": "batchtopk", "k": 4, "seeds": [6]}])
    point = more.study.hook_points[0]
    cut_short = home.root / "store/.partial/saes" / saes.expected(more, "MORE", point, 2)[1]["batchtopk-k4-t6144-s6"]
    cut_short.mkdir(parents=True)
    (cut_short / "checkpoint.safetensors").write_bytes(b"half way")
    assert saes.find(more, "MORE", point, 2) is None
    kept = {path.name for path in (*published(home), cut_short) if path.name in saes.expected(more, "MORE", point, 2)[1].values()}
    assert len(kept) == 4
    assert not kept & {gone.fingerprint for gone in reclaim([more], dry_run=True)}


def test_after_the_arm_was_corrected_it_alone_is_trained(small_study: SmallStudy, home: Home) -> None:
    kept = {"architecture": "topk", "k": 4, "seeds": [0, 1]}
    with pytest.raises(TrainingError):
        train(opened(small_study, home, [STEEP | {"seeds": [8]}, kept]))
    cell = train(opened(small_study, home, [STEEP | {"seeds": [8], "learning_rate": 1e-3}, kept]))
    assert {label: sae.reused for label, sae in cell.saes.items()} == {"relu-l4-t6144-s8": False, "topk-k4-t6144-s0": True, "topk-k4-t6144-s1": True}


def test_memory_for_one_arm_at_a_time_gives_the_same_saes(small_study: SmallStudy, home: Home, tmp_path: Path) -> None:
    arms = [TRUNK, {"architecture": "jumprelu", "target_l0": 4}]
    together = train(opened(small_study, home, arms))
    other = Home(tmp_path / "other")
    split = train(opened(small_study, other, arms, memory_gib=1e-6))
    assert {label: sae.content for label, sae in split.saes.items()} == {label: sae.content for label, sae in together.saes.items()}
    shared = {label: sae.summary["trunk_steps"] for label, sae in together.saes.items()}
    assert shared == {"topk-k4-t2048-s0": 6, "topk-k4-t6144-s0": 0, "jumprelu-l4-t6144-s0": 0}  # 8 steps, of which the last 2 fall


def test_how_fast_training_went_is_beside_the_content(small_study: SmallStudy, home: Home, tmp_path: Path) -> None:
    arms = [{"architecture": "batchtopk", "k": 4}]
    one = train(opened(small_study, home, arms)).saes["batchtopk-k4-t6144-s0"]
    two = train(opened(small_study, Home(tmp_path / "again"), arms)).saes["batchtopk-k4-t6144-s0"]
    rows = [json.loads(line) for line in one.file("monitoring.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [10, 20, 24]
    assert one.file("monitoring.jsonl").read_bytes() != two.file("monitoring.jsonl").read_bytes()
    assert one.content == two.content

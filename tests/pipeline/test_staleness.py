"""A rerun recomputes what an edit made stale and nothing else, counted by what was really computed.

Each test starts from the same finished study: the edit is run and counted, then taken back, which must cost nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from small_study import SmallStudy
from typer.testing import CliRunner

from sae_pipeline.cli import app
from sae_pipeline.stages import slices

pytestmark = pytest.mark.slow

Edit = Callable[[dict[str, Any]], Any]
CELLS = 2 * 2 * 2
TEXT = {"text_tables": 1}
CONCLUSIONS = {"metric_tables": 1, "findings": 1, "comparison_report": 1}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_study_data: dict[str, Any]) -> SmallStudy:
    """The small study, run once."""
    folder = tmp_path_factory.mktemp("staleness")
    study = SmallStudy(folder / "toy.yaml", small_study_data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SAE_HOME", str(folder / "home"))
        first = run(study)
        assert first["failed"] == 0
        assert first["computed_by_asset"] == {
            "subject_model": 1,
            **{f"held_out/{s}/corpus": 1 for s in ("stories", "recipes")},
            **{f"held_out/{s}/activations": 2 for s in ("stories", "recipes")},
            **{f"held_out/{s}/baseline": 2 for s in ("stories", "recipes")},
            **{name: n for mix in ("MORE", "LESS") for name, n in lane(mix, corpus=1, activations=2, saes=8, metrics=4 + 16, scorecard=2).items()},
            "text_tables": 1,
            **CONCLUSIONS,
        }
    return study


@pytest.fixture(autouse=True)
def _home(finished: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SAE_HOME", str(finished.path.parent / "home"))


def run(study: SmallStudy, edit: Edit | None = None) -> dict[str, Any]:
    """``sae-pipeline run --json`` on the edited study; asset names without the study's prefix."""
    result = CliRunner().invoke(app, ["run", study.write(edit), "--json"])
    assert result.exit_code in (0, 1), result.output
    answer = json.loads(result.stdout.strip().splitlines()[-1])
    answer["computed_by_asset"] = {name.removeprefix("toy/"): n for name, n in answer["computed_by_asset"].items()}
    return answer


def lane(mix: str, **stages: int) -> dict[str, int]:
    return {f"{mix}/{stage}": n for stage, n in stages.items()}


def taken_back(study: SmallStudy) -> None:
    """The change undone: everything is found again, and after that nothing is even launched."""
    assert run(study)["computed"] == 0
    again = run(study)
    assert (again["launched"], again["computed"], again["failed"]) == (0, 0, 0)


def test_a_second_run_launches_nothing(finished: SmallStudy) -> None:
    again = run(finished)
    assert (again["launched"], again["computed"], again["reused"], again["failed"]) == (0, 0, 0, 0)
    assert Path(again["report"]).is_file()
    assert Path(again["warehouse"]).is_file()


def test_a_plan_tells_an_update_of_the_program_from_an_edit_of_the_study(finished: SmallStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    def reasons(edit: Edit | None = None) -> dict[str, str]:
        result = CliRunner().invoke(app, ["plan", finished.write(edit), "--json"])
        assert result.exit_code == 0, result.output
        stale = json.loads(result.stdout.strip().splitlines()[-1])["stale"]
        return {item["asset"].removeprefix("toy/"): item["reason"] for item in stale}

    now = slices.VERSIONS["report"]
    edited = {"comparison_report": "its part of the study file changed"}
    assert reasons() == {}
    assert reasons(lambda data: data.update(description="Another.")) == edited
    monkeypatch.setitem(slices.VERSIONS, "report", now + 1)
    assert reasons() == {"comparison_report": f"the program's way of making its report changed (was version {now}, is {now + 1})"}
    assert reasons(lambda data: data.update(description="Another.")) == edited


def test_new_shares_of_one_mix_touch_only_its_lane_the_tables_and_the_report(finished: SmallStudy) -> None:
    changed = run(finished, lambda d: d["mixes"].update(MORE={"stories": 0.5, "recipes": 0.5}))
    assert changed["computed_by_asset"] == lane("MORE", corpus=1, activations=2, saes=8, metrics=4 + 16, scorecard=2) | TEXT | CONCLUSIONS
    taken_back(finished)


def test_a_third_expansion_computes_only_the_new_cells(finished: SmallStudy) -> None:
    changed = run(finished, lambda d: d["saes"].update(expansions=[2, 4, 3]))
    new = {name: n for mix in ("MORE", "LESS") for name, n in lane(mix, saes=4, metrics=2 + 8, scorecard=2).items()}
    assert changed["computed_by_asset"] == new | CONCLUSIONS
    taken_back(finished)


def test_a_third_seed_trains_only_the_new_arms(finished: SmallStudy) -> None:
    changed = run(finished, lambda d: d["saes"]["arms"][0].update(seeds=[0, 1, 2]))
    new = {name: n for mix in ("MORE", "LESS") for name, n in lane(mix, saes=4, metrics=4 + 8, scorecard=2).items()}
    assert changed["computed_by_asset"] == new | CONCLUSIONS
    taken_back(finished)


def test_another_learning_rate_recomputes_no_corpus_and_no_activations(finished: SmallStudy) -> None:
    changed = run(finished, lambda d: d["saes"]["defaults"].update(learning_rate=0.002))
    assert (
        changed["computed_by_asset"]
        == {name: n for mix in ("MORE", "LESS") for name, n in lane(mix, saes=8, metrics=4 + 16, scorecard=2).items()} | CONCLUSIONS
    )
    taken_back(finished)


def test_another_held_out_set_trains_nothing(finished: SmallStudy) -> None:
    both = {"shares": {"stories": 0.5, "recipes": 0.5}, "kind": "in_sample", "tokens": 2_000}
    changed = run(finished, lambda d: d["held_out"].update(both=both))
    new = {name: n for mix in ("MORE", "LESS") for name, n in lane(mix, metrics=4 + 8, scorecard=2).items()}
    assert changed["computed_by_asset"] == new | lane("held_out/both", corpus=1, activations=2, baseline=2) | TEXT | CONCLUSIONS
    taken_back(finished)


def test_a_recipe_that_gives_the_same_text_stops_at_the_corpora_and_what_lists_them(finished: SmallStudy) -> None:
    changed = run(finished, lambda d: d["corpus"].update(repeat=True) if "corpus" in d else d.update(corpus={"repeat": True}))
    assert changed["computed_by_asset"] == {f"{name}/corpus": 1 for name in ("MORE", "LESS", "held_out/stories", "held_out/recipes")} | CONCLUSIONS
    taken_back(finished)


def test_another_rubric_name_rejudges_without_evaluating(finished: SmallStudy, tmp_path: Path) -> None:
    import sae_pipeline.analysis.health.rubric_files as rubric_files

    own = tmp_path / "own.yaml"
    own.write_text(rubric_files.rubric_path("house.v1").read_text().replace("house.v1", "own.v1"))
    changed = run(finished, lambda d: d["analysis"].update(rubrics=[str(own)]))
    assert not any(name.endswith(("/saes", "/metrics", "/corpus")) for name in changed["computed_by_asset"])
    assert changed["computed_by_asset"]["MORE/scorecard"] == 2
    taken_back(finished)


def test_another_description_rebuilds_only_the_report(finished: SmallStudy) -> None:
    assert run(finished, lambda d: d.update(description="said differently"))["computed_by_asset"] == {"comparison_report": 1}
    taken_back(finished)


def test_new_text_in_a_source_file_makes_its_corpora_stale(finished: SmallStudy, tmp_path: Path) -> None:
    # The same bytes under another name: nothing new. Then a changed file: everything that reads it.
    source = Path(finished.data["sources"]["stories"]["paths"][0])
    copy = tmp_path / "copy.jsonl"
    copy.write_bytes(source.read_bytes())
    assert run(finished, lambda d: d["sources"]["stories"].update(paths=[str(copy)]))["computed"] == 0
    copy.write_text("".join(reversed(source.read_text().splitlines(keepends=True))))
    changed = run(finished, lambda d: d["sources"]["stories"].update(paths=[str(copy)]))["computed_by_asset"]
    assert changed["MORE/corpus"] == changed["held_out/stories/corpus"] == 1
    assert "held_out/recipes/corpus" not in changed
    taken_back(finished)

"""Studies made from others: what is written loads as what it was, presets and paths included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sae_pipeline.study import Study, cells, load_study
from sae_pipeline.study.fragments import NAME_LENGTH, as_yaml, derived_name, extended

STUDIES = sorted((Path(__file__).resolve().parents[2] / "studies").glob("*.yaml"))


def everything(study: Study) -> dict[str, Any]:
    return study.model_dump(mode="json")


def arms_of(study: Study) -> dict[str, Any]:
    return {here.sae_id(label): arm for here in cells(study) for label, arm in here.arms.items()}


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_every_study_of_the_repository_is_written_as_what_it_is(path: Path, tmp_path: Path) -> None:
    """Also from another folder: its paths have become absolute."""
    study = load_study(path)
    (tmp_path / "copy.yaml").write_text(as_yaml(study, ["a comment", "and another"]))
    again = load_study(tmp_path / "copy.yaml")
    assert everything(again) == everything(study)
    assert arms_of(again) == arms_of(study)


def test_a_preset_is_written_out_once(tmp_path: Path) -> None:
    """Presets and adjustments are values by then; writing them again would apply them twice."""
    (tmp_path / "study.yaml").write_text(
        "name: preset\nsubject: {model: bundled}\nsources: {prose: {kind: installed_docs}}\nmixes: {PRE: {prose: 1.0}}\n"
        "held_out: {prose: {shares: {prose: 1.0}, kind: in_sample}}\nactivations: {layers: [0], tokens: 400000}\n"
        "saes: {defaults: {preset: s4.general, adjust: s1.dataset_small, tokens: 100000}, arms: [{architecture: topk}]}\n"
    )
    study = load_study(tmp_path / "study.yaml")
    (tmp_path / "copy.yaml").write_text(as_yaml(study))
    assert "preset:" not in (tmp_path / "copy.yaml").read_text()
    assert everything(load_study(tmp_path / "copy.yaml")) == everything(study)


def test_old_groups_keep_to_the_mixes_and_widths_that_they_had(tmp_path: Path) -> None:
    small = load_study(next(path for path in STUDIES if path.stem == "small"))
    group = {"architecture": "topk", "k": 4, "only": {"mixes": ["NEW"], "layers": [1], "sites": ["resid_post"], "expansions": [2]}}
    wider = extended(small, "wider", "made up", [group], mixes={"NEW": {"prose": 1.0}}, expansions=[2])
    before, after = arms_of(small), arms_of(wider)
    assert {sae_id: after[sae_id] for sae_id in before} == before
    assert set(after) - set(before) == {"NEW.L01.x02.topk-k4-t30k-s0"}
    assert (wider.name, wider.description) == ("wider", "made up")


def test_a_derived_name_fits_and_is_not_the_name_of_another_study() -> None:
    assert derived_name("quickstart", "proposed") == "quickstart_proposed"
    long = [derived_name("a" * NAME_LENGTH, "proposed"), derived_name("a" * (NAME_LENGTH - 1) + "b", "proposed")]
    assert {len(name) for name in long} == {NAME_LENGTH}
    assert len({*long, "a" * NAME_LENGTH}) == 3

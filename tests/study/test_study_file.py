"""The study file: what is accepted, what it multiplies out to, and what every mistake is told."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest

from sae_pipeline.errors import StudyError
from sae_pipeline.study import cells, load_study
from sae_pipeline.study.text_sections import Chat, Source, Window

GOOD = """\
name: example
subject: {model: bundled}
sources:
  prose: {kind: installed_docs}
  instructions: {kind: installed_instructions}
mixes:
  PRE: {prose: 0.7, instructions: 0.3}
held_out:
  prose: {shares: {prose: 1.0}, kind: in_sample}
activations: {layers: [1, 3], tokens: 200000}
saes:
  expansions: [4, 8]
  arms:
    - {architecture: topk, k: 16, seeds: [0, 1]}
    - {architecture: relu, target_l0: 16, only: {expansions: [8]}}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "study.yaml"
    path.write_text(text)
    return path


def test_arms_multiply_out_per_cell(tmp_path: Path) -> None:
    found = {(c.point.layer, c.expansion): list(c.arms) for c in cells(load_study(write(tmp_path, GOOD)))}
    topk = ["topk-k16-t200k-s0", "topk-k16-t200k-s1"]
    assert found == {(1, 4): topk, (1, 8): [*topk, "relu-l16-t200k-s0"], (3, 4): topk, (3, 8): [*topk, "relu-l16-t200k-s0"]}


def test_arms_that_differ_outside_the_label_get_numbers(tmp_path: Path) -> None:
    text = GOOD.replace("    - {architecture: relu", "    - {architecture: topk, k: 16, learning_rate: 0.01}\n    - {architecture: relu")
    assert "topk-k16-t200k-s0-2" in next(iter(cells(load_study(write(tmp_path, text))))).arms


def test_every_shipped_study_loads() -> None:
    studies = sorted(Path("studies").glob("*.yaml"))
    assert studies
    for path in studies:
        assert load_study(path).name == path.stem


@pytest.mark.parametrize(
    ("written", "instead", "said"),
    [
        ("instructions: 0.3}", "letters: 0.3}", "7: mixes.PRE names the source 'letters', which is not declared"),
        ("instructions: 0.3}", "instructions: 0.4}", "7: mixes.PRE: token shares must sum to 1"),
        ("{shares: {prose: 1.0}", "{shares: {letters: 1.0}", "9: held_out.prose.shares names the source 'letters'"),
        ("only: {expansions: [8]}", "only: {layers: [2]}", "15: saes.arms[1].only.layers names 2"),
        ("target_l0: 16,", "target_l0: 16, tokens: 300000,", "15: saes.arms[1] asks for 300000 training tokens"),
        ("tokens: 200000}\n", "tokens: 200000}\nevaluation: {window: 1}\n", "11: evaluation.window counts from 0"),
        ("tokens: 200000}\n", "tokens: 200000}\nmatching:\n  layers: {mix: EQ}\n", "12: matching.layers.mix names EQ"),
    ],
)
def test_what_several_keys_are_wrong_about_is_told_at_the_line_of_the_first(written: str, instead: str, said: str, tmp_path: Path) -> None:
    assert GOOD.count(written) == 1
    path = write(tmp_path, GOOD.replace(written, instead))
    with pytest.raises(StudyError) as told:
        load_study(path)
    assert str(told.value).startswith(f"{path}:{said}")


def test_relative_paths_are_relative_to_the_study_file(tmp_path: Path) -> None:
    text = GOOD.replace("{kind: installed_docs}", "{kind: files, paths: [data/*.jsonl]}")
    source = load_study(write(tmp_path, text)).sources["prose"]
    assert source.paths == (str(tmp_path / "data/*.jsonl"),)  # type: ignore[union-attr]


def test_a_relative_sae_and_folders_beside_the_study_are_found_from_everywhere(tmp_path: Path) -> None:
    for folder in ("mirror", "encoder"):
        (tmp_path / folder).mkdir()
    rerank = "rerank: {sae: ../saes/general, keep: 5}"
    text = GOOD.replace(
        "{kind: installed_docs}",
        f"{{kind: huggingface, dataset: mirror}}\n  few: {{kind: retrieved, source: prose, keywords: [a], method: dense, encoder: encoder, top: 9, {rerank}}}",
    )
    sources = load_study(write(tmp_path, text)).sources
    assert sources["prose"].dataset == str(tmp_path / "mirror")  # type: ignore[union-attr]
    assert sources["few"].encoder == str(tmp_path / "encoder")  # type: ignore[union-attr]
    assert sources["few"].rerank.sae == str(tmp_path.parent / "saes/general")  # type: ignore[union-attr]


def test_hub_ids_stay_as_they_are(tmp_path: Path) -> None:
    text = GOOD.replace("{kind: installed_docs}", "{kind: huggingface, dataset: lab/notes}").replace("model: bundled", "model: lab/model")
    text = text.replace("sources:", "sources:\n  few: {kind: retrieved, source: prose, keywords: [a], method: dense, encoder: subject, top: 9}")
    study = load_study(write(tmp_path, text))
    assert (study.subject.model, study.sources["prose"].dataset, study.sources["few"].encoder) == ("lab/model", "lab/notes", "subject")  # type: ignore[union-attr]


def test_a_ready_made_source_is_what_writing_it_out_would_be(tmp_path: Path) -> None:
    def loaded(source: str) -> Source:
        return load_study(write(tmp_path, GOOD.replace("{kind: installed_docs}", source))).sources["prose"]

    written_out = loaded("{kind: huggingface, dataset: Salesforce/wikitext, config: wikitext-103-raw-v1, split: train, text_field: text}")
    assert loaded("{preset: wikitext}") == written_out
    changed = loaded("{preset: wikitext, split: test, window: {take: 5}}")
    assert changed == written_out.model_copy(update={"split": "test", "window": Window(take=5)})
    assert loaded("{preset: lima, chat: {template: alpaca}}").chat == Chat(template="alpaca")  # type: ignore[union-attr]
    without_chat = loaded("{preset: lima, text_field: source}")
    assert (without_chat.chat, without_chat.text_field) == (None, "source")  # type: ignore[union-attr]
    with_chat = loaded("{preset: c4, chat: {field: turns}}")
    assert with_chat.chat == Chat(field="turns")  # type: ignore[union-attr]


CASES = [
    ("unknown key", ("layers: [1, 3]", "layerz: [1, 3]"), [":10:", "activations.layerz", "did you mean 'layers'"]),
    ("unknown section", ("name: example", "name: example\ncolour: red"), [":2:", "unknown key 'colour'", "allowed here: name"]),
    ("missing key", (", tokens: 200000", ""), [":10:", "activations", "'tokens' is missing"]),
    ("wrong type", ("tokens: 200000", "tokens: many"), [":10:", "activations.tokens", "integer", "'many'"]),
    ("unknown kind", ("kind: installed_docs", "kind: hub"), [":4:", "sources.prose", "huggingface"]),
    ("unknown architecture", ("architecture: topk", "architecture: topkk"), [":14:", "saes.arms[0].architecture", "batchtopk"]),
    ("shares not one", ("instructions: 0.3}", "instructions: 0.4}"), ["mixes", "PRE", "sum to 1, found 1.1"]),
    ("share above one", ("prose: 0.7", "prose: 1.7"), ["mixes.PRE.prose", "less than or equal to 1", "1.7"]),
    ("missing source", ("prose: 1.0", "prosa: 1.0"), ["'prosa'", "not declared", "declared are: prose, instructions"]),
    ("wrong sparsity field", ("topk, k: 16", "topk, target_l0: 16"), [":14:", "needs 'k'"]),
    ("k not positive", ("topk, k: 16", "topk, k: 0"), [":14:", "k must be positive", "found 0"]),
    ("no k", ("topk, k: 16", "topk, k: []"), [":14:", "k must be positive", "found []"]),
    ("no mix", ("topk, k: 16", "topk, k: 16, only: {mixes: []}"), [":14:", "mixes", "at least 1"]),
    ("not its own setting", ("topk, k: 16", "topk, k: 16, matryoshka_shares: [0.5, 1]"), [":14:", "matryoshka_shares is read by matryoshka only"]),
    ("negative seed", ("seeds: [0, 1]", "seeds: [-1]"), [":14:", "saes.arms[0].seeds", "greater than or equal to 0", "-1"]),
    ("repeated seed", ("seeds: [0, 1]", "seeds: [0, 0]"), [":14:", "seeds must be distinct"]),
    ("seed beyond 63 bits", ("seeds: [0, 1]", "seeds: [99999999999999999999]"), [":14:", "saes.arms[0].seeds"]),
    ("true for a number", ("topk, k: 16", "topk, k: true"), [":14:", "k: expected a value other than true or false"]),
    ("expansion that is no number", ("expansions: [4, 8]", "expansions: [.nan]"), [":12:", "saes.expansions", "finite"]),
    ("expansions with one name", ("expansions: [4, 8]", "expansions: [3.3, 3.3000001]"), [":12:", "distinct in their first six digits"]),
    ("repeated layer", ("layers: [1, 3]", "layers: [1, 1]"), [":10:", "distinct"]),
    ("negative layer", ("layers: [1, 3]", "layers: [-1]"), [":10:", "from 0 upwards"]),
    ("zero expansion", ("expansions: [4, 8]", "expansions: [0, 8]"), [":12:", "positive"]),
    ("no arms", ("  arms:\n    - {architecture: topk, k: 16, seeds: [0, 1]}\n    - {architecture: relu, target_l0: 16, only: {expansions: [8]}}\n", "  arms: []\n"), [":13:", "saes.arms", "at least 1"]),
    ("only names nothing", ("only: {expansions: [8]}", "only: {expansions: [9]}"), ["names 9", "4.0, 8.0"]),
    ("budget above corpus", ("tokens: 200000}", "tokens: 100000}"), ["200000 training tokens", "activations.tokens is 100000"]),
    ("bad name", ("name: example", "name: my study"), [":1:", "name"]),
    ("name taken", ("PRE: {", "held_out: {"), ["mixes.held_out", "taken"]),
    ("duplicate key", ("  PRE: {prose: 0.7, instructions: 0.3}\n", "  PRE: {prose: 0.7, instructions: 0.3}\n  PRE: {prose: 1.0}\n"), [":8:", "mixes.PRE", "once"]),
    ("not yaml", ("mixes:", "mixes: ["), ["expected YAML"]),
    ("bad device", ("subject:", "compute: {device: tpu}\nsubject:"), [":2:", "compute.device", "'tpu'"]),
    ("heads", ("{model: bundled}", "{model: bundled, bundled: {n_heads: 3}}"), ["n_heads must divide d_model"]),
    ("bundled section for another model", ("{model: bundled}", "{model: gpt2, bundled: {n_layers: 2}}"), [":2:", "needs model: bundled"]),
    ("unknown preset", ("{kind: installed_docs}", "{preset: limo}"), [":4:", "sources.prose.preset", "'limo'", "did you mean 'lima'", "wikitext"]),
    ("preset of another type", ("{kind: installed_docs}", "{preset: [lima]}"), [":4:", "sources.prose.preset", "expected a ready-made source"]),
    ("unknown key beside a preset", ("{kind: installed_docs}", "{preset: lima, spilt: test}"), [":4:", "sources.prose.spilt", "did you mean 'split'"]),
    ("wrong value beside a preset", ("{kind: installed_docs}", "{preset: lima, split: 7}"), [":4:", "sources.prose.split", "7"]),
    ("unknown key in a window", ("{kind: installed_docs}", "{preset: c4, window: {skop: 1}}"), [":4:", "prose.window.skop", "allowed here: skip, take"]),
    ("unknown key in a filter", ("{kind: installed_docs}", "{preset: c4, filters: [{field: a, equal: 1}]}"), [":4:", "filters[0].equal", "did you mean 'equals'"]),
    ("unknown key of a kind", ("{kind: installed_docs}", "{kind: installed_docs, paths: [a]}"), [":4:", "prose.paths", "allowed here: kind, packages, preset"]),
    ("source with the name of a key", ("prose: {kind: installed_docs}", "window: {kind: installed_docs, skip: 1}"), [":4:", "window.skip", "packages"]),
    ("bad expression", ("{kind: installed_docs}", "{preset: c4, filters: [{field: a, matches: '('}]}"), [":4:", "filters[0]", "regular expression"]),
    ("unknown key for retrieval", ("{kind: installed_docs}", "{kind: retrieved, source: a, keywords: [a], top: 1, rerank: {sae: a, kept: 1}}"), [":4:", "rerank.kept", "did you mean 'keep'"]),
    ("bad cron", ("subject:", "schedules: {report: daily}\nsubject:"), [":2:", "five fields", "'daily'"]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
def test_a_mistake_is_told_where_what_and_what_is_allowed(tmp_path: Path, change: tuple[str, str], expected: list[str]) -> None:
    assert change[0] in GOOD
    with pytest.raises(StudyError) as error:
        load_study(write(tmp_path, GOOD.replace(change[0], change[1], 1)))
    for part in ["study.yaml", *expected]:
        assert part in str(error.value), str(error.value)


@pytest.mark.parametrize("content", ["", "[]", "just text"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, content: str) -> None:
    with pytest.raises(StudyError, match="expected a mapping"):
        load_study(write(tmp_path, content))


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="none that can be read"):
        load_study(tmp_path / "nowhere.yaml")


def test_the_manual_page_is_written_from_the_schema_and_shows_every_section() -> None:
    from sae_pipeline.study import manual, schema, text_sections, training_sections
    from sae_pipeline.study.section import Section

    assert (Path(__file__).parents[2] / "docs/study-file.md").read_text() == manual.page()
    declared = [value for module in (schema, text_sections, training_sections) for value in vars(module).values()]
    sections = {value for value in declared if isinstance(value, type) and issubclass(value, Section)}
    assert sections - {shown for _, shown in manual.PAGES} == {Section, text_sections.Records}  # two bases, no sections


def test_every_training_default_can_be_overridden_in_an_arm_within_the_same_limits() -> None:
    from pydantic import ValidationError

    from sae_pipeline.study.training_sections import ArmGroup, TrainingDefaults

    for name in TrainingDefaults.model_fields:
        arm = {"architecture": "matryoshka" if name == "matryoshka_shares" else "topk", "k": 4}
        ArmGroup(**arm, **{name: getattr(TrainingDefaults(), name)})
        for section, others in ((TrainingDefaults, {}), (ArmGroup, arm)):
            with pytest.raises(ValidationError) if name != "tilt" else contextlib.nullcontext():
                section.model_validate({name: -1, **others})  # no setting but a tilt may be -1


def test_an_expansion_is_the_same_cell_however_its_number_is_written(tmp_path: Path) -> None:
    from sae_pipeline.study import cell

    study = load_study(write(tmp_path, GOOD))
    point, expansion = study.hook_points[0], study.saes.expansions[0]
    mix = next(iter(study.mixes))
    assert float(expansion).is_integer()
    assert cell(study, mix, point, int(expansion)) == cell(study, mix, point, float(expansion))
    assert isinstance(cell(study, mix, point, int(expansion)).expansion, float)
